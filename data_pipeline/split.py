"""Which part of every user's sequence trains, validates and tests: a view by flat positions, never a copy."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.schema import DataError
from data_pipeline.store import SequenceLog


@dataclass(frozen=True)
class Targets:
    """One held-out interaction a user; its history is the flat range [offset_U[user_id], position)."""

    user_id: NDArray[np.int32]
    position: NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """train_end_U: flat position where each user's training part ends; it begins at offset_U[user]."""

    train_end_U: NDArray[np.int64]
    valid: Targets
    test: Targets
    counts: dict[str, int]


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
