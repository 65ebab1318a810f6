"""Columns of the two tables a study writes; `docs/leaderboard.md` explains each one to a reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import pyarrow as pa

from seqsweep.results.metrics import METRICS

SCHEMA_VERSION = 1  # the schema only ever grows: a column is never renamed, retyped or given another meaning

Hparam = int | float | str | bool
State = Literal["complete", "pruned", "running", "queued", "failed", "baseline", "ceiling"]

FAMILY = ("model", "residual", "loss")  # hparams with a column of their own, shared with the baselines


@dataclass(frozen=True)
class TrialRecord:
    trial: int | None  # Optuna's number; None for baselines and ceilings
    state: State
    objective: float | None = None
    model: str | None = None
    residual: str | None = None
    loss: str | None = None
    hparams: Mapping[str, Hparam] = field(default_factory=dict)
    valid: Mapping[str, float] = field(default_factory=dict)  # names as in METRICS
    test: Mapping[str, float] = field(default_factory=dict)
    best_epoch: int | None = None
    epochs: int | None = None
    num_parameters: int | None = None
    seconds: float | None = None
    device_seconds: float | None = None
    eval_seconds: float | None = None
    peak_memory_bytes: int | None = None
    milliseconds_per_user: float | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    node: str | None = None
    device: str | None = None
    attempts: int | None = None
    retry_of: int | None = None  # the failed trial whose hparams were queued again
    stopped_because: str | None = None  # pruned, but not for its values: stopped_by_user, time_limit
    error: str | None = None
    checkpoint: str | None = None
    on_front: bool | None = None  # with several objectives: no other trial is better in all of them
    seeds: int | None = None  # of a finalist: its trainings that came to their end
    spread: Mapping[str, float | None] = field(default_factory=dict)  # of a finalist: valid.ndcg@10.mean ..

    def __post_init__(self) -> None:
        _refuse_unknown_metrics(self.valid, self.test)
        for name, moment in (("started_at", self.started_at), ("ended_at", self.ended_at)):
            if moment is not None and moment.tzinfo is None:
                raise ValueError(f"{name} must carry a time zone, got {moment!r}")


@dataclass(frozen=True)
class EpochRecord:
    trial: int
    epoch: int
    loss: float | None = None
    objective: float | None = None
    valid: Mapping[str, float] = field(default_factory=dict)
    lr: float | None = None
    seconds: float | None = None
    eval_seconds: float | None = None

    def __post_init__(self) -> None:
        _refuse_unknown_metrics(self.valid)


def _refuse_unknown_metrics(*groups: Mapping[str, float]) -> None:
    unknown = {name for group in groups for name in group} - METRICS.keys()
    if unknown:
        raise ValueError(f"metrics must be among {', '.join(METRICS)}, got {', '.join(sorted(unknown))}")


def leaderboard_schema(hparam_types: Mapping[str, pa.DataType], spread: Sequence[str] = ()) -> pa.Schema:
    """`spread` names the columns of the finalists, in order: none where no finalist was trained."""
    finalist_columns: dict[str, pa.DataType] = {}
    if spread:
        finalist_columns = {"seeds": pa.int32(), **{name: pa.float64() for name in spread}}
    columns: dict[str, pa.DataType] = {
        "rank": pa.int32(),
        "trial": pa.int32(),
        "state": pa.string(),
        "objective": pa.float64(),
        **{name: pa.string() for name in FAMILY},
        **{f"hparam.{name}": hparam_types[name] for name in sorted(hparam_types)},
        **_metric_columns("valid"),
        **_metric_columns("test"),
        **finalist_columns,
        "best_epoch": pa.int32(),
        "epochs": pa.int32(),
        "num_parameters": pa.int64(),
        "seconds": pa.float64(),
        "device_seconds": pa.float64(),
        "eval_seconds": pa.float64(),
        "peak_memory_bytes": pa.int64(),
        "milliseconds_per_user": pa.float64(),
        "started_at": pa.timestamp("us", tz="UTC"),
        "ended_at": pa.timestamp("us", tz="UTC"),
        "node": pa.string(),
        "device": pa.string(),
        "attempts": pa.int32(),
        "retry_of": pa.int32(),
        "stopped_because": pa.string(),
        "on_front": pa.bool_(),
        "error": pa.string(),
        "checkpoint": pa.string(),
    }
    return pa.schema(columns)


def finalists_schema() -> pa.Schema:
    """One row a training of a finalist."""
    columns: dict[str, pa.DataType] = {
        "finalist_of": pa.int32(),
        "seed_index": pa.int32(),
        "trial": pa.int32(),
        "state": pa.string(),
        "exported": pa.bool_(),
        "objective": pa.float64(),
        **_metric_columns("valid"),
        **_metric_columns("test"),
        "best_epoch": pa.int32(),
        "epochs": pa.int32(),
        "seconds": pa.float64(),
        "device_seconds": pa.float64(),
        "stopped_because": pa.string(),
        "checkpoint": pa.string(),
    }
    return pa.schema(columns)


def epochs_schema() -> pa.Schema:
    columns: dict[str, pa.DataType] = {
        "trial": pa.int32(),
        "epoch": pa.int32(),
        "loss": pa.float64(),
        "objective": pa.float64(),
        **_metric_columns("valid"),
        "lr": pa.float64(),
        "seconds": pa.float64(),
        "eval_seconds": pa.float64(),
    }
    return pa.schema(columns)


def _metric_columns(split: str) -> dict[str, pa.DataType]:
    return {f"{split}.{name}": pa.float64() for name in METRICS}
