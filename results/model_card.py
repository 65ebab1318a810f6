"""`best/README.md`: what to know of a model before it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from seqsweep.results.leaderboard import StudyFacts
from seqsweep.results.metrics import METRICS
from seqsweep.results.schema import TrialRecord

LIMIT_OF_SPLIT = {
    "leave_one_out": "Leave-one-out mixes times: some users' training lies after other users' targets, which "
    "is kinder than recommending into the future.",
    "temporal": "The targets lie in one stretch of time; in another the values may come out otherwise.",
}


def model_card(
    record: TrialRecord,
    facts: StudyFacts,
    data: Mapping[str, object],
    over_seeds: Sequence[float] = (),
    *,
    intervals: Mapping[str, float | None] | None = None,
    references: Sequence[TrialRecord] = (),
    found: Mapping[str, object] | None = None,
) -> str:
    """What to know before the model is used.

    over_seeds: the objective of each training of the same hyperparameters, where a finalist won. intervals:
    `test.ndcg@10.low`, `.high` and so on, as the leaderboard names them; of a finalist over its trainings.
    references: baselines and ceilings. found: how the study came upon it.
    """
    sections = [
        f"# {record.model or 'Model'}, trial {record.trial} of study {facts.study}",
        f"Chosen for the best {facts.objective}, at epoch {record.best_epoch}; {_parameters(record)}.",
        "## Use",
        USE.format(study=facts.study),
        "## Data",
        _table(("fact", "value"), [*data.items(), ("fingerprint", facts.fingerprint)]),
        "## Protocol",
        facts.protocol,
        *_in_words(facts.protocol),
        "## Metrics",
        _metrics_table(record, intervals or {}),
        *([INTERVALS_OF_SEEDS if over_seeds else INTERVALS_OF_USERS] if intervals else []),
        *_over_seeds(facts.objective, over_seeds),
        *_references(record, references),
        "## Hyperparameters",
        _table(("name", "value"), sorted(record.hparams.items())),
        *(["## How it was found", _table(("of the study", ""), list(found.items()))] if found else []),
        "## Intended use",
        INTENDED_USE,
        "## Known limits",
        "\n".join(f"* {limit}" for limit in _limits(facts.protocol)),
        "## Made with",
        _table(("package", "version"), sorted(facts.versions.items())),
    ]
    return "\n\n".join(sections) + "\n"


USE = """```python
from seqsweep import load_model

model = load_model("runs/{study}/best")  # this folder
model.recommend([model.item_ids[:3]], times=[[0, 60, 120]], k=10)  # raw item ids, oldest first
```

`seqsweep recommend {study} --out recommendations.parquet` recommends to all users of
the log, `seqsweep evaluate {study}` measures it again."""

INTENDED_USE = (
    "Ranking the items of a catalogue by how likely each is the next in a user's sequence: to fill a list of "
    "recommendations, or as the first step before another ranker. Not for users without any "
    "interaction with a known item, nor for decisions about people."
)
INTERVALS_OF_USERS = "The intervals are 95 % ones over users (bootstrap), of this one training."
INTERVALS_OF_SEEDS = (
    "The values are those of the exported training; the means and their 95 % intervals are over users and "
    "over the trainings of the same hyperparameters (bootstrap)."
)


def _metrics_table(record: TrialRecord, intervals: Mapping[str, float | None]) -> str:
    measured = [name for name in METRICS if name in record.valid or name in record.test]
    has_mean = any(
        intervals.get(f"{split}.{name}.std") is not None for split in ("valid", "test") for name in measured
    )
    rows = []
    for name in measured:
        row: tuple[object, ...] = (name,)
        for split, values in (("valid", record.valid), ("test", record.test)):
            row += (_decimals(values.get(name)),)
            if intervals:
                low, high = (_decimals(intervals.get(f"{split}.{name}.{end}")) for end in ("low", "high"))
                mean = f"{_decimals(intervals.get(f'{split}.{name}.mean'))}: " if has_mean else ""
                row += (f"{mean}{low} to {high}",)
        rows.append(row)
    of_interval = "mean: 95 %" if has_mean else "95 %"
    header = (
        "metric",
        *(head for split in ("valid", "test") for head in (split, of_interval)[: 1 + bool(intervals)]),
    )
    return _table(header, rows)


def _references(record: TrialRecord, references: Sequence[TrialRecord]) -> list[str]:
    """The floor and the ceiling, by what is usually read."""
    if not references:
        return []
    names = ("valid.ndcg@10", "test.ndcg@10", "test.hr@10", "test.mrr")

    def row(label: str, each: TrialRecord) -> tuple[str, ...]:
        values = {"valid": each.valid, "test": each.test}
        picked = (name.split(".", 1) for name in names)
        return (label, *(_decimals(values[split].get(metric)) for split, metric in picked))

    rows = [row("this model", record), *(row(f"{each.state} {each.model}", each) for each in references)]
    return ["## Beside it", _table(("", *names), rows)]


def _in_words(protocol: str) -> list[str]:
    """What the line says, for readers who do not know the terms."""
    split = (
        "Each user's last interaction is the test target, the one before it the validation target; the "
        "rest trains."
        if protocol.startswith("leave_one_out")
        else "Two times part the log: what is before the first trains, a user's first interaction between "
        "them is the validation target, the first after the second the test target."
    )
    ranking = (
        "A target is ranked among all items"
        if "ranking=full" in protocol
        else "A target is ranked among sampled items (values are higher than among all items)"
    )
    seen = (
        "without those that the user had before."
        if protocol.endswith("seen items removed")
        else "those that the user had before among them."
    )
    return [f"{split} {ranking}, {seen}"]


def _limits(protocol: str) -> list[str]:
    return [
        "It can only recommend the items in `item_ids.parquet`: those seen in the log it was trained on.",
        "The validation values are those of the best epoch, and after a search of the best trial, and "
        "therefore optimistic; the test values were computed once, after the choice.",
        *(limit for split, limit in LIMIT_OF_SPLIT.items() if protocol.startswith(split)),
        "Offline accuracy is measured on what users chose by themselves, not on how they answer "
        "recommendations.",
    ]


def _over_seeds(objective: str, values: Sequence[float]) -> list[str]:
    if not values:
        return []
    spread = f", standard deviation {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    each = ", ".join(f"{value:.4f}" for value in values)
    text = (
        f"These hyperparameters were trained with {len(values)} fresh seeds: {objective} {each}; mean "
        f"{np.mean(values):.4f}{spread}. Finalists are ranked by that mean, and this is the best of these "
        "trainings. `leaderboard.parquet` has the intervals, for test metrics too."
    )
    return ["## Over seeds", text]


def _parameters(record: TrialRecord) -> str:
    if record.num_parameters is None:
        return "number of parameters not recorded"
    return f"{record.num_parameters:,} parameters"


def _decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _table(header: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
