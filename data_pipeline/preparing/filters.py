"""What is left out before sequences are built: low ratings, other times, duplicates, rare users and items.

Each filter is one entry of FILTERS, in the order in which they are applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.schema import UNITS_PER_SECOND, Counts, TimeUnit

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Interactions:
    """Columns in the input's row order; user and item are codes, 0-based and perhaps with gaps."""

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    timestamp: NDArray[np.int64] | None
    rating: NDArray[np.float64] | None

    def keep(self, mask: Mask) -> Interactions:
        timestamp = None if self.timestamp is None else self.timestamp[mask]
        rating = None if self.rating is None else self.rating[mask]
        return Interactions(self.user[mask], self.item[mask], timestamp, rating)

    def count(self, step: str) -> Counts:
        return Counts(
            step=step,
            num_rows=len(self.user),
            num_users=num_distinct(self.user),
            num_items=num_distinct(self.item),
        )


def num_distinct(code: NDArray[np.int32]) -> int:
    return int(np.count_nonzero(np.bincount(code)))


# name -> the settings that ask for it
FILTERS = {
    "min_rating": ("min_rating",),
    "time_range": ("start_time", "end_time"),
    "drop_duplicates": ("drop_duplicates",),
    "k_core": ("min_user_interactions", "min_item_interactions", "k_core"),
    "max_users": ("max_users",),
}


def apply_filters(
    rows: Interactions, config: DataConfig, unit: TimeUnit | None
) -> tuple[Interactions, tuple[Counts, ...]]:
    """All filters that the settings ask for, and what was there before and after each.

    Raises DataError naming the filter after which nothing is left.
    """
    counts = [rows.count("read")]
    for name in FILTERS:
        mask = mask_of(name, rows, config, unit)
        if mask is None:
            continue
        rows = rows.keep(mask)
        if len(rows.user) == 0:
            raise nothing_left(name, config, counts[-1].num_rows)
        counts.append(rows.count(name))
    return rows, tuple(counts)


def nothing_left(name: str, config: DataConfig, num_rows: int) -> DataError:
    settings = ", ".join(f"{key}={getattr(config, key)}" for key in FILTERS[name])
    return DataError(
        f"nothing is left after the filter {name} ({settings}): it removed all {num_rows} interactions "
        "before it; expected at least one to pass; relax it"
    )


def mask_of(name: str, rows: Interactions, config: DataConfig, unit: TimeUnit | None) -> Mask | None:
    """Rows that pass the filter; None where the settings don't ask for it."""
    if name == "min_rating" and config.min_rating is not None:
        assert rows.rating is not None, "the sources read ratings wherever min_rating is set"
        return rows.rating >= config.min_rating
    if name == "time_range" and (config.start_time is not None or config.end_time is not None):
        assert rows.timestamp is not None and unit is not None, "the sources insist on times for a time range"
        return within(rows.timestamp, config.start_time, config.end_time, UNITS_PER_SECOND[unit])
    if name == "drop_duplicates" and config.drop_duplicates:
        return first_of_equals(rows)
    if name == "k_core" and has_core(config):
        minima = config.min_user_interactions, config.min_item_interactions
        return k_core(rows.user, rows.item, *minima, passes=config.k_core)
    if name == "max_users" and config.max_users is not None:
        return sample_users(np.bincount(rows.user), config.max_users, config.seed)[rows.user]
    return None


def has_core(config: DataConfig) -> bool:
    return max(config.min_user_interactions, config.min_item_interactions) > 1


def sample_users(num_interactions_U: NDArray[np.int64], max_users: int, seed: int) -> Mask:
    """Which of the users that have interactions are in a sample of at most `max_users`."""
    there = np.flatnonzero(num_interactions_U)
    chosen = np.zeros(len(num_interactions_U), dtype=np.bool_)
    chosen[np.random.default_rng(seed).permutation(there)[:max_users]] = True
    return chosen


def within(timestamp: NDArray[np.int64], start: int | None, end: int | None, scale: int) -> Mask:
    """start <= time < end, both in seconds; `scale` is the number of the log's units in one."""
    mask = np.ones(len(timestamp), dtype=np.bool_)
    if start is not None:
        mask &= timestamp >= start * scale
    if end is not None:
        mask &= timestamp < end * scale
    return mask


def first_of_equals(rows: Interactions) -> Mask:
    """The first row of every (user, item, timestamp); without times the first of every (user, item)."""
    keys: tuple[NDArray[np.int32 | np.int64], ...] = (rows.item, rows.user)
    if rows.timestamp is not None:
        keys = (rows.timestamp, *keys)
    order = np.lexsort(keys)
    repeats = np.ones(len(order) - 1, dtype=np.bool_)
    for key in keys:
        ordered = key[order]
        repeats &= ordered[1:] == ordered[:-1]
    mask = np.ones(len(order), dtype=np.bool_)
    mask[order[1:][repeats]] = False  # the sort is stable: of equal rows the first comes first
    return mask


def k_core(
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    min_user_interactions: int,
    min_item_interactions: int,
    passes: Literal["iterated", "single"] = "iterated",
) -> Mask:
    """Rows whose user and item both have the minimum of interactions.

    "iterated" counts again after every removal until nothing changes: the largest set where both minima hold.
    "single" counts once, users and items on the full log, as the preprocessing of the SASRec paper does.
    """
    kept = np.arange(len(user))
    while True:
        few_users = np.bincount(user[kept]) < min_user_interactions
        few_items = np.bincount(item[kept]) < min_item_interactions
        passing = ~(few_users[user[kept]] | few_items[item[kept]])
        if passing.all():
            break
        kept = kept[passing]
        if passes == "single" or len(kept) == 0:
            break
    mask = np.zeros(len(user), dtype=np.bool_)
    mask[kept] = True
    return mask


def codes(column: pa.ChunkedArray[Any]) -> NDArray[np.int32]:
    """The codes of a dictionary encoded column as one array."""
    chunks = [cast("pa.DictionaryArray[Any, Any]", chunk) for chunk in column.chunks]
    return np.concatenate([chunk.indices.to_numpy() for chunk in chunks]).astype(np.int32, copy=False)
