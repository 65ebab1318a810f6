"""Studies' folders for tests of reports, written without training anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, create_trial

from seqsweep.results.leaderboard import (
    EPOCHS_FILE,
    FINALISTS_FILE,
    LEADERBOARD_FILE,
    StudyFacts,
    build_epochs,
    build_finalists,
    build_leaderboard,
    write_table,
)
from seqsweep.results.report.content import StudyFolder
from seqsweep.results.schema import EpochRecord, TrialRecord

FACTS = StudyFacts(
    study="mine",
    fingerprint="3f2a" * 8,
    objective="valid.ndcg@10",
    protocol="leave_one_out, ranking=full",
    versions={"seqsweep": "0.1.0"},
)
BEGAN = datetime(2026, 1, 2, 12, tzinfo=UTC)
DATA = {
    "origin": "ratings.csv",
    "counts": [
        {"step": "read", "num_rows": 100_000, "num_users": 943, "num_items": 1682},
        {"step": "min_rating", "num_rows": 55_375, "num_users": 942, "num_items": 1447},
    ],
    "num_users": 942,
    "num_items": 1447,
    "num_interactions": 55_375,
    "has_timestamps": True,
    "lengths": [["3-4", 40], ["5-9", 900]],
    "popularity": [["1", 300], ["2", 1147]],
    "tie_share": 0.44,
    "repeat_share": 0.0,
    "head_share": 0.125,
}
DISTRIBUTIONS = {
    "sasrec.lr": FloatDistribution(1e-4, 1e-2, log=True),
    "sasrec.hidden_dim": IntDistribution(16, 64),
    "sasrec.loss": CategoricalDistribution(["ce", "bce"]),
}
BASELINES = [
    TrialRecord(None, "baseline", 0.08, model="markov", valid={"ndcg@10": 0.08}, test={"ndcg@10": 0.07}),
    TrialRecord(
        None, "baseline", 0.03, model="most_popular", valid={"ndcg@10": 0.03}, test={"ndcg@10": 0.03}
    ),
]
CEILING = TrialRecord(
    None, "ceiling", 0.6, model="time_aware_ceiling", valid={"ndcg@10": 0.6}, test={"ndcg@10": 0.6}
)


def searched(num_trials: int) -> list[TrialRecord]:
    """Every third trial was pruned; the value rises with lr alone."""
    generator = np.random.default_rng(0)
    records = []
    for number in range(num_trials):
        lr = float(10 ** generator.uniform(-4, -2))
        value = 0.1 + 0.02 * np.log10(lr / 1e-4)
        ended = BEGAN + timedelta(minutes=number + 1)
        records.append(
            TrialRecord(
                trial=number,
                state="pruned" if number % 3 == 1 else "complete",
                objective=value,
                model="sasrec",
                loss=("ce", "bce")[number % 2],
                hparams={
                    "lr": lr,
                    "hidden_dim": int(generator.integers(16, 65)),
                    "loss": ("ce", "bce")[number % 2],
                },
                valid={"ndcg@10": value, "hr@10": 2 * value},
                best_epoch=3,
                epochs=3 if number % 3 == 1 else 6,
                num_parameters=10_000 + 500 * number,
                seconds=10.0 + number,
                device_seconds=10.0 + number,
                started_at=ended - timedelta(seconds=50),
                ended_at=ended,
            )
        )
    return records


def as_finalists(records: Sequence[TrialRecord], *numbers: int) -> list[TrialRecord]:
    spread = {f"{part}.ndcg@10.{what}": 0.1 for part in ("valid", "test") for what in ("mean", "std")}
    edges = {
        f"{part}.ndcg@10.{what}": value
        for part in ("valid", "test")
        for what, value in (("low", 0.09), ("high", 0.12))
    }
    return [
        replace(record, seeds=2, spread={**spread, **edges}, test={"ndcg@10": 0.1})
        if record.trial in numbers
        else record
        for record in records
    ]


def failed(number: int, error: str) -> TrialRecord:
    return TrialRecord(trial=number, state="failed", model="sasrec", hparams={"lr": 1.0}, error=error)


def optuna_trials(records: Sequence[TrialRecord]) -> list[FrozenTrial]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for record in records:
        params = {name: record.hparams[name.removeprefix("sasrec.")] for name in DISTRIBUTIONS}
        study.add_trial(create_trial(params=params, distributions=DISTRIBUTIONS, value=0.0))
    return study.get_trials()


def write_study(
    folder: Path,
    records: Sequence[TrialRecord],
    *,
    facts: StudyFacts = FACTS,
    data: Mapping[str, object] | None = DATA,
    objectives: Mapping[str, str] | None = None,
    with_trials: bool = True,
) -> StudyFolder:
    """The tables that a driver would have written."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(build_leaderboard(records, facts.objective), folder / LEADERBOARD_FILE, facts)
    ranked = [record for record in records if record.trial is not None and record.objective is not None]
    epochs = [
        EpochRecord(record.trial, epoch, objective=record.objective * (1 - 0.5 / epoch))
        for record in ranked
        for epoch in range(1, (record.epochs or 0) + 1)
        if record.trial is not None and record.objective is not None
    ]
    write_table(build_epochs(epochs), folder / EPOCHS_FILE, facts)
    if trained := [record for record in ranked if record.seeds is not None]:
        rows = [
            {"finalist_of": record.trial, "seed_index": seed, "trial": 100 + seed, "state": "complete"}
            | {"exported": False, "objective": 0.1, "valid.ndcg@10": 0.09 + seed / 50, "test.ndcg@10": 0.1}
            for record in trained
            for seed in range(2)
        ]
        write_table(build_finalists(rows), folder / FINALISTS_FILE, facts)
    return StudyFolder(
        folder=folder,
        path=f"runs/{folder.name}",
        objectives=objectives or {facts.objective: "maximize"},
        num_trials=len(records),
        rungs={"sasrec": (3, 9)},
        trials=optuna_trials(ranked) if with_trials else (),
        data=data,
        split={"num_eval_users": 942},
        seed=0,
    )


def full_study(folder: Path) -> StudyFolder:
    """One that has something for every section but the front."""
    (folder / "best").mkdir(parents=True)
    (folder / "best" / "config.json").write_text("{}")
    records = [*as_finalists(searched(30), 3, 6), failed(30, "diverged: loss is nan at epoch 2")]
    return write_study(folder, [*records, *BASELINES, CEILING])


def front_study(folder: Path) -> StudyFolder:
    records = [replace(record, on_front=record.trial in (0, 3)) for record in searched(6)]
    objectives = {"valid.ndcg@10": "maximize", "num_parameters": "minimize"}
    return write_study(folder, [*records, *BASELINES], objectives=objectives)
