"""What the terminal shows while a study runs: a live table, or plain lines where there is no terminal."""

import time
from collections.abc import Sequence
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from seqsweep.results.schema import TrialRecord
from seqsweep.sweep.study.finalists import ranked
from seqsweep.sweep.study.study import Study
from seqsweep.sweep.study.trial_request import LiveTrial

BARS = "▁▂▃▄▅▆▇█"
SECONDS_BETWEEN_FRAMES = 0.5
SECONDS_BETWEEN_LINES = 15.0
POINTS_SHOWN = 24


class Progress:
    """A View on a terminal or a file."""

    def __init__(self, console: Console, objective: str) -> None:
        self._console = console
        self._objective = objective
        self._live = (
            Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        )
        self._shown_at = float("-inf")
        self._started_at = time.monotonic()
        self._ended_at_start: int | None = None
        self._ended_numbers: set[int] | None = None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def step(self, study: Study) -> None:
        between = SECONDS_BETWEEN_FRAMES if self._live is not None else SECONDS_BETWEEN_LINES
        if time.monotonic() - self._shown_at < between:
            return
        self._shown_at = time.monotonic()
        records = study.records()
        if self._ended_at_start is None:
            self._ended_at_start = sum(record.state in ("complete", "pruned", "failed") for record in records)
        summary = self._summary(study, records)
        if self._live is None:
            self.say(" · ".join([summary, *map(_state, _by_number(study.live_trials()))]))
        else:
            self._live.update(Group(live_table(study.live_trials()), Text(summary)), refresh=True)

    def _summary(self, study: Study, records: Sequence[TrialRecord]) -> str:
        count = {
            state: sum(record.state == state for record in records)
            for state in ("complete", "pruned", "failed")
        }
        ended = sum(count.values())
        best = next(iter(ranked(records)), None)
        parts = [
            f"{ended} of {study.num_trials} trials",
            *(f"{number} {state}" for state, number in count.items() if number),
            f"{len(study.live)} running",
        ]
        if study.finalist_runs():
            parts.append(f"finalists: {study.race()}")
        if best is not None and best.objective is not None:
            parts.append(f"best valid {self._objective} {best.objective:.4f} (trial {best.trial})")
        left = self._seconds_left(study.num_trials, ended) if ended < study.num_trials else None
        return " · ".join(parts + ([f"about {duration(left)} left"] if left is not None else []))

    def _seconds_left(self, total: int, ended: int) -> float | None:
        """From the mean rate since this start; None before anything ended."""
        done = ended - (self._ended_at_start or 0)
        if done <= 0:
            return None
        return (time.monotonic() - self._started_at) / done * max(0, total - ended)


def live_table(trials: Sequence[LiveTrial]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("trial", "epoch", "last", "best"):
        table.add_column(heading, justify="right")
    table.add_column("model")
    table.add_column("epochs")
    for trial in _by_number(trials):
        values = [trial.objectives[epoch] for epoch in sorted(trial.objectives)]
        shown = [f"{values[-1]:.4f}", f"{max(values):.4f}"] if values else ["–", "–"]
        table.add_row(
            str(trial.number), str(trial.last_epoch), *shown, trial.family, sparkline(values[-POINTS_SHOWN:])
        )
    return table


def _by_number(trials: Sequence[LiveTrial]) -> list[LiveTrial]:
    return sorted(trials, key=lambda trial: trial.number)


def _state(trial: LiveTrial) -> str:
    if not trial.objectives:
        return f"trial {trial.number} begins"
    return f"trial {trial.number} at epoch {trial.last_epoch}: {max(trial.objectives.values()):.4f}"


def sparkline(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    step = (high - low) / (len(BARS) - 1) or 1.0
    return "".join(BARS[round((value - low) / step)] for value in values)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
