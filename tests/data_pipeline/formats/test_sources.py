import bz2
import gzip
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.formats.byte_streams import PlainIntegers, SingleSeparator, SqueezedBlanks
from seqsweep.data_pipeline.formats.recognise import FORMATS, source_format
from seqsweep.data_pipeline.formats.sources import read_interactions
from seqsweep.data_pipeline.formats.text_file import COMPRESSIONS

Write = Callable[[str, str | bytes], Path]
ReadRows = Callable[[DataConfig], list[tuple[object, ...]]]

ROWS = [(1, 10, 100), (2, 10, 90), (1, 30, 80), (2, 20, 95)]
PLAIN = "".join(f"{user} {item} {time}\n" for user, item, time in ROWS)


def config(path: Path, **settings: object) -> DataConfig:
    return DataConfig.model_validate({"path": str(path), **settings})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.txt", PLAIN),
        ("tabs.txt", PLAIN.replace(" ", "\t")),
        ("uneven.txt", PLAIN.replace("1 30", " 1  \t 30").replace("80\n", "80  \n")),
        ("blank_lines.txt", "\n  \n" + PLAIN.replace("\n", "\n\n")),
        ("windows.txt", PLAIN.replace("\n", "\r\n")),
        ("byte_order_mark.txt", b"\xef\xbb\xbf" + PLAIN.encode()),
        ("no_last_newline.txt", PLAIN[:-1]),
        ("log.csv", PLAIN.replace(" ", ",")),
        ("blank_after_comma.csv", PLAIN.replace(" ", ", ")),
        ("semicolons.csv", "userId;movieId;timestamp\n" + PLAIN.replace(" ", ";")),
        ("log.tsv", PLAIN.replace(" ", "\t")),
        ("named.csv", "userId,movieId,timestamp\n" + PLAIN.replace(" ", ",")),
        ("quoted.csv", '"user_id","item_id","time"\n' + PLAIN.replace(" ", ",").replace("30", '"30"')),
        ("u.data", "".join(f"{user}\t{item}\t5\t{time}\n" for user, item, time in ROWS)),
        ("ratings.dat", "".join(f"{user}::{item}::5::{time}\n" for user, item, time in ROWS)),
        ("rated.csv", "".join(f"{user},{item},4.5,{time}\n" for user, item, time in ROWS)),
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,10,5,100\n2,10,1,90\n1,30,2,80\n2,20,3,95\n"),
        ("mixed.csv", "when,ts,ASIN,Reviewer ID\nx,100,10,1\ny,90,10,2\n,80,30,1\nz,95,20,2\n"),
        ("text.csv", 'user,item,time,text\n1,10,100,"a\nb"\n2,10,90,"c, d"\n1,30,80,\n2,20,95,"""e"""\n'),
    ],
)
def test_text_forms_give_the_same_rows(
    write: Write, read_rows: ReadRows, name: str, content: str | bytes
) -> None:
    assert read_rows(config(write(name, content))) == ROWS


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst", ".lz4"])
@pytest.mark.parametrize("name", ["log.txt", "ratings.dat"])
def test_compressed_text(tmp_path: Path, read_rows: ReadRows, name: str, suffix: str) -> None:
    content = PLAIN if name == "log.txt" else "".join(f"{u}::{i}::5::{t}\n" for u, i, t in ROWS)
    path = tmp_path / (name + suffix)
    with pa.CompressedOutputStream(str(path), COMPRESSIONS[suffix]) as stream:
        stream.write(content.encode())
    assert read_rows(config(path)) == ROWS


def test_compressed_members_one_after_the_other(write: Write, read_rows: ReadRows) -> None:
    half = len(PLAIN) // 2
    for name, module in (("a.txt.gz", gzip), ("a.txt.bz2", bz2)):
        content = module.compress(PLAIN[:half].encode()) + module.compress(PLAIN[half:].encode())
        assert read_rows(config(write(name, content))) == ROWS


def test_log_without_time(write: Write) -> None:
    table = read_interactions(config(write("log.txt", "1 10\n1 20\n")))
    assert table.column_names == ["user", "item"]
    assert (table.schema.metadata or {}) == {}


@pytest.mark.parametrize(
    ("columns", "content"),
    [
        (
            {"user": "who", "item": "what", "time": "when"},
            "what,when,who\n10,100,1\n10,90,2\n30,80,1\n20,95,2\n",
        ),
        ({"user": "2", "item": "0", "timestamp": "1"}, "10,100,1\n10,90,2\n30,80,1\n20,95,2\n"),
        ({"user": "2", "item": "0", "time": "1"}, "item,time,user\n10,100,1\n10,90,2\n30,80,1\n20,95,2\n"),
        ({"user": "who"}, "item,time,who\n10,100,1\n10,90,2\n30,80,1\n20,95,2\n"),
        ({"user": "0", "item": "1", "time": "ts"}, "1,0,ts\n10,1,100\n10,2,90\n30,1,80\n20,2,95\n"),
    ],
)
def test_columns_by_name_and_number(
    write: Write, read_rows: ReadRows, columns: dict[str, str], content: str
) -> None:
    assert read_rows(config(write("log.csv", content), columns=columns)) == ROWS


def test_unnamed_plain_columns_by_number(write: Write, read_rows: ReadRows) -> None:
    path = write("log.txt", "".join(f"5 {item} {user} x {time}\n" for user, item, time in ROWS))
    assert read_rows(config(path, columns={"user": "2", "item": "1", "time": "4"})) == ROWS


def test_ratings_are_read_only_for_the_filter(write: Write) -> None:
    path = write("u.data", "1\t10\t4\t100\n1\t20\t2.5\t101\n")
    assert "rating" not in read_interactions(config(path)).column_names
    assert read_interactions(config(path, min_rating=3.0))["rating"].to_pylist() == [4.0, 2.5]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["7", "-3", "0"], [7, -3, 0]),
        (["10", "-30", "4000"], [10, -30, 4000]),
        (["7", "-7", "-07"], ["7", "-7", "-07"]),
        (["9223372036854775807", "9223372036854775808"], ["9223372036854775807", "9223372036854775808"]),
        (["7", "007", "8"], ["7", "007", "8"]),
        (["7", "B0001", "NA"], ["7", "B0001", "NA"]),
        (["null", "nan", "é"], ["null", "nan", "é"]),
        (["99999999999999999999", "1", "2"], ["99999999999999999999", "1", "2"]),
    ],
)
def test_text_ids_become_integers_only_if_nothing_is_lost(
    write: Write, read_rows: ReadRows, ids: list[str], expected: list[object]
) -> None:
    for user, raw_user in (("u", "u"), ("3", 3)):
        log = "user,item\n" + "".join(f"{user},{item}\n" for item in ids)
        assert read_rows(config(write("log.csv", log))) == [(raw_user, item) for item in expected]


@pytest.mark.parametrize(
    ("times", "expected", "unit"),
    [
        (["978300760", "0"], [978_300_760, 0], "s"),
        (["978300760.0", "1e9"], [978_300_760, 1_000_000_000], "s"),
        (["1", "978300760.25"], [1_000_000, 978_300_760_250_000], "us"),
        (["978300760123", "978300760124"], [978_300_760_123, 978_300_760_124], "ms"),
        (["1700000000000.5", "1700000000001"], [1_700_000_000_000_500, 1_700_000_000_001_000], "us"),
        (["1700000000123456789"], [1_700_000_000_123_456_789], "ns"),
        (["2001-01-01", "2001-01-01 00:00:01"], [978_307_200, 978_307_201], "s"),
        (["2001-01-01T00:00:00.5", "2001-01-01T00:00"], [978_307_200_500_000, 978_307_200_000_000], "us"),
        (["2001-01-01 00:00:00.000000001"], [978_307_200_000_000_001], "ns"),
        (["2001-01-01T00:00:00Z", "2001-01-01T02:00:01+02:00"], [978_307_200, 978_307_201], "s"),
    ],
)
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_times(tmp_path: Path, times: list[str], expected: list[int], unit: str, form: str) -> None:
    path = tmp_path / f"log.{form}"
    if form == "csv":
        path.write_text("user,item,time\n" + "".join(f"1,2,{time}\n" for time in times))
    else:
        pq.write_table(pa.table({"user": [1] * len(times), "item": [2] * len(times), "time": times}), path)
    table = read_interactions(config(path))
    assert table["timestamp"].to_pylist() == expected
    assert table["timestamp"].type == pa.int64()
    assert table.schema.metadata == {b"time_unit": unit.encode()}


def example_table() -> pa.Table:
    user, item, time = zip(*ROWS, strict=True)
    return pa.table(
        {"user_id": list(user), "note": ["x"] * 4, "item_id": list(item), "timestamp": list(time)}
    )


def write_columnar(table: pa.Table, path: Path) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=3)
    elif path.suffix == ".arrow":
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(str(path), table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=3)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
@pytest.mark.parametrize(
    "id_type",
    [
        pa.int64(),
        pa.int16(),
        pa.uint64(),
        pa.string(),
        pa.large_string(),
        pa.dictionary(pa.int8(), pa.string()),
    ],
    ids=str,
)
def test_columnar_files(tmp_path: Path, read_rows: ReadRows, suffix: str, id_type: pa.DataType) -> None:
    table = example_table()
    column = (
        table["item_id"].cast(pa.string()).dictionary_encode()
        if "dictionary" in str(id_type)
        else table["item_id"]
    )
    path = tmp_path / f"log{suffix}"
    write_columnar(table.set_column(2, "item_id", column.cast(id_type)), path)
    assert read_rows(config(path)) == ROWS  # text of nothing but integers counts as integers, as in csv


@pytest.mark.parametrize(
    ("time_type", "units", "seconds"),
    [
        (pa.int32(), 1, 1),
        (pa.float64(), 1, 1),
        (pa.timestamp("ns"), 10**9, 1),
        (pa.timestamp("ms", "Europe/Berlin"), 10**3, 1),
        (pa.date32(), 1, 86_400),
        (pa.date64(), 86_400_000, 86_400),
    ],
    ids=str,
)
def test_columnar_time_types(tmp_path: Path, time_type: pa.DataType, units: int, seconds: int) -> None:
    number_type = pa.int32() if pa.types.is_date32(time_type) else pa.int64()
    stored = pa.array([time * units for _, _, time in ROWS], number_type).cast(time_type)
    pq.write_table(example_table().set_column(3, "timestamp", stored), tmp_path / "log.parquet")
    read = read_interactions(config(tmp_path / "log.parquet"))
    assert read["timestamp"].to_pylist() == [time * seconds for _, _, time in ROWS]
    assert read.schema.metadata == {b"time_unit": b"s"}


def test_folder_and_glob_are_read_in_order_of_name(tmp_path: Path, read_rows: ReadRows) -> None:
    folder = tmp_path / "logs"
    (folder / "more").mkdir(parents=True)
    write_columnar(example_table().slice(2), folder / "more" / "b.parquet")
    write_columnar(example_table().slice(0, 2), folder / "a.feather")
    write_columnar(example_table().slice(0, 0), folder / "empty.parquet")
    (folder / "_SUCCESS").touch()
    assert read_rows(config(folder)) == ROWS
    assert read_rows(config(folder / "a*", format="columnar")) == ROWS[:2]


def test_format_from_name() -> None:
    assert source_format(DataConfig()) == "demo"
    assert source_format(DataConfig(path="x/ratings.dat.GZ")) == "movielens"
    assert source_format(DataConfig(path="a.unknown", format="plain")) == "plain"
    with pytest.raises(DataError, match=r"a\.doc: no such file"):
        source_format(DataConfig(path="a.doc"))
    with pytest.raises(DataError, match=f"format must be auto or one of {', '.join(FORMATS)}, got 'xml'"):
        source_format(DataConfig(path="a.txt", format="xml"))


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=3), max_size=20), st.data())
def test_separators_survive_any_block_border(rows: list[list[int]], data: st.DataObject) -> None:
    text = "\n".join("::".join(map(str, row)) for row in rows).encode()
    blanks = st.sampled_from([" ", "  ", "\t", " \t "])
    uneven = "\n".join(
        data.draw(st.sampled_from(["", " "]))
        + data.draw(blanks).join(map(str, row))
        + data.draw(st.sampled_from(["", " "]))
        for row in rows
    )
    expected = "\n".join("\x1f".join(map(str, row)) for row in rows).encode()
    size = data.draw(st.integers(4, 30))
    for stream, content in ((SingleSeparator, text), (SqueezedBlanks, uneven.encode())):
        reader = stream(pa.BufferReader(content))
        read = b"".join(iter(lambda: reader.read(size), b""))  # noqa: B023
        assert read == expected


@given(st.text("0123456789.:,-x\n", max_size=60), st.integers(1, 9))
def test_numbers_with_leading_zeros_are_noticed_at_any_block_border(text: str, size: int) -> None:
    reader = PlainIntegers(pa.BufferReader(text.encode()))
    if re.search(r"(?<![0-9.:])0[0-9x]|-0(?!\.)", text):
        with pytest.raises(pa.ArrowInvalid, match="begins with 0"):
            list(iter(lambda: reader.read(size), b""))
    else:
        assert b"".join(iter(lambda: reader.read(size), b"")) == text.encode()


def test_leading_zeros_far_down_the_file(write: Write) -> None:
    path = write("log.txt", "".join(f"{number} 5\n" for number in range(400_000)) + "007 5\n")
    user = read_interactions(config(path))["user"]
    assert user.type.value_type == pa.string()
    assert user[-1].as_py() == "007"
