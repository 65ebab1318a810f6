"""Which part of every user's sequence trains, validates and tests: a view by flat positions, never a copy."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqsweep.data_pipeline.cuts import DEFAULT_CUTS, Cut, check_cuts, is_share, number_of
from seqsweep.data_pipeline.dates import iso_date
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.schema import UNITS_PER_SECOND
from seqsweep.data_pipeline.store import SequenceLog

Ints = NDArray[np.int64]
Notify = Callable[[str], None]

FEW_USERS = 1000  # the standard error of NDCG@10 is some 0.01 there: models that differ by less look alike


def silent(message: str) -> None:
    """For callers that want no warnings."""


@dataclass(frozen=True)
class Targets:
    """One held-out interaction a user; its history is the flat range [offset_U[user_id], position)."""

    user_id: NDArray[np.int32]
    position: NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """train_end_U: flat position where each user's training part ends; it begins at offset_U[user].

    It may be empty. Users of `valid` and `test` may be others. cut_times: of a temporal split, in the log's
    unit.
    """

    train_end_U: NDArray[np.int64]
    valid: Targets
    test: Targets
    counts: dict[str, int]
    cut_times: tuple[int, int] | None = None


def leave_one_out(offset_U: NDArray[np.int64], min_eval_interactions: int = 3) -> Split:
    """The last interaction tests, the one before validates, the rest trains.

    Users with fewer than `min_eval_interactions` only train. A user with exactly 3 is evaluated and gives no
    training pair. Known weakness: users' last interactions lie at different times, so training sees what is
    the future of some test targets.

    offset_U: num_users + 1 flat positions. Raises DataError if `min_eval_interactions` is below 3.
    """
    if min_eval_interactions < 3:
        raise DataError(
            f"min_eval_interactions must be 3 or more (a history, a validation and a test target), "
            f"got {min_eval_interactions}"
        )
    start_U, end_U = offset_U[:-1], offset_U[1:]
    evaluated_U = end_U - start_U >= min_eval_interactions
    train_end_U = np.where(evaluated_U, end_U - 2, end_U)
    user_id = np.flatnonzero(evaluated_U).astype(np.int32)
    counts = {
        "num_train_interactions": int((train_end_U - start_U).sum()),
        "num_eval_users": len(user_id),
        "num_train_only_users": len(evaluated_U) - len(user_id),
    }
    valid, test = (Targets(user_id, end_U[evaluated_U] - back) for back in (2, 1))
    return Split(train_end_U, valid, test, counts)


def temporal(log: SequenceLog, cuts: tuple[Cut, Cut] = DEFAULT_CUTS, notify: Notify = silent) -> Split:
    """Two times c1 < c2, the same for all users, part the log: nothing that trains is later than a target.

    Trained on is what happened before c1. A user's validation target is the first interaction in [c1, c2),
    its history all before c1; the test target is the first one at or after c2, its history all before c2, so
    that what happened between the cuts is in the history, though never trained on. An interaction at exactly
    a cut lies behind it. Users without a history before a target are not evaluated there, and are counted:
    the users of `valid` and of `test` are not the same. (Ji et al., A critical study on data leakage in
    recommender system offline evaluation, 2023, and Meng et al., Exploring data splitting strategies, 2020,
    say why leave-one-out is not enough.) Known weakness: fewer users are evaluated, by one target each, of a
    short time that may not be like others; and a frozen model meets ever more items it has never seen.

    cuts: each a share of all interactions between 0 and 1, exclusive (the time of the interaction that
    round(share * num_interactions) others precede), or seconds since 1970, or an ISO date. `notify` is warned
    where fewer than 1,000 users are evaluated.

    Beside the result it holds a copy of the times at most (for shares), and a shard's worth of counts.

    Raises DataError for a log without timestamps or with times that count from each user's beginning, for
    cuts that are not in order, and where nothing is left to train on, to validate or to test.
    """
    _check_times_are_global(log)
    cut_times = resolve_cuts(log, cuts)
    begin_U, end_U = log.offset_U[:-1], log.offset_U[1:]
    valid_U, test_U = (begin_U + _num_before(log, time) for time in cut_times)  # positions of the targets
    trains_U, has_valid_U, has_test_U = valid_U > begin_U, valid_U < test_U, test_U < end_U
    valid, test = _targets(trains_U & has_valid_U, valid_U), _targets((test_U > begin_U) & has_test_U, test_U)
    counts = {
        "num_train_interactions": int((valid_U - begin_U).sum()),
        "num_valid_users": len(valid.user_id),
        "num_test_users": len(test.user_id),
        "num_train_only_users": int((trains_U & ~has_valid_U & ~has_test_U).sum()),
        "num_valid_users_without_history": int((has_valid_U & ~trains_U).sum()),
        "num_test_users_without_history": int((has_test_U & (test_U == begin_U)).sum()),
    }
    split = Split(valid_U, valid, test, counts, cut_times)
    _check_nothing_is_empty(log, split)
    if min(len(valid.user_id), len(test.user_id)) < FEW_USERS:
        notify(
            f"warning: the temporal split evaluates {len(valid.user_id)} users on validation and "
            f"{len(test.user_id)} on test; below {FEW_USERS:,} small differences between models are chance: "
            "set the cuts further apart, or use leave_one_out"
        )
    return split


def resolve_cuts(log: SequenceLog, cuts: tuple[Cut, Cut]) -> tuple[int, int]:
    """Both cuts as times in the log's unit. Raises DataError if they are not in order."""
    check_cuts(cuts)
    assert log.manifest.time_unit is not None
    scale = UNITS_PER_SECOND[log.manifest.time_unit]
    time_of_share = _times_at(log, [float(cut) for cut in cuts if is_share(cut)])
    first, second = (
        time_of_share[float(cut)] if is_share(cut) else math.ceil(number_of(cut) * scale) for cut in cuts
    )
    if first >= second:
        raise DataError(
            f"the first cut must be before the second, got {_date(log, first)} (of {cuts[0]}) and "
            f"{_date(log, second)} (of {cuts[1]}): set them further apart; {_span(log)}"
        )
    return first, second


def cut_dates(log: SequenceLog, split: Split) -> list[str]:
    """Both cuts of a temporal split as ISO dates in UTC; none of another."""
    return [_date(log, time) for time in split.cut_times or ()]


def _times_at(log: SequenceLog, shares: list[float]) -> dict[float, int]:
    """The time of the interaction that round(share * num_interactions) others precede, for each share."""
    if not shares:
        return {}
    time = np.concatenate(log.timestamp_chunks())  # a copy, ordered in place as far as is needed
    place = {share: min(round(share * len(time)), len(time) - 1) for share in shares}
    time.partition(list(place.values()))
    return {share: int(time[at]) for share, at in place.items()}


def _num_before(log: SequenceLog, cut_time: int) -> Ints:
    """Interactions of each user with a time below the cut, (U,)."""
    num_U = np.zeros(log.num_users, np.int64)
    for users, offset, time in _times_by_shard(log):
        num_before = np.cumsum(time < cut_time)
        num_U[users] = np.diff(num_before[offset[1:] - 1], prepend=0)
    return num_U


def _times_by_shard(log: SequenceLog) -> Iterator[tuple[slice, Ints, Ints]]:
    """Of each shard: its users, their positions within it (one more than users), its times."""
    for shard, time in zip(log.manifest.shards, log.timestamp_chunks(), strict=True):
        users = slice(shard.first_user, shard.first_user + shard.num_users)
        offset = log.offset_U[users.start : users.stop + 1]
        yield users, offset - offset[0], time


def _targets(evaluated_U: NDArray[np.bool_], position_U: Ints) -> Targets:
    return Targets(np.flatnonzero(evaluated_U).astype(np.int32), position_U[evaluated_U])


def _check_times_are_global(log: SequenceLog) -> None:
    if not log.has_timestamps:
        raise DataError(
            "the temporal split needs timestamps, and the log has none: use the split leave_one_out, or name "
            "the column of times (--columns timestamp=...)"
        )
    first_U = np.concatenate([time[offset[:-1]] for _, offset, time in _times_by_shard(log)])
    middle = len(first_U) // 2
    shared = np.partition(first_U, middle)[middle]  # what more than half share is the median
    num_users = int((first_U == shared).sum())
    if num_users > max(1, len(first_U) / 2):
        raise DataError(
            f"the temporal split needs times that all users share, but {num_users} of {len(first_U)} users "
            f"have the same first timestamp ({shared}), as where times count from each user's beginning: use "
            "the split leave_one_out"
        )


def _check_nothing_is_empty(log: SequenceLog, split: Split) -> None:
    first, second = cut_dates(log, split)
    has_pair = bool((split.train_end_U - log.offset_U[:-1] >= 2).any())
    for is_there, missing in (
        (has_pair, f"to train on: no user has two interactions before {first}"),
        (
            len(split.valid.user_id),
            f"to validate: no user is there before {first} and between it and {second}",
        ),
        (len(split.test.user_id), f"to test: no user is there before {second} and at or after it"),
    ):
        if not is_there:
            raise DataError(
                f"the cuts {first} and {second} leave nothing {missing}; {_span(log)}: move the cuts"
            )


def _date(log: SequenceLog, time: int) -> str:
    assert log.manifest.time_unit is not None
    return iso_date(time, log.manifest.time_unit)


def _span(log: SequenceLog) -> str:
    chunks = [time for _, _, time in _times_by_shard(log)]
    first, last = min(int(time.min()) for time in chunks), max(int(time.max()) for time in chunks)
    return f"the log's times go from {_date(log, first)} to {_date(log, last)}"


def count_cold_targets(log: SequenceLog, split: Split) -> dict[str, int]:
    """Targets whose item is in nobody's training part. They are kept and always lose."""
    known_V = np.zeros(log.num_items + 1, dtype=np.bool_)
    start = 0
    trains = training_mask(log.offset_U, split.train_end_U)
    for chunk in log.item_chunks():
        known_V[chunk[trains[start : start + len(chunk)]]] = True
        start += len(chunk)
    return {
        f"num_cold_{name}_targets": int((~known_V[items_at(log, targets.position)]).sum())
        for name, targets in (("valid", split.valid), ("test", split.test))
    }


def items_at(log: SequenceLog, position: NDArray[np.int64]) -> NDArray[np.int32]:
    """Item ids at flat positions, in their order."""
    chunks = log.item_chunks()
    first = np.cumsum([0, *(len(chunk) for chunk in chunks)])
    shard = np.searchsorted(first, position, side="right") - 1
    items = np.empty(len(position), dtype=np.int32)
    for number, chunk in enumerate(chunks):
        here = shard == number
        items[here] = chunk[position[here] - first[number]]
    return items


def training_mask(offset_U: NDArray[np.int64], train_end_U: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which flat positions belong to somebody's training part."""
    change = np.zeros(int(offset_U[-1]) + 1, dtype=np.int8)
    change[offset_U[:-1]] += 1
    np.subtract.at(change, train_end_U, 1)
    return np.cumsum(change[:-1], dtype=np.int8).astype(np.bool_)
