"""The best configurations, trained again over several seeds, so that a lucky seed does not win.

The trials to choose from were each judged by the best of many: their values are optimistic, and the best of
them most of all. A finalist is therefore judged by its repeated trainings alone.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seqsweep.results.metrics import METRICS, Ranks
from seqsweep.results.schema import TrialRecord
from seqsweep.sweep.settings.budgets import FinalistConfig

NUM_RESAMPLES = 1000
MAX_DRAWN_USERS = 10_000
INTERVAL = (2.5, 97.5)  # per cent


@dataclass(frozen=True)
class FinalistRun:
    """One of a finalist's trainings."""

    finalist_of: int  # the trial whose hparams it has
    seed_index: int
    record: TrialRecord


def ranked(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials with a result, the best first; of equal ones the earlier."""
    ended = [r for r in trials if r.state in ("complete", "pruned") and r.objective is not None]
    return sorted(ended, key=lambda record: -(record.objective or 0.0))


class Race:
    """Decide which trainings of the finalists are still wanted, and which finalist can no longer win.

    Everything follows from the records of trials and trainings, so the answer is the same after a kill. The
    most a finalist can reach: each remaining training is as good as the best of the study. The least: each
    is as poor as the poorest of any finalist. A finalist has lost when its most is below another's least;
    what is seen later can reverse that.
    """

    def __init__(
        self, trials: Sequence[TrialRecord], runs: Sequence[FinalistRun], config: FinalistConfig
    ) -> None:
        best = ranked(trials)
        chosen = [record.trial for record in best[: config.count] if record.trial is not None]
        begun = {(run.finalist_of, run.seed_index) for run in runs}
        self._not_begun = [(n, i) for i in range(config.seeds) for n in chosen if (n, i) not in begun]
        self._running = [run.finalist_of for run in runs if run.record.state == "running"]
        self._num_ended = len(runs) - len(self._running)
        self._num_left = Counter([*(number for number, _ in self._not_begun), *self._running])
        self._values: defaultdict[int, list[float]] = defaultdict(list)  # of trainings that are complete
        for run in runs:
            if run.record.state == "complete" and run.record.objective is not None:
                self._values[run.finalist_of].append(run.record.objective)
        seen = [record.objective or 0.0 for record in [*best[:1], *(run.record for run in runs)]]
        self._ceiling = max(seen, default=0.0)
        self._floor = min((value for values in self._values.values() for value in values), default=0.0)

    def to_train(self) -> list[tuple[int, int]]:
        """List the trainings to start, (trial, index of the seed): all first seeds before any second."""
        return [pair for pair in self._not_begun if not self.is_lost(pair[0])]

    def is_lost(self, finalist_of: int) -> bool:
        """Tell whether a finalist with remaining trainings can no longer win."""
        least = [self._mean_with(other, self._floor) for other in self._values if other != finalist_of]
        return self._mean_with(finalist_of, self._ceiling) < max(least, default=-math.inf)

    def __str__(self) -> str:
        """Read as `8 of 8 trainings, 1 not needed`."""
        left = [*self._running, *(number for number, _ in self._not_begun)]
        num_needed = sum(not self.is_lost(number) for number in left)
        not_needed = f", {len(left) - num_needed} not needed" if num_needed < len(left) else ""
        return f"{self._num_ended} of {self._num_ended + num_needed} trainings{not_needed}"

    def _mean_with(self, finalist_of: int, rest: float) -> float:
        values, num_left = self._values.get(finalist_of, []), self._num_left[finalist_of]
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
