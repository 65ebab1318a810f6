"""Ranking metrics of held-out targets, as functions of how many candidates score above and level with each.

Ties count by expectation over random orders: with b candidates better and t tied (the target among them) the
target's place is uniform on b+1 .. b+t. A mid-rank could be exploited by a model that ties many candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ranks:
    better_U: IntArray  # candidates scored above the target
    tied_U: IntArray  # candidates with the target's score, the target among them, so >= 1

    def __post_init__(self) -> None:
        if self.better_U.ndim != 1 or self.better_U.shape != self.tied_U.shape:
            raise ValueError(
                "better_U and tied_U must be one-dimensional and equally long, "
                f"got shapes {self.better_U.shape} and {self.tied_U.shape}"
            )
        if self.better_U.size and (self.better_U.min() < 0 or self.tied_U.min() < 1):
            raise ValueError(
                "better_U >= 0 and tied_U >= 1 must hold (the target ties with itself), "
                f"got smallest values {self.better_U.min()} and {self.tied_U.min()}"
            )


def _mean_over_tied_places(cumulative_gain: FloatArray, ranks: Ranks) -> FloatArray:
    """Mean gain over places b+1 .. b+t; cumulative_gain[n] sums over places 1 .. n and is flat past its end.

    Two look-ups a user, however many candidates tie.
    """
    last = len(cumulative_gain) - 1
    below_U = cumulative_gain[np.minimum(ranks.better_U, last)]
    through_U = cumulative_gain[np.minimum(ranks.better_U + ranks.tied_U, last)]
    gain_U: FloatArray = (through_U - below_U) / ranks.tied_U
    return gain_U


def _cumulative(gain_by_place: FloatArray) -> FloatArray:
    return np.concatenate([np.zeros(1), np.cumsum(gain_by_place)])


def ndcg(ranks: Ranks, k: int) -> FloatArray:
    """Gain 1/log2(place + 1) in the first k places; the ideal gain is 1, as each user has one target."""
    return _mean_over_tied_places(_cumulative(1 / np.log2(np.arange(1, k + 1) + 1)), ranks)


def hr(ranks: Ranks, k: int) -> FloatArray:
    """Share of the tied places that are among the first k: hit rate, and recall with one target."""
    return np.clip((k - ranks.better_U) / ranks.tied_U, 0.0, 1.0)


def mrr(ranks: Ranks) -> FloatArray:
    """Mean of 1/place: a difference of harmonic numbers, from a table of 8 bytes a candidate."""
    num_places = int((ranks.better_U + ranks.tied_U).max(initial=0))
    return _mean_over_tied_places(_cumulative(1 / np.arange(1, num_places + 1)), ranks)


METRICS: dict[str, Callable[[Ranks], FloatArray]] = {  # by the names in metric_names.py
    "ndcg@1": partial(ndcg, k=1),
    "ndcg@5": partial(ndcg, k=5),
    "ndcg@10": partial(ndcg, k=10),
    "ndcg@20": partial(ndcg, k=20),
    "hr@1": partial(hr, k=1),
    "hr@5": partial(hr, k=5),
    "hr@10": partial(hr, k=10),
    "hr@20": partial(hr, k=20),
    "mrr": mrr,
}


def compute_metrics(ranks: Ranks) -> dict[str, float]:
    if ranks.better_U.size == 0:
        raise ValueError("at least one user must be evaluated, got 0 ranks")
    return {name: float(gain_of(ranks).mean()) for name, gain_of in METRICS.items()}
