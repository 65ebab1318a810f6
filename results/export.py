"""The best model of a study as a folder of plain files; no pickle in anything written or read here."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy

from results.durable import sync
from results.leaderboard import StudyFacts
from results.metrics import METRICS
from results.schema import TrialRecord

Weights = Mapping[str, npt.NDArray[np.generic]]

WEIGHTS_FILE = "model.safetensors"

KNOWN_LIMITS = (
    "It can only recommend the items in `item_ids.parquet`: those seen in the log it was trained on.",
    "The validation values are those of the best of many trials and therefore optimistic; "
    "the test values were computed once, after the choice.",
    "Finitely many users: 6,000 of them leave a standard error of .004 NDCG@10 and .006 HR@10.",
    "Leave-one-out mixes times: some users' training lies after other users' targets, "
    "which is kinder than recommending into the future.",
    "Offline accuracy is measured on what users chose by themselves, not on how they answer recommendations.",
)


def export_best(
    folder: Path,
    *,
    weights: Weights,
    config: Mapping[str, object],
    item_ids: pa.Table,
    metrics: Mapping[str, object],
    card: str,
) -> Path:
    """Write `best/` in the study's folder and return it.

    A reader finds the old model, the new one, or for the moment between two renames none; never half of one.
    """
    best, staging, replaced = folder / "best", folder / ".best.staging", folder / ".best.replaced"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    # Without the "C" order a transposed view would be written in the order of its memory.
    arrays = {name: np.asarray(array, order="C") for name, array in weights.items()}
    safetensors.numpy.save_file(arrays, staging / WEIGHTS_FILE)
    (staging / "config.json").write_text(_json(config), encoding="utf-8")
    pq.write_table(item_ids, staging / "item_ids.parquet")
    (staging / "metrics.json").write_text(_json(metrics), encoding="utf-8")
    (staging / "README.md").write_text(card, encoding="utf-8")
    for path in (*staging.iterdir(), staging):
        sync(path)
    _swap_in(staging, best, replaced)
    return best


def _swap_in(staging: Path, best: Path, replaced: Path) -> None:
    if best.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(best, replaced)
    os.rename(staging, best)
    sync(best.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def load_weights(folder: Path) -> dict[str, npt.NDArray[np.generic]]:
    return dict(safetensors.numpy.load_file(folder / WEIGHTS_FILE))


def model_card(
    record: TrialRecord, facts: StudyFacts, data: Mapping[str, object], over_seeds: Sequence[float] = ()
) -> str:
    """`over_seeds`: the objective of each training of the same hyperparameters, where a finalist won."""
    measured = [name for name in METRICS if name in record.valid or name in record.test]
    sections = [
        f"# {record.model or 'Model'}, trial {record.trial} of study {facts.study}",
        f"Chosen for the best {facts.objective}, at epoch {record.best_epoch}; {_parameters(record)}.",
        "## Data",
        _table(("fact", "value"), [*data.items(), ("fingerprint", facts.fingerprint)]),
        "## Protocol",
        facts.protocol,
        "## Metrics",
        _table(
            ("metric", "valid", "test"),
            [
                (name, _decimals(record.valid.get(name)), _decimals(record.test.get(name)))
                for name in measured
            ],
        ),
        *_over_seeds(facts.objective, over_seeds),
        "## Hyperparameters",
        _table(("name", "value"), sorted(record.hparams.items())),
        "## Known limits",
        "\n".join(f"* {limit}" for limit in KNOWN_LIMITS),
        "## Made with",
        _table(("package", "version"), sorted(facts.versions.items())),
    ]
    return "\n\n".join(sections) + "\n"


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


def _json(content: Mapping[str, object]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
