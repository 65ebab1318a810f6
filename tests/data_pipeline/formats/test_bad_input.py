"""Every mistake gives one DataError: where it is, what is wrong, what was expected."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqsweep.data_pipeline.config import DataConfig

Write = Callable[[str, str | bytes], Path]
ErrorOf = Callable[[DataConfig], str]

GOOD = "".join(f"{user},{item},{100 + item}\n" for user in (1, 2) for item in (10, 20, 30))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", GOOD + "1,40\n", ["line 7", "ragged row of 2 columns", "first row has 3", "'1,40'"]),
        ("a.csv", GOOD + "1,40,5,6\n", ["line 7", "ragged row of 4 columns"]),
        (
            "a.csv",
            GOOD + "1,40,yesterday\n",
            ["line 7", "non-numeric timestamp 'yesterday'", "expected a timestamp"],
        ),
        ("a.csv", GOOD + "1,40,\n", ["line 7", "non-numeric timestamp ''"]),
        ("a.csv", GOOD + "1,40,nan\n", ["line 7", "non-numeric timestamp 'nan'"]),
        ("a.csv", GOOD + "1,40,-5\n", ["line 7", "negative timestamp '-5'"]),
        ("a.csv", GOOD + "1,40,-0.5\n", ["line 7", "negative timestamp '-0.5'"]),
        ("a.csv", GOOD + "1,40,1e30\n", ["line 7", "too large a timestamp '1e30'"]),
        (
            "a.csv",
            GOOD + "1,40,2001-01-01\n",
            ["line 7", "'2001-01-01' is written as iso", "one form throughout"],
        ),
        ("a.csv", "1,2,1969-12-31\n" + GOOD, ["line 1", "negative (before 1970) timestamp '1969-12-31'"]),
        ("a.csv", "1,2,2001-01-01\n1,2,1960-01-01\n", ["line 2", "negative (before 1970)"]),
        ("a.csv", GOOD + ",40,5\n", ["line 7", "empty user id", "',40,5'"]),
        ("a.csv", GOOD + "1,  ,5\n", ["line 7", "empty item id"]),
        ("a.csv", GOOD + '1,"40,5\n', ["line 7"]),
        ("a.csv", GOOD.encode() + b"1,caf\xe9,5\n", ["line 7", "wrong encoding", "item", "iconv -f LATIN1"]),
        ("a.csv", GOOD.encode("utf-16"), ["line 1", "wrong encoding", "UTF-16"]),
        ("a.csv", "user,item,time\n" + GOOD + "1,40,x\n", ["line 8", "non-numeric timestamp"]),
        ("a.csv", "\n\n" + GOOD + "\n1,40,x\n", ["line 10", "non-numeric timestamp"]),
        ("a.csv", 'user,item,note\n1,2,"a\nb"\n,2,c\n', ["line 4", "empty user id"]),
        (
            "a.csv",
            "when,item,time\n" + GOOD,
            ["line 1", "missing column user", "when, item, time", "columns="],
        ),
        ("a.csv", "1,2,3,4,5\n", ["line 1", "5 columns", "number them from 0"]),
        ("a.csv", "user,item\n", ["empty below its header"]),
        ("a.csv", "", ["the file is empty"]),
        ("a.txt", " \n\n", ["the file is empty"]),
        ("a.txt", "1 2 3\n1 2\n", ["line 2", "ragged row of 2 columns", "white space"]),
        ("a.txt", "1 2 3\n1  2\t x\n", ["line 2", "non-numeric timestamp 'x'"]),
        ("a.txt", "1\n", ["line 1", "1 columns", "user item timestamp", 'format="delimited"']),
        ("a.txt", "1 2 3 4\n", ["line 1", "4 columns", "columns="]),
        ("u.data", "1\t2\t5\t9\n1\t\t5\t9\n", ["line 2", "empty item id"]),
        ("u.data", "1 2 5 9\n", ["line 1", "1 columns", "tabs"]),
        ("ratings.dat", "1::2::5::9\n1::2::9\n", ["line 2", "ragged row of 3 columns", "`::`"]),
        ("ratings.dat", "1::2::5::9\n1::2::5::\n", ["line 2", "non-numeric timestamp ''"]),
        ("a.txt.gz", b"1 2 3\n", ["line 1", "not gzip data", ".gz"]),
    ],
)
def test_text(write: Write, error_of: ErrorOf, name: str, content: str | bytes, words: list[str]) -> None:
    path = write(name, content)
    message = error_of(DataConfig(path=str(path)))
    assert message.startswith(str(path))
    for word in words:
        assert word in message


def test_offending_text_is_cut_to_80_characters(write: Write, error_of: ErrorOf) -> None:
    message = error_of(DataConfig(path=str(write("a.csv", GOOD + "1,2,3," + "x" * 500 + "\n"))))
    assert "1,2,3," + "x" * 74 + "..." in message
    assert "x" * 75 not in message


def test_truncated_gzip(write: Write, error_of: ErrorOf) -> None:
    content = gzip.compress("".join(f"{n} {n * n}\n" for n in range(50_000)).encode())
    message = error_of(DataConfig(path=str(write("a.txt.gz", content[: len(content) // 2]))))
    line = int(message.split("line ")[1].split(":")[0])
    assert "truncated gzip file" in message
    assert "copy or download it again" in message
    assert 10_000 < line < 50_000


@pytest.mark.parametrize("name", ["a.txt", "a.parquet", "a.csv.gz"])
def test_missing_file(tmp_path: Path, error_of: ErrorOf, name: str) -> None:
    message = error_of(DataConfig(path=str(tmp_path / name)))
    assert message.startswith(f"{tmp_path / name}: no such file")


@pytest.mark.parametrize("form", ["auto", "plain", "columnar"])
def test_empty_folder(tmp_path: Path, error_of: ErrorOf, form: str) -> None:
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".part-0.csv.crc").touch()
    message = error_of(DataConfig(path=str(tmp_path), format=form))
    assert message.startswith(f"{tmp_path}: the folder holds no files")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"min_rating": 4.0}, ["missing column rating"]),
        ({"columns": {"user": "0", "item": "1"}, "start_time": 5}, ["missing column timestamp"]),
        ({"columns": {"user": "0", "item": "7"}}, ["missing column '7' for item", "0, 1, 2"]),
        ({"columns": {"user": "0"}}, ["missing column item"]),
        ({"columns": {"user": "userId", "item": "1"}}, ["missing column 'userId' for user"]),
        ({"columns": {"user": "0", "item": "0"}}, ["a different column for every role"]),
    ],
)
def test_missing_columns(
    write: Write, error_of: ErrorOf, settings: dict[str, object], words: list[str]
) -> None:
    path = write("a.csv", GOOD)
    message = error_of(DataConfig.model_validate({"path": str(path), **settings}))
    for word in [str(path), *words]:
        assert word in message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"min_rating": 6}, ["filter min_rating (min_rating=6.0)", "all 6 interactions"]),
        ({"start_time": 500}, ["filter time_range (start_time=500, end_time=None)"]),
        ({"min_user_interactions": 4}, ["filter k_core (min_user_interactions=4, min_item_interactions=1"]),
        ({"min_item_interactions": 9, "k_core": "single"}, ["filter k_core", "k_core=single"]),
    ],
)
def test_nothing_left(write: Write, error_of: ErrorOf, settings: dict[str, object], words: list[str]) -> None:
    path = write("a.csv", "user,item,rating,time\n" + GOOD.replace(",1", ",5,1"))
    path.write_text(
        "user,item,rating,time\n" + "".join(f"{u},{i},5,{100 + i}\n" for u in (1, 2) for i in (1, 2, 3))
    )
    message = error_of(DataConfig.model_validate({"path": str(path), **settings}))
    for word in ["nothing is left after the", *words]:
        assert word in message


def test_short_users_only(write: Write, error_of: ErrorOf) -> None:
    message = error_of(DataConfig(path=str(write("a.txt", "1 2\n1 3\n2 2\n"))))
    assert (
        "fewer than 3 interactions for every user: the longest of 2 sequences has 2 (after read)" in message
    )


def table(**columns: Any) -> pa.Table:
    return pa.table({"user": [1, 1, 2], "item": ["a", "b", "c"], "time": [1, 2, 3], **columns})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (table(user=[1, None, 2]), ["row 2", "empty user id"]),
        (table(item=["a", "b", " "]), ["row 3", "empty item id"]),
        (table(item=["a", None, "c"]), ["row 2", "empty item id"]),
        (table(time=[1, -2, 3]), ["row 2", "negative timestamp -2"]),
        (table(time=[1.0, 2.0, float("nan")]), ["row 3", "non-numeric timestamp nan"]),
        (table(time=[1, None, 3]), ["row 2", "non-numeric timestamp None"]),
        (table(time=["2001-01-01", "x", "2001-01-02"]), ["row 2", "timestamp 'x'"]),
        (table(time=["-1", "2", "3"]), ["row 1", "timestamp '-1'"]),
        (
            table(time=pa.array([1, 2, 3], pa.float32())),
            ["timestamp column 'time'", "float", "never float32"],
        ),
        (table(time=[1.0, 2.0, 1e30]), ["row 3", "too large a timestamp 1e+30"]),
        (table(user=[1.0, 2.0, 3.0]), ["user column 'user'", "double", "expected integers or strings"]),
        (table(time=[[1], [2], [3]]), ["timestamp column 'time'", "list"]),
        (table().drop_columns(["item"]), ["missing column item"]),
        (table().slice(0, 0), ["the file is empty"]),
    ],
)
def test_columnar(tmp_path: Path, error_of: ErrorOf, content: pa.Table, words: list[str]) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(content, path)
    message = error_of(DataConfig(path=str(path)))
    for word in [str(path), *words]:
        assert word in message


def test_bad_rating_in_parquet(tmp_path: Path, error_of: ErrorOf) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(table(rating=[1.0, None, 3.0]), path)
    assert "row 2: non-numeric rating None" in error_of(DataConfig(path=str(path), min_rating=1.0))


@pytest.mark.parametrize(
    ("name", "form"), [("a.parquet", "Parquet"), ("a.arrow", "Arrow"), ("a.feather", "Feather")]
)
def test_broken_columnar_file(write: Write, error_of: ErrorOf, name: str, form: str) -> None:
    path = write(name, b"PAR1 no such thing")
    message = error_of(DataConfig(path=str(path)))
    assert f"{path}: not readable as a {form} file" in message


def test_files_of_different_kinds(tmp_path: Path, error_of: ErrorOf) -> None:
    pq.write_table(table(), tmp_path / "a.parquet")
    pq.write_table(table(time=["2001-01-01", "2001-01-02", "2001-01-03"]), tmp_path / "b.parquet")
    assert "columns of one kind in all files" in error_of(DataConfig(path=str(tmp_path)))


def test_settings() -> None:
    with pytest.raises(
        ValueError, match="start_time must be below end_time, got start_time=5 and end_time=5"
    ):
        DataConfig(start_time=5, end_time=5)
    with pytest.raises(ValueError, match="as time or as timestamp, got both"):
        DataConfig(columns={"time": "a", "timestamp": "b"})
    with pytest.raises(ValueError, match="colums"):
        DataConfig.model_validate({"colums": {}})
