from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.order import ascending_share, sort_rows, tie_hash, time_order

rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=80)


def int32(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(values, dtype=np.int32)


@given(rows)
def test_stable_order_by_user_and_time(log: list[tuple[int, int, int]]) -> None:
    user, time, item = np.array(log, dtype=np.int64).T
    descending = pa.array([9, 8, 7, 6, 5, 4])  # raw ids against which nearly nothing ascends
    order = time_order(user.astype(np.int32), item.astype(np.int32), time, descending, seed=0)
    if order.tie_order == "rows":
        assert order.row.tolist() == sorted(range(len(log)), key=lambda row: (user[row], time[row]))
    assert sorted(order.row.tolist()) == list(range(len(log)))
    ordered = [(user[row], time[row]) for row in order.row]
    assert ordered == sorted(ordered)
    neighbours = list(pairwise(ordered))
    assert order.tied.tolist() == [first == second for first, second in neighbours]
    same_user = [first[1] == second[1] for first, second in neighbours if first[0] == second[0]]
    assert order.tie_share == (sum(same_user) / len(same_user) if same_user else 0)


def test_times_too_far_apart_for_one_packed_key() -> None:
    user, time = int32(5, 2, 5, 2), np.array([2**62, 0, 3, 0])
    assert sort_rows(user, time).tolist() == [1, 3, 2, 0]


def test_without_time_the_rows_are_the_order() -> None:
    order = time_order(int32(1, 0, 1, 0), int32(0, 1, 2, 3), None, pa.array([1, 2, 3, 4]), seed=0)
    assert order.row.tolist() == [1, 3, 0, 2]
    assert (order.tie_order, order.tie_share) == (None, 0.0)


def test_share_of_ascending_pairs() -> None:
    raw = pa.array(["b", "a", "c"])
    first, second = int32(*[1, 0, 2] * 4, 0, 1), int32(*[0, 2, 0] * 4, 0, 1)
    assert ascending_share(first, second, raw) == 2 / 3  # equal items say nothing
    assert ascending_share(first[:9], second[:9], raw) == 0  # nor do fewer than 10 pairs


def test_log_stored_by_item_has_its_ties_hashed() -> None:
    user, item = np.repeat(int32(*range(50)), 20), np.tile(int32(*range(20)), 50)
    time = np.zeros(1000, dtype=np.int64)
    stored_by_item = time_order(user, item, time, pa.array(range(20)), seed=1)
    assert stored_by_item.tie_order == "hash"
    item_UL = item[stored_by_item.row].reshape(50, 20)
    assert user[stored_by_item.row].tolist() == user.tolist()
    assert len({tuple(item_L) for item_L in item_UL}) == 50  # every user has an order of its own
    assert 0.4 < (np.diff(item_UL, axis=1) > 0).mean() < 0.6
    again = time_order(user, item, time, pa.array(range(20)), seed=1)
    other = time_order(user, item, time, pa.array(range(20)), seed=2)
    assert again.row.tolist() == stored_by_item.row.tolist() != other.row.tolist()


def test_at_90_percent_the_rows_still_count() -> None:
    item = int32(*range(10), 9, 10)  # 9 ascend, one repeats the item, one ascends: 10 of 10 differ and ascend
    time = np.zeros(12, dtype=np.int64)
    assert time_order(int32(*[0] * 12), item, time, pa.array(range(11)), seed=0).tie_order == "hash"
    item = int32(1, 0, *range(2, 11))  # of 10 pairs one descends
    assert time_order(int32(*[0] * 11), item, time[:11], pa.array(range(11)), seed=0).tie_order == "rows"


def test_hash_never_changes() -> None:
    """Prepared logs of other versions and machines must agree."""
    assert tie_hash(int32(0, 1), int32(0, 2), seed=0).tolist() == [12035550249420947055, 13608149317741381227]
