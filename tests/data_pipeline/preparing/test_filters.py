import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqsweep.data_pipeline.preparing.filters import Interactions, first_of_equals, k_core, within

Pairs = list[tuple[int, int]]
pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60)
minimum = st.integers(1, 4)


def columns(rows: Pairs) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    user, item = np.array(rows, dtype=np.int32).T
    return user, item


@given(pairs, minimum, minimum)
def test_k_core_is_the_largest_set_in_which_both_minima_hold(
    rows: Pairs, per_user: int, per_item: int
) -> None:
    user, item = columns(rows)
    kept = k_core(user, item, per_user, per_item)
    if kept.any():
        assert np.bincount(user[kept])[user[kept]].min() >= per_user
        assert np.bincount(item[kept])[item[kept]].min() >= per_item
    # removing one row at a time, in any order, ends at the same set
    left = list(range(len(rows)))
    while True:
        poor = [
            row
            for row in left
            if sum(user[other] == user[row] for other in left) < per_user
            or sum(item[other] == item[row] for other in left) < per_item
        ]
        if not poor:
            break
        left.remove(poor[-1])
    assert np.flatnonzero(kept).tolist() == left


@given(pairs, minimum, minimum)
def test_single_pass_counts_once(rows: Pairs, per_user: int, per_item: int) -> None:
    user, item = columns(rows)
    kept = k_core(user, item, per_user, per_item, passes="single")
    rich = [
        sum(u == user for u, _ in rows) >= per_user and sum(i == item for _, i in rows) >= per_item
        for user, item in rows
    ]
    assert kept.tolist() == rich


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1), st.booleans()
)
def test_first_of_equal_rows_is_kept(rows: list[tuple[int, int, int]], has_time: bool) -> None:
    user, item, time = np.array(rows, dtype=np.int64).T
    kept = first_of_equals(
        Interactions(user.astype(np.int32), item.astype(np.int32), time if has_time else None, None)
    )
    keys = [row if has_time else row[:2] for row in rows]
    assert kept.tolist() == [key not in keys[:row] for row, key in enumerate(keys)]


def test_time_range_is_in_seconds_and_ends_before_its_end() -> None:
    milliseconds = np.array([999, 1000, 1999, 2000])
    assert within(milliseconds, 1, 2, 1000).tolist() == [False, True, True, False]
    assert within(milliseconds, None, 1, 1000).tolist() == [True, False, False, False]
