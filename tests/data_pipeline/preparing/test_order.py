from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from seqsweep.data_pipeline.preparing.order import (
    ShardRows,
    is_stored_by_item,
    neighbours,
    order_by_hash,
    order_by_row,
    raw_ranks,
    sort_rows,
    tie_hash,
)
from seqsweep.data_pipeline.schema import Neighbours

rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=80)


def int32(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(values, dtype=np.int32)


@given(rows)
def test_stable_order_by_user_and_time(log: list[tuple[int, int, int]]) -> None:
    user, time, item = np.array(log, dtype=np.int64).T
    shard = ShardRows(user.astype(np.int32), item.astype(np.int32), time)
    order = order_by_row(shard)
    assert order.tolist() == sorted(range(len(log)), key=lambda row: (user[row], time[row]))
    hashed = order_by_hash(shard, seed=0)
    assert [(user[row], time[row]) for row in hashed] == [(user[row], time[row]) for row in order]


@given(rows)
def test_neighbours_are_counted(log: list[tuple[int, int, int]]) -> None:
    user, time, item = np.array(log, dtype=np.int64).T
    shard = ShardRows(user.astype(np.int32), item.astype(np.int32), time)
    order = order_by_row(shard)
    raw = pa.array([9, 8, 7, 6, 5, 4])
    pairs = [(log[a], log[b]) for a, b in pairwise(order) if log[a][0] == log[b][0]]
    tied = [(a, b) for a, b in pairs if a[1] == b[1]]
    telling = [(a, b) for a, b in tied if a[2] != b[2]]
    per_user = [[row for row in order if user[row] == one] for one in sorted(set(user.tolist()))]
    expected = Neighbours(
        num_pairs=len(pairs),
        num_tied=len(tied),
        num_telling=len(telling),
        num_ascending=sum(a[2] > b[2] for a, b in telling),  # the raw ids descend
        num_repeats=len(log) - len({(u, i) for u, _, i in log}),
        num_tied_targets=sum(len(own) >= 3 and time[own[-1]] == time[own[-2]] for own in per_user),
    )
    assert neighbours(shard, order, raw_ranks(raw)) == expected


def test_times_too_far_apart_for_one_packed_key() -> None:
    user, time = int32(5, 2, 5, 2), np.array([2**62, 0, 3, 0])
    assert sort_rows(user, time).tolist() == [1, 3, 2, 0]


def test_without_time_the_rows_are_the_order() -> None:
    shard = ShardRows(int32(1, 0, 1, 0), int32(0, 1, 2, 3), None)
    order = order_by_row(shard)
    assert order.tolist() == [1, 3, 0, 2]
    assert neighbours(shard, order, np.arange(4)) == Neighbours(num_pairs=2)


def test_raw_ranks() -> None:
    assert raw_ranks(pa.array(["b", "a", "c"])).tolist() == [1, 0, 2]


def test_ties_of_a_log_stored_by_item_are_hashed() -> None:
    user, item = np.repeat(int32(*range(50)), 20), np.tile(int32(*range(20)), 50)
    shard = ShardRows(user, item, np.zeros(1000, dtype=np.int64))
    assert is_stored_by_item(neighbours(shard, order_by_row(shard), np.arange(20)))
    order = order_by_hash(shard, seed=1)
    item_UL = item[order].reshape(50, 20)
    assert user[order].tolist() == user.tolist()
    assert len({tuple(item_L) for item_L in item_UL}) == 50  # every user has an order of its own
    assert 0.4 < (np.diff(item_UL, axis=1) > 0).mean() < 0.6
    assert order_by_hash(shard, seed=1).tolist() == order.tolist() != order_by_hash(shard, seed=2).tolist()


def test_when_a_log_counts_as_stored_by_item() -> None:
    assert is_stored_by_item(Neighbours(num_telling=10, num_ascending=10))
    assert not is_stored_by_item(Neighbours(num_telling=9, num_ascending=9))  # too few to tell
    assert not is_stored_by_item(Neighbours(num_telling=10, num_ascending=9))
    shards = [Neighbours(num_telling=6, num_ascending=6), Neighbours(num_telling=5, num_ascending=5)]
    assert is_stored_by_item(sum(shards, Neighbours()))


def test_hash_never_changes() -> None:
    """Prepared logs of other versions and machines must agree."""
    assert tie_hash(int32(0, 1), int32(0, 2), seed=0).tolist() == [12035550249420947055, 13608149317741381227]
