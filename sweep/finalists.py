"""The best configurations, trained again over several seeds, so that a lucky seed does not win.

The trials to choose from were each judged by the best of many: their values are optimistic, and the best of
them most of all. A finalist is therefore judged by its repeated trainings alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from results.metrics import METRICS, Ranks
from results.schema import TrialRecord

NUM_RESAMPLES = 1000
MAX_DRAWN_USERS = 10_000
INTERVAL = (2.5, 97.5)  # per cent


class FinalistConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(default=3, ge=0)  # best configurations that are trained again; 0: the best trial wins
    seeds: int = Field(default=3, ge=1)  # trainings of each


@dataclass(frozen=True)
class FinalistRun:
    """One of a finalist's trainings."""

    finalist_of: int  # the trial whose hparams it has
    seed_index: int
    record: TrialRecord


def plan(
    trials: Sequence[TrialRecord], runs: Iterable[FinalistRun], config: FinalistConfig
) -> list[tuple[int, int]]:
    """What is still to train: (trial, index of the seed), every finalist's first seed before any second."""
    there = {(run.finalist_of, run.seed_index) for run in runs}
    chosen = [record.trial for record in ranked(trials)[: config.count] if record.trial is not None]
    wanted = [(number, index) for index in range(config.seeds) for number in chosen]
    return [pair for pair in wanted if pair not in there]


def ranked(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials with a result, the best first; of equal ones the earlier."""
    ended = [r for r in trials if r.state in ("complete", "pruned") and r.objective is not None]
    return sorted(ended, key=lambda record: -(record.objective or 0.0))


class Race:
    """Which finalist can't win any more, whatever its remaining seeds bring within what was seen until now.

    The most that a finalist can reach: each training that is left is as good as the best of the study. The
    least: each is as poor as the poorest of any finalist. It has lost when its most is below another's least.
    """

    def __init__(self, num_seeds: int, ceiling: float) -> None:
        self._num_seeds = num_seeds
        self._ceiling = ceiling
        self._values: defaultdict[int, list[float]] = defaultdict(list)

    def enter(self, finalist_of: int, value: float) -> None:
        """The result of a training that came to its end."""
        self._values[finalist_of].append(value)
        self._ceiling = max(self._ceiling, value)

    def is_lost(self, finalist_of: int) -> bool:
        if not self._values:
            return False
        floor = min(min(values) for values in self._values.values())
        most = self._mean_with(finalist_of, self._ceiling)
        others = [self._mean_with(other, floor) for other in self._values if other != finalist_of]
        return most < max(others, default=-np.inf)

    def _mean_with(self, finalist_of: int, rest: float) -> float:
        values = self._values.get(finalist_of, [])
        num_left = max(0, self._num_seeds - len(values))
        return (sum(values) + num_left * rest) / (len(values) + num_left)


@dataclass(frozen=True)
class Spread:
    """A metric over a finalist's trainings. The interval is a bootstrap over users and trainings."""

    mean: float
    std: float | None  # None with one training
    low: float
    high: float


def spreads(ranks: Sequence[Ranks], seed: int) -> dict[str, Spread]:
    """For each metric, from the ranks of the same users in each training."""
    generator = np.random.default_rng(seed)
    return {
        name: _spread(np.stack([gain_of(each) for each in ranks]), generator)
        for name, gain_of in METRICS.items()
    }


def _spread(gain_SU: npt.NDArray[np.float64], generator: np.random.Generator) -> Spread:
    mean_S = gain_SU.mean(axis=1)
    low, high = np.percentile(_resampled_means(gain_SU, generator), INTERVAL)
    std = float(mean_S.std(ddof=1)) if len(mean_S) > 1 else None
    return Spread(float(mean_S.mean()), std, float(low), float(high))


def _resampled_means(
    gain_SU: npt.NDArray[np.float64], generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Users and trainings drawn with repeats.

    Users with equal gains in all trainings are drawn together; of very many users the mean is drawn, from the
    normal distribution that it then has.
    """
    num_seeds, num_users = gain_SU.shape
    if num_users > MAX_DRAWN_USERS:
        covariance_SS = np.atleast_2d(np.cov(gain_SU)) / num_users
        mean_RS = generator.multivariate_normal(gain_SU.mean(axis=1), covariance_SS, size=NUM_RESAMPLES)
    else:
        kind_SK, count_K = np.unique(gain_SU, axis=1, return_counts=True)
        drawn_RK = generator.multinomial(num_users, count_K / num_users, size=NUM_RESAMPLES)
        mean_RS = drawn_RK @ kind_SK.T / num_users
    chosen_RS = generator.integers(num_seeds, size=(NUM_RESAMPLES, num_seeds))
    means: npt.NDArray[np.float64] = np.take_along_axis(mean_RS, chosen_RS, axis=1).mean(axis=1)
    return means


def winner(trials: Sequence[TrialRecord], runs: Iterable[FinalistRun]) -> TrialRecord | None:
    """Whose weights are exported: of the finalist with the best mean its best training, else the best trial.

    A finalist that was stopped as it could not win any more does not win. A training that the user or a time
    limit stopped says nothing of its finalist's others.
    """
    complete: defaultdict[int, list[TrialRecord]] = defaultdict(list)
    stopped: set[int] = set()
    for run in runs:
        if run.record.state == "complete" and run.record.objective is not None:
            complete[run.finalist_of].append(run.record)
        elif run.record.state == "pruned" and run.record.stopped_because is None:
            stopped.add(run.finalist_of)
    means = {n: mean_objective(records) for n, records in complete.items() if n not in stopped}
    if not means:
        return next(iter(ranked(trials)), None)
    best = max(means, key=lambda number: (means[number], -number))
    return ranked(complete[best])[0]


def mean_objective(records: Sequence[TrialRecord]) -> float:
    return float(np.mean([record.objective for record in records if record.objective is not None]))


def spread_columns(valid: Mapping[str, Spread], test: Mapping[str, Spread]) -> dict[str, float | None]:
    """As the leaderboard has them: valid.ndcg@10.mean, .std, .low, .high."""
    return {
        f"{split}.{name}.{field}": value
        for split, of_split in (("valid", valid), ("test", test))
        for name, spread in of_split.items()
        for field, value in vars(spread).items()
    }
