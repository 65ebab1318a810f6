"""RecBole's files, JSON lines, sequences; logs in several files; tables from Python."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.formats.recognise import input_files, source_format
from seqsweep.data_pipeline.formats.sources import read_interactions, read_table
from seqsweep.data_pipeline.formats.text_file import COMPRESSIONS, Codec
from seqsweep.data_pipeline.formats.user_lines import BLOCK_BYTES

Write = Callable[[str, str | bytes], Path]
ReadRows = Callable[[DataConfig], list[tuple[object, ...]]]
ErrorOf = Callable[[DataConfig], str]

ROWS = [(1, 10, 100), (2, 10, 90), (1, 30, 80), (2, 20, 95)]
CSV = "userId,movieId,timestamp\n" + "".join(f"{user},{item},{time}\n" for user, item, time in ROWS)
INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + "".join(
    f"{user}\t{item}\t4.5\t{time}.0\n" for user, item, time in ROWS
)


def config(path: Path, **settings: object) -> DataConfig:
    return DataConfig.model_validate({"path": str(path), **settings})


def json_lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def named(names: tuple[str, str, str], scale: int = 1) -> list[dict[str, object]]:
    return [
        dict(zip(names, (user, item, time * scale), strict=True), text="so, so {good}")
        for user, item, time in ROWS
    ]


# --- RecBole


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.inter", INTER),
        ("LOG.INTER", INTER),
        ("windows.inter", INTER.replace("\n", "\r\n")),
        ("mark.inter", b"\xef\xbb\xbf" + INTER.encode()),
        (
            "more.inter",
            "note:token_seq\ttimestamp:float\titem_id:token\tuser_id:token\n"
            + "".join(f'a "b\t{time}\t{item}\t{user}\n' for user, item, time in ROWS),
        ),
        ("log.txt", INTER),
    ],
)
def test_recbole(write: Write, read_rows: ReadRows, name: str, content: str | bytes) -> None:
    path = write(name, content)
    assert source_format(config(path)) == "recbole"
    assert read_rows(config(path)) == ROWS
    assert read_interactions(config(path)).schema.metadata == {b"time_unit": b"s"}


@pytest.mark.parametrize("name", ["who", "who:token"])
def test_recbole_columns_by_name(write: Write, read_rows: ReadRows, name: str) -> None:
    path = write("log.inter", "who:token\titem_id:token\n1\t10\n")
    assert read_rows(config(path, columns={"user": name})) == [(1, 10)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (INTER.replace(":token", ""), ["line 1", "is not typed", "user_id:token", 'format="delimited"']),
        (INTER.replace("\t", ","), ["line 1", "is not typed", "tabs between"]),
        (INTER.replace("item_id:token", "item_id:token_seq"), ["line 1", "'item_id' has type token_seq"]),
        (INTER.replace("user_id:token", "user_id:float"), ["line 1", "'user_id' has type float"]),
        (INTER.replace("timestamp:float", "timestamp:float_seq"), ["'timestamp' has type float_seq"]),
        (INTER.replace("user_id", "person"), ["missing column user", "person, item_id, rating, timestamp"]),
        (INTER + "1\t\t5\t6\n", ["line 6", "empty item id"]),
        (INTER + "1\t2\t5\n", ["line 6", "ragged row of 3 columns"]),
        (INTER.split("\n")[0], ["empty below its header"]),
    ],
)
def test_bad_recbole(write: Write, error_of: ErrorOf, content: str, words: list[str]) -> None:
    path = write("log.inter", content)
    message = error_of(config(path))
    for word in [str(path), *words]:
        assert word in message


# --- JSON lines


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.jsonl", json_lines(named(("user", "item", "timestamp")))),
        ("log.ndjson", json_lines(named(("userId", "itemId", "time")))),
        ("reviews.json", json_lines(named(("reviewerID", "asin", "unixReviewTime")))),
        ("text.txt", json_lines(named(("reviewerID", "asin", "unixReviewTime")))),
        ("blank.jsonl", "\n" + json_lines(named(("user", "item", "timestamp"))).replace("\n", "\n\n")),
        ("windows.jsonl", json_lines(named(("user", "item", "timestamp"))).replace("\n", "\r\n")),
        ("mark.jsonl", b"\xef\xbb\xbf" + json_lines(named(("user", "item", "timestamp"))).encode()),
        ("no_end.jsonl", json_lines(named(("user", "item", "timestamp"))).rstrip()),
        ("text_ids.jsonl", json_lines([{"user": str(u), "item": str(i), "time": t} for u, i, t in ROWS])),
        ("float.jsonl", json_lines([{"user": u, "item": i, "time": t + 0.0} for u, i, t in ROWS])),
        (
            "some.jsonl",
            json_lines([{"user": u, "item": i, "time": t if t > 90 else t + 0.0} for u, i, t in ROWS]),
        ),
        ("text_times.jsonl", json_lines([{"user": u, "item": i, "time": str(t)} for u, i, t in ROWS])),
        (
            "order.jsonl",
            json_lines([{"x": [1, {"user": 5}], "time": t, "item": i, "user": u} for u, i, t in ROWS]),
        ),
    ],
)
def test_json_lines(write: Write, read_rows: ReadRows, name: str, content: str | bytes) -> None:
    path = write(name, content)
    assert source_format(config(path)) == "json_lines"
    assert read_rows(config(path)) == ROWS


def test_amazon_2023_has_milliseconds(write: Write) -> None:
    rows = [
        {
            "rating": 5.0,
            "asin": "B1",
            "parent_asin": "P1",
            "user_id": "A",
            "timestamp": 1588687728923,
            "images": [],
        },
        {"rating": 1.0, "asin": "B2", "parent_asin": "P2", "user_id": "A", "timestamp": 1588687728924},
    ]
    table = read_interactions(config(write("Books.jsonl", json_lines(rows)), min_rating=1.0))
    assert table["item"].to_pylist() == ["P1", "P2"]
    assert table["rating"].to_pylist() == [5.0, 1.0]
    assert table["timestamp"].to_pylist() == [1588687728923, 1588687728924]
    assert table.schema.metadata == {b"time_unit": b"ms"}


def test_json_times_may_be_iso_text(write: Write) -> None:
    rows = [{"user": 1, "item": 2, "time": f"2001-01-01T00:00:0{second}Z"} for second in (1, 0)]
    table = read_interactions(config(write("log.jsonl", json_lines(rows))))
    assert table["timestamp"].to_pylist() == [978_307_201, 978_307_200]


def test_json_fields_by_name(write: Write, read_rows: ReadRows) -> None:
    path = write("log.jsonl", json_lines(named(("who", "what", "when"))))
    assert read_rows(config(path, columns={"user": "who", "item": "what", "time": "when"})) == ROWS


def test_json_object_longer_than_a_block(write: Write, read_rows: ReadRows) -> None:
    rows: list[dict[str, object]] = [{"user": 1, "item": 2, "text": "x" * 5_000_000}, {"user": 1, "item": 3}]
    assert read_rows(config(write("log.jsonl", json_lines(rows)))) == [(1, 2), (1, 3)]


GOOD = json_lines([{"user": "a", "item": 1, "time": 5}, {"user": "b", "item": 2, "time": 6}])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD + '{"user": "c", "time": 5}\n', ["line 3", "no item id ('item' is missing or null)"]),
        (GOOD + '\n{"user": null, "item": 1, "time": 5}\n', ["line 4", "no user id"]),
        (
            GOOD + '{"user": 7, "item": 1, "time": 5}\n',
            ["line 3", "integer, before as text", "write all as text"],
        ),
        (GOOD + '{"user": "c", "item": "d", "time": 5}\n', ["line 3", "text, before as integer"]),
        (GOOD + '{"user": "c", "item": 1.5, "time": 5}\n', ["line 3", "item 'item' written as number"]),
        (GOOD + '{"user": "c", "item": true, "time": 5}\n', ["line 3", "written as true or false"]),
        (GOOD + '{"user": "c", "item": 99999999999999999999, "time": 5}\n', ["line 3", "beyond 64 bits"]),
        (GOOD + '{"user": " ", "item": 1, "time": 5}\n', ["line 3", "empty user id"]),
        (GOOD + '{"user": "c", "item": 1}\n', ["line 3", "no timestamp"]),
        (GOOD + '{"user": "c", "item": 1, "time": -5}\n', ["line 3", "negative timestamp '-5'"]),
        (GOOD + '{"user": "c", "item": 1, "time": NaN}\n', ["line 3", "non-numeric timestamp 'nan'"]),
        (GOOD + '{"user": "c", "item": 1, "time": "5"}\n', ["line 3", "text, before as integer"]),
        (GOOD + '{"user": "c", "user": "d", "item": 1, "time": 5}\n', ["line 3", "'user' twice"]),
        (GOOD + '{"user": "c", "item": 1, "time"', ["line 3", "no JSON"]),
        (GOOD + "{'user': 'c', 'item': 1, 'time': 5}\n", ["line 3", "no JSON"]),
        (GOOD + '{"user": "\\ud83d", "item": 1, "time": 5}\n', ["line 3", "surrogate pair"]),
        (
            GOOD.encode() + b'{"user": "caf\xe9", "item": 1, "time": 5}\n',
            ["line 3", "wrong encoding", "iconv"],
        ),
        (GOOD + "[]\n", ["line 3", "no JSON object"]),
        (GOOD + '{"user": "a\\u0000", "item": 1, "time": 5}\n', ["line 3", "a NUL byte in the user id"]),
        (
            "{'reviewerID': 'A', 'asin': '1'}\n",
            ["line 1", "a Python dictionary and no JSON", "ast.literal_eval"],
        ),
        ('[{"user": 1, "item": 2}]\n', ["line 1", "a JSON array", "jq -c '.[]'"]),
        ('{\n  "user": 1,\n  "item": 2\n}\n', ["line 1", "does not end in its line", "jq -c ."]),
        ('{"user": 1, "product": {"id": 5}}\n', ["line 1", "written as object"]),
        ('{"who": 1, "item": 2}\n', ["line 1", "missing column user", "who, item"]),
        ("user,item\n1,2\n", ["line 1", "no JSON object"]),
        ("", ["the file is empty"]),
    ],
)
def test_bad_json(write: Write, error_of: ErrorOf, content: str | bytes, words: list[str]) -> None:
    path = write("log.jsonl", content)
    message = error_of(config(path))
    for word in [str(path), *words]:
        assert word in message


# --- sequences


@pytest.mark.parametrize("name", ["log.sequences", "log.seq", "log.seq.gz"])
@pytest.mark.parametrize(
    "content",
    [
        "1 10 20 30\n2 10\n1 40\n",
        "\r\n1\t10  20 30 \r\n\r\n 2 10\r\n1 40",
        "1 10 20 30\r2 10\r1 40\r",
        "\ufeff1 10 20 30\n2 10\n1 40",
    ],
)
def test_sequences(tmp_path: Path, read_rows: ReadRows, name: str, content: str) -> None:
    path = tmp_path / name
    with (
        pa.CompressedOutputStream(str(path), "gzip")
        if name.endswith(".gz")
        else pa.OSFile(str(path), "wb") as out
    ):
        out.write(content.encode())
    assert read_rows(config(path)) == [(1, 10), (1, 20), (1, 30), (2, 10), (1, 40)]


def test_sequences_in_a_text_file(write: Write, read_rows: ReadRows) -> None:
    assert read_rows(config(write("log.txt", "a 1 2\n"), format="sequences")) == [("a", 1), ("a", 2)]


def test_sequences_longer_than_a_block(write: Write) -> None:
    items = " ".join(map(str, range(1_000_000, 1_000_000 + 5 * 10**5)))
    path = write("log.seq", f"1 {items}\n2 {items}\n" * 4 + "3 5\n")
    assert path.stat().st_size > BLOCK_BYTES
    table = read_interactions(config(path))
    assert table.num_rows == 8 * 5 * 10**5 + 1
    user = table["user"].to_numpy()
    assert [int((user == one).sum()) for one in (1, 2, 3)] == [2_000_000, 2_000_000, 1]


@pytest.mark.parametrize(
    ("content", "settings", "words"),
    [
        ("1 2 3\n4\n", {}, ["line 2", "a user without items", "(in '4')"]),
        ("1\n", {}, ["line 1", "a line of one word"]),
        (b"1 2 3\n4 caf\xe9\n", {}, ["line 2", "wrong encoding"]),
        ("1 2 3\n4 \u00a0 5\n", {}, ["line 2", "empty id"]),
        ("1 2 3\n", {"min_rating": 3}, ["missing column rating"]),
        ("1 2 3\n", {"columns": {"user": "0"}}, ["no columns to choose"]),
    ],
)
def test_bad_sequences(
    write: Write, error_of: ErrorOf, content: str | bytes, settings: dict[str, object], words: list[str]
) -> None:
    path = write("log.seq", content)
    message = error_of(config(path, **settings))
    for word in [str(path), *words]:
        assert word in message


# --- what a file is, by its content


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("ratings.txt", CSV, "delimited"),
        ("ratings.txt", CSV.replace(",", "\t"), "plain"),
        ("ratings.TXT", CSV.split("\n", 1)[1], "delimited"),
        ("ratings", CSV, "delimited"),
        ("ratings.log", CSV.replace(",", "|"), "delimited"),
        ("ratings.dat", CSV.split("\n", 1)[1].replace(",", "::"), "delimited"),
        ("ratings.dat", CSV.split("\n", 1)[1].replace(",", ";"), "delimited"),
        ("log.txt", CSV.split("\n", 1)[1].replace(",", " "), "plain"),
        ("log.txt", CSV.replace(",", "  "), "plain"),
        ("part-00000", CSV.split("\n", 1)[1].replace(",", "\t"), "plain"),
        ("caret.csv", CSV.replace(",", "^"), "delimited"),
        ("colons.csv", CSV.replace(",", "::"), "delimited"),
        ("blanks.csv", CSV.replace(",", " "), "delimited"),
        ("blanks.csv", CSV.replace(",", "  "), "delimited"),
        ("blanks.csv", CSV.replace(",", " ").replace("userId", '"userId"'), "delimited"),
        ("old_mac.csv", CSV.replace("\n", "\r"), "delimited"),
        ("old_mac.txt", CSV.split("\n", 1)[1].replace(",", " \t").replace("\n", "\r"), "plain"),
        ("bom.txt", "\ufeff" + CSV, "delimited"),
        ("windows.txt", CSV.replace(",", " ").replace("\n", "\r\n"), "plain"),
        ("quoted.dat", CSV.replace("userId", '"userId"'), "delimited"),
        (
            "three,commas.txt",
            "userId,movieId,timestamp,tag\n" + CSV.split("\n", 1)[1].replace("\n", ",a b c\n"),
            "delimited",
        ),
        ("commas_in_text.csv", "".join(f"{u}|{i}|3|{t}\n" for u, i, t in ROWS), "delimited"),
        ("four.dat", "".join(f"{u}\t{i}\t3\t{t}\n" for u, i, t in ROWS), "movielens"),
        ("four.txt", "".join(f"{u}::{i}::3.5::{t}\n" for u, i, t in ROWS), "movielens"),
        (
            "named.data",
            "user\titem\trating\ttime\n" + "".join(f"{u}\t{i}\t3\t{t}\n" for u, i, t in ROWS),
            "delimited",
        ),
    ],
)
def test_format_from_content(
    write: Write, read_rows: ReadRows, name: str, content: str, expected: str
) -> None:
    path = write(name, content)
    assert source_format(config(path)) == expected
    assert read_rows(config(path)) == ROWS


@pytest.mark.parametrize("name", ["log.csv", "log.txt", "log", "log.pq"])
def test_columnar_by_its_first_bytes(tmp_path: Path, read_rows: ReadRows, name: str) -> None:
    table = pa.table(dict(zip(("user", "item", "time"), zip(*ROWS, strict=True), strict=True)))
    path = tmp_path / name
    pq.write_table(table, path)
    assert read_rows(config(path)) == ROWS
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    assert read_rows(config(path)) == ROWS


@pytest.mark.parametrize(
    "content", ["so it was, and\nnothing else to be said about it\n", "word\n", "a b c d\n1 2\n"]
)
def test_no_format_can_be_told(write: Write, content: str) -> None:
    path = write("README", content)
    with pytest.raises(
        DataError, match=r"README: the format cannot be told .* set format to one of plain, delim"
    ):
        source_format(config(path))


def test_the_format_that_is_set_counts(write: Write, read_rows: ReadRows) -> None:
    path = write("log.txt", "a,b c,d 5\n")
    assert source_format(config(path)) == "delimited"
    assert read_rows(config(path, format="plain")) == [("a,b", "c,d", 5)]


# --- several files


def split_rows(folder: Path, name: str, header: str, line: str, codec: Codec | None = None) -> None:
    folder.mkdir(exist_ok=True)
    for number in (0, 1):
        text = header + "".join(line.format(u=u, i=i, t=t) for u, i, t in ROWS[2 * number : 2 * number + 2])
        path = str(folder / name.format(n=number))
        with pa.CompressedOutputStream(path, codec) if codec else pa.OSFile(path, "wb") as out:
            out.write(text.encode())


@pytest.mark.parametrize(
    ("name", "header", "line"),
    [
        ("part-{n}.csv", "user,item,time\n", "{u},{i},{t}\n"),
        ("part-{n}.txt", "", "{u} {i} {t}\n"),
        ("part-0000{n}", "", "{u}\t{i}\t{t}\n"),
        ("{n}.dat", "", "{u}::{i}::5::{t}\n"),
        ("{n}.inter", "user_id:token\titem_id:token\ttimestamp:float\n", "{u}\t{i}\t{t}\n"),
        ("{n}.json", "", '{{"user": {u}, "item": {i}, "time": {t}}}\n'),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_text_in_several_files(
    tmp_path: Path, read_rows: ReadRows, name: str, header: str, line: str, suffix: str
) -> None:
    folder = tmp_path / "log"
    split_rows(folder, name + suffix, header, line, COMPRESSIONS.get(suffix))
    for other in ("_SUCCESS", ".part-0.csv.crc", ".hidden.csv", "_temporary.txt"):
        (folder / other).write_text("1")
    assert read_rows(config(folder)) == ROWS
    assert read_rows(config(folder / (name.replace("{n}", "[01]*") + suffix))) == ROWS
    assert read_rows(config(folder / (name.format(n=1) + suffix))) == ROWS[2:]


def test_ids_of_several_files_are_those_of_one_log(tmp_path: Path, read_rows: ReadRows) -> None:
    (tmp_path / "a.csv").write_text("user,item\n7,1\n")
    (tmp_path / "b.csv").write_text("user,item\nanna,1\n7,2\n")
    assert read_rows(config(tmp_path)) == [("7", 1), ("anna", 1), ("7", 2)]
    (tmp_path / "b.csv").write_text("user,item\n07,1\n7,2\n")
    assert read_rows(config(tmp_path)) == [("7", 1), ("07", 1), ("7", 2)]


def test_times_of_several_files_have_one_unit(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item,time\n7,1,100\n")
    (tmp_path / "b.csv").write_text("user,item,time\n7,1,100.5\n")
    table = read_interactions(config(tmp_path))
    assert table["timestamp"].to_pylist() == [100_000_000, 100_500_000]
    assert table.schema.metadata == {b"time_unit": b"us"}


def test_several_formats_in_a_folder(tmp_path: Path, error_of: ErrorOf, read_rows: ReadRows) -> None:
    folder = tmp_path / "log"
    split_rows(folder, "{n}.csv", "user,item,time\n", "{u},{i},{t}\n")
    (folder / "c.jsonl").write_text('{"user": 1, "item": 2, "time": 3}\n')
    (folder / "README.md").write_text("What this is:\n\n* a log\n")
    message = error_of(config(folder))
    for word in [
        str(folder),
        "delimited (0.csv, 1.csv)",
        "json_lines (c.jsonl)",
        "glob",
        "set format to one of",
    ]:
        assert word in message
    assert read_rows(config(folder, format="delimited")) == ROWS
    assert read_rows(config(folder, format="json_lines")) == [(1, 2, 3)]
    assert [file.name for file in input_files(config(folder / "*.csv"))] == ["0.csv", "1.csv"]


def test_an_error_names_the_file_and_its_line(tmp_path: Path, error_of: ErrorOf) -> None:
    folder = tmp_path / "log"
    split_rows(folder, "{n}.csv", "user,item,time\n", "{u},{i},{t}\n")
    (folder / "1.csv").write_text("user,item,time\n1,2,3\n1,,4\n")
    assert error_of(config(folder)).startswith(f"{folder / '1.csv'}, line 3: empty item id")
    (folder / "1.csv").write_text("user,item\n1,2\n")
    assert (
        f"{folder / '1.csv'}: has user, item where {folder / '0.csv'} has user, item, timestamp"
        in error_of(config(folder))
    )
    (folder / "1.csv").write_text("user,item,time\n")
    assert f"{folder / '1.csv'}: the file is empty below its header" in error_of(config(folder))


def test_an_empty_text_in_a_folder_is_not_passed_over(tmp_path: Path, error_of: ErrorOf) -> None:
    folder = tmp_path / "log"
    split_rows(folder, "{n}.txt", "", "{u} {i} {t}\n")
    (folder / "2.txt").touch()
    assert f"{folder / '2.txt'}: the file is empty" in error_of(config(folder))


# --- long and odd text


def test_text_field_longer_than_a_block(write: Write, read_rows: ReadRows) -> None:
    long = "x" * 3_000_000
    path = write("log.csv", f'user,item,text\n1,2,"{long}"\n1,3,{long}\n')
    assert read_rows(config(path)) == [(1, 2), (1, 3)]
    path.write_text(f"user,item,text\n1,2,{long}\n1,,{long}\n")
    with pytest.raises(DataError, match="line 3: empty item id"):
        read_interactions(config(path))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.csv",
            'user,item,text\n1,2,"a"\n1,3,"b\n1,4,c\n1,5,d\n',
            ["line 3", "a quotation mark is left open"],
        ),
        ("a.csv", "user,item\n1,2\n1,\0\n", ["line 1", "binary"]),
        ("a.csv", "user,item\n" + "1,2\n" * 20_000 + "1,a\0b\n", ["line 20002", "NUL byte in the item id"]),
        ("a.csv", "1,2,3\n" * 9 + "\ufeff1,2,3\n", ["line 10", "byte order mark in the user id"]),
        ("a.csv", "1,2,3\n0x1F,2,3\n4,5,x\n", ["line 3", "non-numeric"]),
        ("a.txt", "1 2 2001-13-01\n", ["line 1", "non-numeric timestamp '2001-13-01'"]),
        ("a.txt", "1 2 2001-01-01\n1 2 2001-02-30\n", ["line 2", "non-numeric timestamp '2001-02-30'"]),
        ("a.csv", b"\x1f\x8b\x08\x00\xff\xff\x00", ["line 1", "gzip (.gz) data where text is expected"]),
        ("a.csv", "1,2,٣\n", ["line 1", "non-numeric timestamp '٣'"]),
    ],
)
def test_odd_text(write: Write, error_of: ErrorOf, name: str, content: str | bytes, words: list[str]) -> None:
    path = write(name, content)
    message = error_of(config(path))
    for word in [str(path), *words]:
        assert word in message


@pytest.mark.parametrize("number", ["0x1F", "-0", "007", "+7"])
def test_odd_integers_stay_text(write: Write, read_rows: ReadRows, number: str) -> None:
    for end in ("\n", ""):
        path = write("a.csv", f"user,item\n1,5\n2,{number}{end}")
        assert read_rows(config(path)) == [(1, "5"), (2, number)]


# --- tables from Python


def frame(**columns: Any) -> pd.DataFrame:
    user, item, time = zip(*ROWS, strict=True)
    return pd.DataFrame({"userId": user, "movieId": item, "timestamp": time} | columns, index=[5, 5, 7, 9])


def moments(unit: str, zone: str | None) -> "pd.Series[Any]":
    times = pd.to_datetime([time for _, _, time in ROWS], unit="s", utc=True).as_unit(unit)  # type: ignore[arg-type]
    return pd.Series(times.tz_convert(zone) if zone else times.tz_localize(None), index=[5, 5, 7, 9])


@pytest.mark.parametrize(
    "table",
    [
        frame(),
        frame().astype("Int64"),
        frame().astype({"userId": "category", "movieId": "int16"}),
        frame().astype({"userId": str, "movieId": object}),
        frame(userId=[str(user) for user, _, _ in ROWS]).astype({"userId": "category"}),
        frame(userId=pd.Series(["1", "2", "1", "2"], dtype=object, index=[5, 5, 7, 9])),
        frame(timestamp=[float(time) for _, _, time in ROWS]),
        frame(timestamp=moments("ns", None)),
        frame(timestamp=moments("s", "Europe/Berlin")),
        frame(timestamp=[datetime.fromtimestamp(time, UTC) for _, _, time in ROWS]),
        frame(timestamp=[f"1970-01-01 00:0{t // 60}:{t % 60:02}" for _, _, t in ROWS]),
        frame(text=[{"a": 1}, None, [1], object()]),
        pa.Table.from_pandas(frame(), preserve_index=True),
    ],
)
def test_tables_give_what_a_file_gives(write: Write, table: "pd.DataFrame | pa.Table") -> None:
    assert read_table(table, DataConfig(path="mine")).equals(
        read_interactions(config(write("log.csv", CSV))), check_metadata=True
    )


def test_table_columns_by_name_and_number() -> None:
    table = frame().set_axis(["a", 5, "c"], axis=1)
    for columns in ({"user": "a", "item": "5", "time": "c"}, {"user": "0", "item": "5", "time": "2"}):
        read = read_table(table, DataConfig.model_validate({"path": "mine", "columns": columns}))
        assert [tuple(row.values()) for row in read.to_pylist()] == ROWS


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (frame(userId=["a", None, "b", "c"]), ["mine, row 2: empty user id"]),
        (frame(userId=["a", "b", " ", "c"]), ["mine, row 3: empty user id"]),
        (frame(movieId=[1.0, 2.0, 3.0, float("nan")]), ["mine, row 4: empty item id"]),
        (frame(movieId=[1.0, 2.0, 3.0, 4.0]), ["'movieId' has type double; expected integers or strings"]),
        (frame(movieId=pd.array([1, None, 3, 4], "Int64")), ["mine, row 2: empty item id"]),
        (frame(userId=["a", 7, "b", "c"]), ["mine, row 2", "'userId' has a int, the first one is a str"]),
        (frame(timestamp=[1.0, float("nan"), 2.0, 3.0]), ["mine, row 2: non-numeric timestamp"]),
        (frame(timestamp=[1, 2, -3, 4]), ["mine, row 3: negative timestamp -3"]),
        (frame(timestamp=pd.to_datetime(["2001-01-01", "NaT", "2001-01-01", "2001-01-01"])), ["row 2"]),
        (frame(timestamp=pd.to_datetime(["2001-01-01", "1960-01-01"] * 2)), ["row 2: negative timestamp"]),
        (frame(timestamp=["2001-01-01", "x", "2001-01-01", "2001-01-01"]), ["row 2", "timestamp 'x'"]),
        (frame().drop(columns="userId"), ["mine: missing column user: the columns are movieId, timestamp"]),
        (frame().iloc[:0], ["mine: the table is empty"]),
        (frame(timestamp=[[1], [2], [3], [4]]), ["'timestamp' has type list"]),
    ],
)
def test_bad_tables(table: pd.DataFrame, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        read_table(table, DataConfig(path="mine"))
    for word in words:
        assert word in str(caught.value)
