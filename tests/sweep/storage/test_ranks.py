import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqsweep.results import files as files_module
from seqsweep.results.metrics import Ranks
from seqsweep.sweep.storage.trial_files import UserRanks, checkpoint_path, ranks_path, read_ranks, write_ranks


def user_ranks(*rows: tuple[int, int, int]) -> UserRanks:
    """Of (user_id, better, tied)."""
    user, better, tied = np.array(rows, np.int64).reshape(-1, 3).T
    return UserRanks(user.astype(np.int32), Ranks(better, tied))


VALID = user_ranks((0, 4, 1), (2, 0, 1), (5, 7, 3))
TEST = user_ranks((0, 1, 1), (2, 9, 2))


def rows(ranks: Ranks) -> list[tuple[int, int]]:
    return list(zip(ranks.better_U.tolist(), ranks.tied_U.tolist(), strict=True))


def test_ranks_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_ranks(tmp_path / "ranks.parquet", valid=VALID, test=TEST)
    found = read_ranks(tmp_path / "ranks.parquet")
    assert {split: rows(ranks) for split, ranks in found.items()} == {
        "valid": [(4, 1), (0, 1), (7, 3)],
        "test": [(1, 1), (9, 2)],
    }


def test_columns(tmp_path: Path) -> None:
    write_ranks(tmp_path / "ranks.parquet", valid=VALID, test=TEST)
    table = pq.read_table(tmp_path / "ranks.parquet")
    types = {"split": pa.string(), "user_id": pa.int64(), "better": pa.int64(), "tied": pa.int64()}
    assert {field.name: field.type for field in table.schema} == types
    assert table.to_pylist()[2:4] == [
        {"split": "valid", "user_id": 5, "better": 7, "tied": 3},
        {"split": "test", "user_id": 0, "better": 1, "tied": 1},
    ]


@settings(max_examples=20)  # each syncs a file
@given(
    ranks=st.dictionaries(st.integers(0, 2**31 - 1), st.tuples(st.integers(0, 2**40), st.integers(1, 2**40)))
)
def test_users_are_in_the_order_of_their_ids(
    ranks: dict[int, tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """So that those of several trials can be laid side by side."""
    path = tmp_path_factory.mktemp("ranks") / "ranks.parquet"
    write_ranks(path, valid=user_ranks(*((user, *ranks[user]) for user in ranks)), test=TEST)
    assert rows(read_ranks(path)["valid"]) == [ranks[user] for user in sorted(ranks)]


def test_the_file_lies_beside_the_checkpoint(tmp_path: Path) -> None:
    path = ranks_path(tmp_path, 7)
    assert path == tmp_path / "trials" / "00007" / "ranks.parquet"
    assert path.parent == checkpoint_path(tmp_path, 7).parent


@pytest.mark.parametrize("step", ["sync", "replace"])
def test_a_failed_write_leaves_what_was_there(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    path = tmp_path / "ranks.parquet"
    write_ranks(path, valid=TEST, test=TEST)
    before = path.read_bytes()
    monkeypatch.setattr(*((files_module, "sync") if step == "sync" else (os, "replace")), fail)
    with pytest.raises(OSError, match="no space left"):
        write_ranks(path, valid=VALID, test=TEST)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_trial_without_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_ranks(ranks_path(tmp_path, 0))
