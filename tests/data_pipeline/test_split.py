import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.cuts import Cut
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.preparing.prepare import prepare
from seqsweep.data_pipeline.schema import TimeUnit
from seqsweep.data_pipeline.split import (
    Targets,
    count_cold_targets,
    cut_dates,
    items_at,
    leave_one_out,
    resolve_cuts,
    temporal,
    training_mask,
)
from seqsweep.data_pipeline.store import SequenceLog, open_log
from tests.logs import log_of

DAY = 86_400


def offsets(lengths: list[int]) -> NDArray[np.int64]:
    return np.cumsum([0, *lengths], dtype=np.int64)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(3, 5))
def test_leave_one_out_takes_the_last_two_of_every_long_user(lengths: list[int], minimum: int) -> None:
    offset_U = offsets(lengths)
    split = leave_one_out(offset_U, minimum)
    evaluated = [user for user, length in enumerate(lengths) if length >= minimum]
    assert split.test.user_id.tolist() == split.valid.user_id.tolist() == evaluated
    assert split.test.position.tolist() == [offset_U[user + 1] - 1 for user in evaluated]
    assert split.valid.position.tolist() == [offset_U[user + 1] - 2 for user in evaluated]
    held_out = [2 if length >= minimum else 0 for length in lengths]
    assert split.train_end_U.tolist() == [end - out for end, out in zip(offset_U[1:], held_out, strict=True)]
    assert split.counts == {
        "num_train_interactions": sum(lengths) - sum(held_out),
        "num_eval_users": len(evaluated),
        "num_train_only_users": len(lengths) - len(evaluated),
    }
    assert split.train_end_U.dtype == split.test.position.dtype == np.int64
    assert split.test.user_id.dtype == np.int32


def test_a_user_of_three_is_evaluated_and_gives_no_training_pair() -> None:
    split = leave_one_out(offsets([3]))
    assert split.train_end_U.tolist() == [1]
    assert split.valid.position.tolist() == [1]


def test_minimum_below_three_is_refused() -> None:
    with pytest.raises(DataError, match=r"min_eval_interactions must be 3 or more .* got 2"):
        leave_one_out(offsets([5]), min_eval_interactions=2)


def test_cold_targets(tmp_path: Path, write: Callable[[str, str], Path]) -> None:
    log = open_log(
        prepare(
            DataConfig(path=str(write("a.txt", "1 10\n1 20\n1 30\n1 40\n2 10\n2 30\n2 20\n3 50\n3 10\n"))),
            tmp_path / "cache",
        )
    )
    split = leave_one_out(log.offset_U)
    assert items_at(log, split.test.position).tolist() == [4, 2]
    # trained on are 10 and 20 (user 1), 10 (user 2), 50 (user 3 only trains): 30 and 40 are cold
    assert count_cold_targets(log, split) == {"num_cold_valid_targets": 2, "num_cold_test_targets": 1}


def timed(
    *times: list[int], num_shards: int = 1, unit: TimeUnit = "s", items: list[list[int]] | None = None
) -> SequenceLog:
    """A log of users with these times; every item is another, unless `items` says which."""
    number = iter(range(1, 1000))
    sequences = items or [[next(number) for _ in user] for user in times]
    log = log_of(sequences, max(map(max, sequences)), num_shards, [list(user) for user in times])
    return dataclasses.replace(log, manifest=log.manifest.model_copy(update={"time_unit": unit}))


def pairs(targets: Targets) -> list[tuple[int, int]]:
    return list(zip(targets.user_id.tolist(), targets.position.tolist(), strict=True))


@pytest.mark.parametrize("num_shards", [1, 2, 5])
def test_temporal_parts_all_users_at_two_times(num_shards: int) -> None:
    log = timed(
        [1, 2, 10, 11, 20, 21],  # positions 0-5: both targets are the first of their time
        [3, 4, 25],  # 6-8: no validation target
        [5, 12],  # 9-10: no test target
        [11, 13, 22],  # 11-13: no history before validation, a test target after what was not trained on
        [30],  # 14: never a history
        num_shards=num_shards,
    )
    split = temporal(log, (10, 20))
    assert split.train_end_U.tolist() == [2, 8, 10, 11, 14]
    assert pairs(split.valid) == [(0, 2), (2, 10)]
    assert pairs(split.test) == [(0, 4), (1, 8), (3, 13)]
    assert split.counts == {
        "num_train_interactions": 5,
        "num_valid_users": 2,
        "num_test_users": 3,
        "num_train_only_users": 0,
        "num_valid_users_without_history": 1,
        "num_test_users_without_history": 1,
    }
    assert (split.cut_times, cut_dates(log, split)) == (
        (10, 20),
        ["1970-01-01T00:00:10Z", "1970-01-01T00:00:20Z"],
    )
    assert split.train_end_U.dtype == split.valid.position.dtype == np.int64
    assert split.valid.user_id.dtype == np.int32


def naive(times: list[list[int]], first: int, second: int) -> tuple[list[int], list[list[tuple[int, int]]]]:
    """The definition, user by user: where training ends, and both lists of (user, position of the target)."""
    train_ends, targets, begin = [], [list[tuple[int, int]](), list[tuple[int, int]]()], 0
    for user, own in enumerate(times):
        train_ends.append(begin + sum(time < first for time in own))
        for found, low, high in ((targets[0], first, second), (targets[1], second, 10**9)):
            inside = [place for place, time in enumerate(own) if low <= time < high]
            if inside and inside[0] > 0:  # all before the first inside is before `low`
                found.append((user, begin + inside[0]))
        begin += len(own)
    return train_ends, targets


USERS = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8).map(sorted), min_size=1, max_size=12)


@given(USERS, st.integers(1, 30), st.integers(1, 30), st.integers(1, 4))
def test_temporal_is_what_a_loop_over_users_finds(
    times: list[list[int]], first: int, second: int, num_shards: int
) -> None:
    log = timed(*times, num_shards=min(num_shards, len(times)))
    try:
        split = temporal(log, (first, second))
    except DataError as error:
        assume("users share" not in str(error))
        train_ends, (valid, test) = naive(times, first, second)
        pairs_to_train = [end - begin for end, begin in zip(train_ends, log.offset_U, strict=False)]
        assert first >= second or not valid or not test or max(pairs_to_train) < 2
        return
    train_ends, (valid, test) = naive(times, first, second)
    assert split.train_end_U.tolist() == train_ends
    assert (pairs(split.valid), pairs(split.test)) == (valid, test)
    flat = np.concatenate([np.asarray(user) for user in times])
    latest_trained = flat[training_mask(log.offset_U, split.train_end_U)].max()
    assert (
        latest_trained < first <= flat[split.valid.position].min()
    )  # no target is before what is trained on
    assert split.counts["num_train_interactions"] == sum(time < first for user in times for time in user)
    trained_U = split.train_end_U > log.offset_U[:-1]
    behind_U = split.train_end_U < log.offset_U[1:]
    assert split.counts["num_train_only_users"] == (trained_U & ~behind_U).sum()


def test_a_share_is_the_time_that_so_many_interactions_precede() -> None:
    log = timed([1, 2, 3, 4, 9], [1, 5, 6, 7, 8], num_shards=2)
    # in order: 1 1 2 3 4 5 6 7 8 9; 6 precede the second cut, 4 the first
    assert resolve_cuts(log, (0.4, 0.6)) == (4, 6)
    tied = timed([1, 2, 5, 5, 5], [2, 3, 5, 5, 8], num_shards=2)
    assert resolve_cuts(tied, (0.4, 0.9)) == (5, 8)
    assert temporal(tied, (0.4, 0.9)).train_end_U.tolist() == [2, 7]  # all five at the cut lie behind it
    assert resolve_cuts(tied, (4, 0.9)) == (4, 8)  # kinds may be mixed


@pytest.mark.parametrize(
    ("unit", "scale"), [("s", 1), ("ms", 1000), ("us", 1_000_000), ("ns", 1_000_000_000)]
)
def test_cuts_are_dates_or_seconds_whatever_the_unit_of_the_log(unit: TimeUnit, scale: int) -> None:
    log = timed([0, DAY * scale], unit=unit)
    as_text = resolve_cuts(log, ("1970-01-02", "1970-01-03T12:00:00+02:00"))
    assert (
        as_text
        == resolve_cuts(log, (DAY, 2.0 * DAY + 10 * 3600))
        == (DAY * scale, (2 * 24 + 10) * 3600 * scale)
    )
    first, _ = resolve_cuts(log, ("1970-01-02T00:00:00.25", 2 * DAY))
    assert first == DAY * scale + max(
        1, scale // 4
    )  # whole seconds: the next, so that what is before stays so


def test_few_users_are_warned_about() -> None:
    said: list[str] = []
    users = [[1, 2, 10, 20 + user % 3] for user in range(1000)]
    log = timed(
        *[[time + user % 2 for time in own] for user, own in enumerate(users)], items=[[1, 2, 3, 4]] * 1000
    )
    temporal(log, (5, 15), said.append)
    assert said == []
    temporal(timed([1, 2, 10, 20], [2, 3, 11, 20]), (5, 15), said.append)
    assert len(said) == 1 and "2 users on validation and 2 on test" in said[0]


LOG = ([100, 200, 1000, 2000], [150, 250, 1000, 2000])


@pytest.mark.parametrize(
    ("cuts", "words"),
    [
        ((0.9, 0.8), "first cut must be before the second, got 0.9 and 0.8"),
        ((2000, 1000), "first cut must be before the second, got 2000 and 1000"),
        (("2003-02-01", "2003-01-01"), "first cut must be before the second, got 2003-02-01 and 2003-01-01"),
        ((0.9, 300), r"before the second, got 1970-01-01T00:33:20Z \(of 0.9\) and 1970-01-01T00:05:00Z"),
        ((0.8, 0.9), r"the second, got 1970-01-01T00:33:20Z \(of 0.8\) and 1970-01-01T00:33:20Z"),  # a tie
        ((50, 1500), "nothing to train on: no user has two interactions before 1970-01-01T00:00:50Z"),
        ((500, 600), "nothing to validate: no user is there before 1970-01-01T00:08:20Z and between"),
        ((500, 3000), "nothing to test: .*; the log's times go from 1970-01-01T00:01:40Z to "),
        ((500, "soon"), "share of the interactions between 0 and 1, or seconds since 1970 .*, got soon"),
        ((500, float("nan")), "a cut must be a share .*, got nan"),
        ((0, 500), "a cut must be a share .*, got 0"),
        ((-3, 500), "a cut must be a share .*, got -3"),
        ((978_300_000_000, 978_300_000_001), "a cut must be a share .*, got 978300000000"),  # milliseconds
    ],
)  # fmt: skip
def test_cuts_that_cannot_be_are_refused(cuts: tuple[Cut, Cut], words: str) -> None:
    with pytest.raises(DataError, match=words):
        temporal(timed(*LOG), cuts)


def test_a_log_that_has_no_global_times_is_refused() -> None:
    with pytest.raises(DataError, match="needs timestamps, and the log has none"):
        temporal(log_of([[1, 2, 3]], 3))
    with pytest.raises(DataError, match=r"2 of 3 users have the same first timestamp \(7\)"):
        temporal(timed([7, 8, 9, 20], [7, 9, 10, 30], [3, 8, 9, 40]), (8, 20))
    half = timed([7, 8, 9, 20], [7, 9, 10, 30], [3, 8, 9, 40], [4, 8, 9, 40])  # no more than half
    assert temporal(half, (9, 20)).counts["num_test_users"] == 4


def test_cold_targets_of_a_temporal_split() -> None:
    log = timed(
        [1, 2, 10, 20], [2, 3, 11, 21], [3, 4, 15],
        items=[[1, 2, 3, 4], [2, 1, 2, 3], [1, 5, 2]], num_shards=2,
    )  # fmt: skip
    split = temporal(log, (10, 20))
    assert items_at(log, split.valid.position).tolist() == [3, 2, 2]
    assert items_at(log, split.test.position).tolist() == [4, 3]
    # trained on are 1, 2 and 5: item 3 comes between the cuts, item 4 after them
    assert count_cold_targets(log, split) == {"num_cold_valid_targets": 1, "num_cold_test_targets": 2}


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=20))
def test_the_training_mask_of_parts_that_may_be_empty(users: list[tuple[int, int]]) -> None:
    offset_U = offsets([length for length, _ in users])
    train_end_U = offset_U[:-1] + np.array([min(pair) for pair in users])
    expected = [place < trained for length, trained in users for place in range(length)]
    assert training_mask(offset_U, train_end_U).tolist() == expected
