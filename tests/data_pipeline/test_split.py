from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from data_pipeline.prepare import DataConfig, prepare
from data_pipeline.schema import DataError
from data_pipeline.split import count_cold_targets, items_at, leave_one_out
from data_pipeline.store import open_log


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
