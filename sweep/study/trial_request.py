"""What the study hands out: to a worker a request, to the driver a view of what a worker runs now."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import optuna

from seqsweep.results.schema import Hparam


@dataclass(frozen=True)
class TrialRequest:
    """What a worker is told. Plain data: it crosses the process border."""

    trial_number: int
    attempt: int  # from 1
    hparams: dict[str, Hparam]
    seed: int
    last_epoch: int  # the largest that the study knows, 0 if none
    micro_batch_size: int | None = None  # of the batch_size, a forward pass; None: the whole batch
    is_finalist: bool = False


@dataclass
class LiveTrial:
    """A trial that a worker runs now."""

    trial: optuna.Trial
    hparams: Mapping[str, Hparam]
    objectives: dict[int, float]  # by epoch
    finalist_of: int | None = None  # the trial that is trained again
    seconds_before: float = 0.0  # in earlier attempts
    attempt: int = 1
    started_at: float = field(default_factory=time.monotonic)

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def family(self) -> str:
        return str(self.hparams["model"])

    @property
    def last_epoch(self) -> int:
        return max(self.objectives, default=0)

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started_at
