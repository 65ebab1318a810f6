"""The order of every user's sequence, and what ties in time do to it.

Rows are ordered shard by shard: a shard is a range of users, so that shards can be ordered by several threads
(or, in distributed.py, machines), each within what its share takes of memory. What decides the order of ties
is counted in all shards first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqsweep.data_pipeline.schema import MIN_INTERACTIONS, Neighbours

ASCENDING_SHARE = 0.9  # a log stored by user and item has all ties ascending; an unsorted one about half
MIN_TELLING_PAIRS = 10  # fewer may all ascend by chance: in 1 of 1,024 logs at 10, in every second one at 1

Codes = NDArray[np.int32]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class ShardRows:
    """The interactions of a range of users, in the input's row order."""

    user: Codes
    item: Codes
    timestamp: Rows | None


def is_stored_by_item(total: Neighbours) -> bool:
    """Whether more than 90 % of the ties that can tell ascend by raw item id, and 10 or more can tell.

    The rows of such a log say nothing about time, and keeping their order would let a model guess the next
    item from its id alone.
    """
    return (
        total.num_telling >= MIN_TELLING_PAIRS and total.num_ascending > ASCENDING_SHARE * total.num_telling
    )


def order_by_row(rows: ShardRows) -> Rows:
    """Stable sort by (user, timestamp); the rows of a log without times are taken to be in time order."""
    if rows.timestamp is None:
        return np.argsort(rows.user, kind="stable")
    return sort_rows(rows.user, rows.timestamp)


def order_by_hash(rows: ShardRows, seed: int) -> Rows:
    """As order_by_row, but ties go by a hash of user and item: differently for every user."""
    assert rows.timestamp is not None, "rows without times do not tie"
    shuffled = np.argsort(tie_hash(rows.user, rows.item, seed), kind="stable")
    return shuffled[sort_rows(rows.user[shuffled], rows.timestamp[shuffled])]


def sort_rows(user: Codes, timestamp: Rows) -> Rows:
    """Rows by (user, timestamp), equal ones as they came; by one packed key where both fit 63 bits."""
    if len(user) == 0:
        return np.zeros(0, np.int64)
    start, first = int(timestamp.min()), int(user.min())
    span = int(timestamp.max()) - start + 1
    if (int(user.max()) - first + 1) * span >= 2**63:
        return np.lexsort((timestamp, user))
    key = (user - np.int32(first)).astype(np.int64)
    key *= span
    key += timestamp
    key -= start
    return np.argsort(key, kind="stable")  # 2.5 times as fast


def neighbours(rows: ShardRows, order: Rows, rank_V: Rows) -> Neighbours:
    """rank_V: place of every item among the raw ids (`raw_ranks`)."""
    user, item = rows.user[order], rows.item[order]
    same_user = _equals_next(user)
    tied = same_user.copy() if rows.timestamp is not None else np.zeros_like(same_user)
    if rows.timestamp is not None:
        tied &= _equals_next(rows.timestamp[order])
    first, second = item[:-1][tied], item[1:][tied]
    different = first != second
    end = np.append(np.flatnonzero(~same_user) + 1, len(order))  # of every user's sequence
    long_enough = np.diff(end, prepend=0) >= MIN_INTERACTIONS
    return Neighbours(
        num_pairs=int(same_user.sum()),
        num_tied=int(tied.sum()),
        num_telling=int(different.sum()),
        num_ascending=int((rank_V[first] < rank_V[second])[different].sum()),
        num_repeats=count_repeats(rows, len(rank_V)),
        num_tied_targets=int(tied[end[long_enough] - 2].sum()),
    )


def count_repeats(rows: ShardRows, num_items: int) -> int:
    """Interactions whose (user, item) pair occurred before."""
    pair = rows.user.astype(np.int64)
    pair *= num_items
    pair += rows.item
    pair.sort()  # in place, and faster than a hash table
    return int(_equals_next(pair).sum())


def raw_ranks(raw_id: pa.Array[Any]) -> Rows:
    """Place of every id among the raw ids in ascending order."""
    rank = np.empty(len(raw_id), dtype=np.int64)
    rank[pc.sort_indices(raw_id).to_numpy()] = np.arange(len(raw_id))
    return rank


def _equals_next(value: Codes | Rows) -> NDArray[np.bool_]:
    equal: NDArray[np.bool_] = value[1:] == value[:-1]
    return equal


def tie_hash(user: Codes, item: Codes, seed: int) -> NDArray[np.uint64]:
    """splitmix64 (Steele et al. 2014) of seed, user and item, one step each."""
    state = np.full(len(user), seed % 2**64, dtype=np.uint64)
    for part in (user, item):
        state ^= part.astype(np.uint64)
        state += np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state
