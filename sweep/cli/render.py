"""Tables for a terminal: the leaderboard, search spaces, jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from seqsweep.results.schema import EpochRecord, TrialRecord
from seqsweep.search_spaces import Hparam
from seqsweep.search_spaces.describe import Row
from seqsweep.sweep.study.attributes import TrialAttributes

COLUMNS = ("rank", "trial", "state", "model", "residual", "loss")
SPARE = ("valid.hr@10", "test.hr@10", "epochs", "best_epoch", "loss", "seconds", "rank", "state", "residual")
SPARE_OF_COMPARISON = (
    "failed",
    "num_parameters",
    "device_hours",
    "trials",
    "comparable",
    "metric",
    "baseline",
)
SPARE_METRICS = ("ndcg@1", "hr@1", "ndcg@5", "hr@5", "ndcg@20", "hr@20")
SEEDS = "over seeds"
WRAPPED = ("error", "protocol", "path")
TRIAL_FACTS = (
    "trial",
    "state",
    "stopped_because",
    "objective",
    "best_epoch",
    "epochs",
    "num_parameters",
    "seconds",
    "device_seconds",
    "peak_memory_bytes",
    "started_at",
    "ended_at",
    "node",
    "device",
    "attempts",
    "retry_of",
    "error",
)
COUNTS = ("best_epoch", "epochs", "seconds")


def table_of(frame: pd.DataFrame, width: int | None = None, spare: Sequence[str] = ()) -> Table:
    """Columns in `spare` are left out one by one, the first first, until all fit into `width` characters."""
    cells = {name: [_named_cell(name, value) for value in frame[name]] for name in frame.columns}
    room = {
        name: min(max(map(len, (name, *column))), 30 if name in WRAPPED else 999) + 2
        for name, column in cells.items()
    }
    for name in spare:
        if width is not None and sum(room.values()) - 2 > width and name in room:
            del room[name], cells[name]
    table = Table(box=None, pad_edge=False)
    for name in cells:
        left = frame[name].dtype in ("string", "object") and name != SEEDS
        table.add_column(name, justify="left" if left else "right", no_wrap=name not in WRAPPED)
    for row in zip(*cells.values(), strict=True):
        table.add_row(*map(Text, row))  # what is in brackets is no markup
    return table


def leaderboard_columns(frame: pd.DataFrame, objective: str) -> pd.DataFrame:
    """What is looked at first; test metrics beside the objective's validation."""
    metric = objective.removeprefix("valid.")
    hit_rates = [] if "seeds" in frame or metric.startswith("hr") else ["valid.hr@10", "test.hr@10"]
    shown = [*COLUMNS, objective, f"test.{metric}", *hit_rates, *COUNTS, "error"]
    if "seeds" in frame:
        frame = frame.copy()
        frame[SEEDS] = [_over_seeds(row, objective) for _, row in frame.iterrows()]
        shown.insert(shown.index(objective) + 1, SEEDS)
    return frame[shown].dropna(axis="columns", how="all")


def comparison_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Of `compare_studies`, what fits beside each other. Each study's own metric is meant."""
    rows = [
        {
            "study": row["study"],
            "model": row["model"],
            "metric": row["metric"].removeprefix("valid."),
            "valid": row["objective"],
            SEEDS: _over_seeds(row, row["metric"]),
            "test": row[row["metric"].replace("valid.", "test.")],
            "baseline": row["baseline"],
            "trials": row["trials"],
            "failed": row["failed"],
            "device_hours": row["device_hours"],
            "num_parameters": row["num_parameters"],
            "comparable": "yes" if row["comparable"] else "no",
        }
        for _, row in frame.iterrows()
    ]
    return pd.DataFrame(rows).dropna(axis="columns", how="all")


def _over_seeds(row: pd.Series[Any], objective: str) -> str | None:
    """Of a finalist: mean, deviation and number of its trainings."""
    if pd.isna(row["seeds"]):
        return None
    std = row[f"{objective}.std"]
    spread = "" if pd.isna(std) else f" ± {std:.4f}"
    return f"{row[f'{objective}.mean']:.4f}{spread} ({row['seeds']:.0f})"


def trial_view(
    record: TrialRecord, epochs: Sequence[EpochRecord], attributes: TrialAttributes, width: int
) -> Iterator[Table | str]:
    """One trial: facts and hparams, its epochs, and why it failed."""
    facts = Table("", "", show_header=False, box=None, pad_edge=False)
    for name in TRIAL_FACTS:
        value = getattr(record, name)
        if value is not None:
            facts.add_row(name, _cell(value))
    for name, hparam in sorted(record.hparams.items()):
        facts.add_row(f"hparam.{name}", str(hparam))
    for reason in attributes.get("interruptions", []):
        facts.add_row("interrupted", str(reason).partition("\n")[0])
    yield facts
    if epochs:
        rows = [
            {
                "epoch": epoch.epoch,
                "loss": epoch.loss,
                **epoch.valid,
                "lr": "–" if epoch.lr is None else f"{epoch.lr:.2g}",
                "seconds": epoch.seconds,
            }
            for epoch in epochs
        ]
        yield table_of(pd.DataFrame(rows), width, SPARE_METRICS)
    if "error" in attributes:
        yield attributes["error"]["traceback"] or attributes["error"]["message"]


def space_table(name: str, rows: Sequence[Row]) -> Table:
    table = Table("hparam", "values", "only if", title=name, title_justify="left", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row.name, row.values, row.condition)
    return table


def points_table(name: str, points: Sequence[Mapping[str, Hparam]]) -> Table:
    """One column a point that is tried first."""
    title = f"{name}: tried first"
    table = Table("hparam", title=title, title_justify="left", box=None, pad_edge=False)
    for number in range(1, len(points) + 1):
        table.add_column(f"point {number}")
    for key in dict.fromkeys(key for point in points for key in point):
        table.add_row(key, *(str(point.get(key, "")) for point in points))
    return table


def _cell(value: object) -> str:
    if pd.isna(value):  # type: ignore[call-overload]
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1 else f"{value:.1f}"
    return str(value)


def _named_cell(name: str, value: object) -> str:
    if name.startswith("hparam.") and isinstance(value, float) and not pd.isna(value):
        return f"{value:.3g}"  # a learning rate of 3e-5 is not 0
    return _cell(value)


def jobs_table(rows: Sequence[tuple[str, str, str]]) -> Table:
    """Study, state and since when."""
    table = Table(box=None, pad_edge=False)
    for name in ("study", "state", "since"):
        table.add_column(name)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
