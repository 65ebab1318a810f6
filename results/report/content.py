"""What a report is made of: the tables of a study, and the facts that its journal keeps beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqsweep.results.leaderboard import EPOCHS_FILE, FINALISTS_FILE, LEADERBOARD_FILE, load_leaderboard
from seqsweep.results.schema import FAMILY

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

Row = Mapping[str, Any]  # of a table; None where there is nothing

MAX_DRAWN = 1000
ENDED = ("complete", "pruned", "failed")


@dataclass(frozen=True)
class StudyFolder:
    """Facts that are in no table. `path`: as a user would type it. `objectives`: column -> direction.

    `rungs`: model -> epochs at which it may be pruned. `trials`: of the search, as Optuna has them.
    `data`: facts of the prepared log; None where the study is older than they are.
    """

    folder: Path
    path: str
    objectives: Mapping[str, str]
    num_trials: int
    rungs: Mapping[str, Sequence[int]] = field(default_factory=dict)
    trials: Sequence[FrozenTrial] = ()
    data: Mapping[str, Any] | None = None
    split: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True)
class StudyContent:
    about: StudyFolder
    attrs: Mapping[str, Any]  # of the leaderboard's file
    rows: Sequence[Row]  # of the leaderboard
    epochs: Sequence[Row]
    finalists: Sequence[Row]  # one a training

    @property
    def name(self) -> str:
        return str(self.attrs["study"])

    @property
    def objective(self) -> str:
        """The column that trials are ranked by."""
        return str(self.attrs["objective"])

    @property
    def metric(self) -> str:
        return self.objective.removeprefix("valid.")

    @cached_property
    def trials(self) -> list[Row]:
        return [row for row in self.rows if row["trial"] is not None]

    @cached_property
    def ranked(self) -> list[Row]:
        return [row for row in self.trials if row["rank"] is not None]

    @cached_property
    def drawn(self) -> list[Row]:
        """For plots that show the trials many times, each point an element of the page: evenly by rank."""
        return self.ranked[:: math.ceil(len(self.ranked) / MAX_DRAWN) or 1]

    @property
    def best(self) -> Row | None:
        return self.ranked[0] if self.ranked else None

    def in_state(self, state: str) -> list[Row]:
        return [row for row in self.rows if row["state"] == state]

    @cached_property
    def hparams(self) -> list[str]:
        """Columns of what differs between the drawn trials that have it."""
        columns = [*FAMILY, *(name for name in (self.rows[0] if self.rows else {}) if is_hparam(name))]
        seen = {name: {row[name] for row in self.drawn if row[name] is not None} for name in columns}
        return [name for name in columns if len(seen[name]) > 1]

    @cached_property
    def drawn_hparams(self) -> list[str]:
        """Of `hparams`: those of which a drawn trial has a value that a plot can show."""
        return [name for name in self.hparams if any(drawable(row[name]) is not None for row in self.drawn)]

    @cached_property
    def log_scaled(self) -> frozenset[str]:
        """Of `hparams`: those that are searched on a logarithmic scale."""
        logs = {
            name.rpartition(".")[2]
            for trial in self.about.trials
            for name, distribution in trial.distributions.items()
            if getattr(distribution, "log", False)
        }
        return frozenset(name for name in self.hparams if name.removeprefix("hparam.") in logs)

    @cached_property
    def families(self) -> list[str]:
        return sorted({str(row["model"]) for row in self.trials if row["model"] is not None})


def read_content(about: StudyFolder) -> StudyContent:
    """Raises FileNotFoundError for a study without a leaderboard."""
    leaderboard = load_leaderboard(about.folder / LEADERBOARD_FILE)
    return StudyContent(
        about=about,
        attrs={str(key): value for key, value in leaderboard.attrs.items()},
        rows=_rows(leaderboard),
        epochs=_table(about.folder / EPOCHS_FILE, ["trial", "epoch", "objective"]),
        finalists=_table(about.folder / FINALISTS_FILE),
    )


def _table(path: Path, columns: Sequence[str] | None = None) -> list[Row]:
    if not path.is_file():
        return []
    frame = load_leaderboard(path)
    return _rows(frame if columns is None else frame[list(columns)])


def _rows(frame: Any) -> list[Row]:
    plain = frame.astype(object).where(frame.notna(), None)
    rows: list[Row] = plain.to_dict("records")
    return rows


def is_hparam(column: str) -> bool:
    return column.startswith("hparam.")


def finite(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def drawable(value: Any) -> Any:
    """Of a hparam in a plot: an infinite one has no place there, and JSON no word for it."""
    return finite(value) if isinstance(value, float) else value


def short_name(column: str) -> str:
    return column.removeprefix("hparam.")


def total(rows: Sequence[Row], column: str) -> float:
    return float(sum(row[column] or 0.0 for row in rows))


def interval(row: Row, column: str) -> str:
    """95 %, around a finalist's mean; "" where there is none."""
    low, high = row.get(f"{column}.low"), row.get(f"{column}.high")
    return "" if low is None or high is None else f"{low:.4f} to {high:.4f}"


def part_drawn(content: StudyContent) -> str:
    """Of a long search not all are drawn."""
    few, all_ = len(content.drawn), len(content.ranked)
    return "" if few == all_ else f" ({few:,} of {all_:,}, evenly by rank)"
