"""Logs in every format, and 40 ways to damage them."""

import bz2
import gzip
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

Rows = list[tuple[str, str, int]]
NUM_ROWS = 24


@dataclass(frozen=True)
class Damaged:
    """A file, what was done to it, and the settings it is read with."""

    name: str
    content: bytes
    damage: str
    format: str = "auto"


def sample_rows(draw: random.Random) -> Rows:
    """Users with 3 interactions or more, ids of all sorts, times in any order."""
    word = draw.choice(["{}", "u{}", "{}0", "é{}", "-{}", "B00{}X"])
    start = draw.choice([0, 978_300_760, 1_588_687_728_923])
    users = [word.format(number) for number in (3, 1, 2, 14)]
    return [
        (users[row % len(users)], str(draw.randrange(1, 30)), start + draw.randrange(100))
        for row in range(NUM_ROWS)
    ]


def as_plain(rows: Rows, draw: random.Random) -> bytes:
    mark = draw.choice([" ", "\t", "  "])
    return "".join(f"{mark.join(map(str, row))}\n" for row in rows).encode()


def as_timeless(rows: Rows, draw: random.Random) -> bytes:
    return "".join(f"{user} {item}\n" for user, item, _ in rows).encode()


def as_csv(rows: Rows, draw: random.Random) -> bytes:
    mark = draw.choice(",;\t|")
    quote = draw.choice(["", '"'])
    header = mark.join(["user_id", "item_id", "timestamp"]) + "\n"
    return (header + "".join(f"{quote}{u}{quote}{mark}{i}{mark}{t}\n" for u, i, t in rows)).encode()


def as_reviews(rows: Rows, draw: random.Random) -> bytes:
    text = draw.choice(['"so, so"', '"two\nlines"', '"say ""hm"""', "plain"])
    return ("user,item,time,text\n" + "".join(f"{u},{i},{t},{text}\n" for u, i, t in rows)).encode()


def as_iso(rows: Rows, draw: random.Random) -> bytes:
    return (
        "user,item,date\n" + "".join(f"{u},{i},2001-02-{t % 28 + 1:02} 10:00:00\n" for u, i, t in rows)
    ).encode()


def as_movielens(rows: Rows, draw: random.Random) -> bytes:
    mark = draw.choice(["::", "\t"])
    return "".join(f"{mark.join([u, i, '4', str(t)])}\n" for u, i, t in rows).encode()


def as_recbole(rows: Rows, draw: random.Random) -> bytes:
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    return (header + "".join(f"{u}\t{i}\t3.5\t{t}.0\n" for u, i, t in rows)).encode()


def as_json(rows: Rows, draw: random.Random) -> bytes:
    return "".join(
        json.dumps({"reviewerID": u, "asin": i, "unixReviewTime": t, "text": 'a "b" {c'}) + "\n"
        for u, i, t in rows
    ).encode()


def as_sequences(rows: Rows, draw: random.Random) -> bytes:
    users = dict.fromkeys(user for user, _, _ in rows)
    lines = [" ".join([user, *(item for one, item, _ in rows if one == user)]) for user in users]
    return "".join(f"{line}\n" for line in lines).encode()


def as_table(rows: Rows, draw: random.Random) -> pa.Table:
    user, item, time = zip(*rows, strict=True)
    kind = draw.choice([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
    return pa.table(
        {"user": pa.array(user, pa.string()).cast(kind), "item": list(map(int, item)), "time": list(time)}
    )


def as_parquet(rows: Rows, draw: random.Random) -> bytes:
    sink = io.BytesIO()
    pq.write_table(
        as_table(rows, draw), sink, compression=draw.choice(["none", "snappy", "zstd"]), row_group_size=10
    )
    return sink.getvalue()


def as_arrow(rows: Rows, draw: random.Random) -> bytes:
    sink, table = io.BytesIO(), as_table(rows, draw)
    new = draw.choice([pa.ipc.new_file, pa.ipc.new_stream])
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=30)
    return sink.getvalue()


def as_feather(rows: Rows, draw: random.Random) -> bytes:
    sink, table = io.BytesIO(), as_table(rows, draw)
    options = pa.ipc.IpcWriteOptions(compression=draw.choice(["lz4", "zstd", None]))
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue()


Write = Callable[[Rows, random.Random], bytes]
TEXT: dict[str, Write] = {
    "log.txt": as_plain,
    "timeless.txt": as_timeless,
    "log.csv": as_csv,
    "reviews.csv": as_reviews,
    "dates.csv": as_iso,
    "ratings.dat": as_movielens,
    "log.inter": as_recbole,
    "log.jsonl": as_json,
    "log.seq": as_sequences,
}
BINARY: dict[str, Write] = {"log.parquet": as_parquet, "log.arrow": as_arrow, "log.feather": as_feather}


# --- damage to any bytes


def nothing(content: bytes, draw: random.Random) -> bytes:
    return content


def cut_end(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def cut_start(content: bytes, draw: random.Random) -> bytes:
    return content[draw.randrange(len(content) + 1) :]


def flip_bits(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 3, 20])):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def random_bytes(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice([1, 2, 8])):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def insert_bytes(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content) + 1)
    return content[:at] + draw.randbytes(draw.choice([1, 2, 50])) + content[at:]


def remove_part(content: bytes, draw: random.Random) -> bytes:
    first, last = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[:first] + content[last:]


def zero_part(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content))
    size = draw.choice([1, 4, 64])
    return content[:at] + bytes(len(content[at : at + size])) + content[at + size :]


def twice(content: bytes, draw: random.Random) -> bytes:
    return content + content


def noise(content: bytes, draw: random.Random) -> bytes:
    return draw.randbytes(draw.choice([0, 1, 7, 500]))


# --- damage to lines


def _lines(change: Callable[[list[bytes], random.Random], list[bytes]]) -> "Damage":
    def damage(content: bytes, draw: random.Random) -> bytes:
        return b"".join(change(content.splitlines(keepends=True), draw))

    damage.__name__ = change.__name__.strip("_")
    return damage


def _some(lines: list[bytes], draw: random.Random) -> int:
    return draw.choice([0, 1, len(lines) - 1, draw.randrange(len(lines))]) % len(lines)


def _change_line(change: Callable[[bytes, random.Random], bytes]) -> "Damage":
    def damage(content: bytes, draw: random.Random) -> bytes:
        lines = content.splitlines(keepends=True)
        at = _some(lines, draw)
        lines[at] = change(lines[at].rstrip(b"\n"), draw) + b"\n"
        return b"".join(lines)

    damage.__name__ = change.__name__.strip("_")
    return damage


def _swap_lines(lines: list[bytes], draw: random.Random) -> list[bytes]:
    one, two = _some(lines, draw), _some(lines, draw)
    lines[one], lines[two] = lines[two], lines[one]
    return lines


def _drop_lines(lines: list[bytes], draw: random.Random) -> list[bytes]:
    return [line for line in lines if draw.random() < 0.8]


def _double_lines(lines: list[bytes], draw: random.Random) -> list[bytes]:
    return [line for line in lines for _ in range(draw.choice([1, 2]))]


def _blank_lines(lines: list[bytes], draw: random.Random) -> list[bytes]:
    return [part for line in lines for part in (line, draw.choice([b"", b"\n", b" \n", b"\r\n", b"\t\n"]))]


def _mixed_ends(lines: list[bytes], draw: random.Random) -> list[bytes]:
    return [line.rstrip(b"\n") + draw.choice([b"\n", b"\r\n", b"\r", b"\r\r\n"]) for line in lines]


def _join_lines(lines: list[bytes], draw: random.Random) -> list[bytes]:
    at = _some(lines, draw)
    lines[at] = lines[at].rstrip(b"\n")
    return lines


def _mark_inside(lines: list[bytes], draw: random.Random) -> list[bytes]:
    lines.insert(_some(lines, draw), b"\xef\xbb\xbf")
    return lines


def _add_column(line: bytes, draw: random.Random) -> bytes:
    return line + draw.choice([b",x", b"\tx", b" x", b"::x", b";", b",", b"|1", b' "'])


def _drop_column(line: bytes, draw: random.Random) -> bytes:
    for mark in (b"::", b"\t", b",", b";", b"|", b" "):
        if mark in line:
            return line.rsplit(mark, 1)[0]
    return b""


def _empty_field(line: bytes, draw: random.Random) -> bytes:
    for mark in (b"::", b"\t", b",", b";", b"|", b" ", b":"):
        if mark in line:
            fields = line.split(mark)
            fields[draw.randrange(len(fields))] = draw.choice([b"", b" ", b'""', b"null", b"NaN"])
            return mark.join(fields)
    return b""


def _odd_number(line: bytes, draw: random.Random) -> bytes:
    """In place of the last number, which is the time where there is one."""
    digits = [at for at, byte in enumerate(line) if chr(byte).isdigit()]
    if not digits:
        return line
    end = digits[-1] + 1
    start = end
    while start > 0 and chr(line[start - 1]).isdigit():
        start -= 1
    return line[:start] + draw.choice(ODD_NUMBERS) + line[end:]


ODD_NUMBERS = [
    *(
        b"-5",
        b"-0",
        b"+7",
        b"007",
        b"0x1F",
        b"1e3",
        b"1e400",
        b"1e18",
        b"1.5",
        b".5",
        b"5.",
        b"1_000",
        b"nan",
        b"inf",
    ),
    *(
        b"9223372036854775807",
        b"9223372036854775808",
        b"-9223372036854775809",
        b"9" * 400,
        b"1e308",
        b"1 2",
        b"yesterday",
    ),
    *(
        "٣".encode(),
        "１２".encode(),
        b"2001-13-45",
        b"1969-12-31",
        b"9999-12-31",
        b"0001-01-01T00:00:00Z",
        b"",
        b"true",
    ),
]


def _open_quote(line: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(line) + 1)
    return line[:at] + b'"' + line[at:]


def _lone_quotes(line: bytes, draw: random.Random) -> bytes:
    for mark in (b"\t", b",", b";", b"|", b" "):
        if mark in line:
            fields = line.split(mark)
            fields[draw.randrange(len(fields))] += draw.choice([b'"', b'"a"b', b"'", b'""', b'"\n"', b"\\"])
            return mark.join(fields)
    return line


def _odd_character(line: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(line) + 1)
    return line[:at] + draw.choice(ODD_CHARACTERS) + line[at:]


ODD_CHARACTERS = [
    *(b"\0", b"\xff", b"\xe9", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x1f", b"\x1a", b"\x0b", b"\x0c"),
    *(
        "\u2028".encode(),
        "\u0085".encode(),
        "\u00a0".encode(),
        "😀".encode(),
        b"\\u0000",
        b"\\ud800",
        b"\x1b[31m",
    ),
]


def _long_line(line: bytes, draw: random.Random) -> bytes:
    return line + draw.choice([b"x", b" ", b"1", b",", b"[", b'"a"']) * draw.choice([200, 70_000, 2_200_000])


def _no_json(line: bytes, draw: random.Random) -> bytes:
    return draw.choice(
        [
            line.replace(b'"', b"'"),
            line[:-1],
            line[1:],
            b"[" + line + b"]",
            line + b",",
            line + line,
            b"null",
            b"7",
            b'"x"',
            b"{}",
            b"[]",
            line.replace(b":", b"=", 1),
            line.replace(b'"', b"", 1),
            line.replace(b": ", b": [", 1),
            line.replace(b'"asin": ', b'"asin": {"a": ') + b"}",
            line.replace(b'"asin": "', b'"asin": ', 1).replace(b'", "u', b', "u'),
            line.replace(b"{", b'{"asin": "5", ', 1),
            line.replace(b"asin", b"a\\u0073in"),
            line.replace(b"}", b', "z": 1e999}'),
            b"{" * 3000,
            b'{"a":' * 2000,
            line.replace(b"{", b"{,"),
            line.replace(b"asin", b"item"),
            b"// a comment",
        ]
    )


# --- damage to the whole text


def reverse_lines(content: bytes, draw: random.Random) -> bytes:
    return b"".join(reversed(content.splitlines(keepends=True)))


def other_separator(content: bytes, draw: random.Random) -> bytes:
    one, two = draw.sample([b",", b"\t", b" ", b"::", b";", b"|", b"^"], 2)
    return content.replace(one, two)


def encode_again(content: bytes, draw: random.Random) -> bytes:
    code = draw.choice(["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-8-sig", "utf-7", "cp500"])
    return content.decode().encode(code, errors="replace")


def no_line_ends(content: bytes, draw: random.Random) -> bytes:
    return content.replace(b"\n", draw.choice([b"", b" ", b"\r", b"\0"]))


Damage = Callable[[bytes, random.Random], bytes]
ANY_DAMAGE: list[Damage] = [
    *(cut_end, cut_start, flip_bits, random_bytes, insert_bytes, remove_part, zero_part, twice, noise),
]
LINE_CHANGES = (_swap_lines, _drop_lines, _double_lines, _blank_lines, _mixed_ends, _join_lines, _mark_inside)
FIELD_CHANGES = (
    *(_add_column, _drop_column, _empty_field, _odd_number, _open_quote, _lone_quotes, _odd_character),
    *(_long_line, _no_json),
)
TEXT_DAMAGE: list[Damage] = [
    *(nothing, reverse_lines, other_separator, encode_again, no_line_ends),
    *map(_lines, LINE_CHANGES),
    *map(_change_line, FIELD_CHANGES),
]


def _zstd(content: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(content, asbytes=True))


def _lz4(content: bytes) -> bytes:
    return bytes(pa.Codec("lz4").compress(content, asbytes=True))


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": _zstd,
    ".lz4": _lz4,
}
ALL_NAMES = [
    *TEXT,
    *BINARY,
    "log",
    "log.json",
    "log.ndjson",
    "log.tsv",
    "u.data",
    "LOG.CSV",
    "log.xyz",
    "log.csv.gz",
]


def damaged_text(draw: random.Random) -> Damaged:
    name = draw.choice(list(TEXT))
    content, damage = TEXT[name](sample_rows(draw), draw), draw.choice(TEXT_DAMAGE * 2 + ANY_DAMAGE)
    changed = damage(content, draw)
    if draw.random() < 0.15 and changed:
        return Damaged(
            name, draw.choice(ANY_DAMAGE + TEXT_DAMAGE[5:])(changed, draw), f"{damage.__name__} and more"
        )
    return Damaged(name, changed, damage.__name__)


def damaged_stream(draw: random.Random) -> Damaged:
    """A compressed text: damaged within, or as a stream."""
    name, suffix = draw.choice(list(TEXT)), draw.choice(list(COMPRESS))
    content, damage = (
        TEXT[name](sample_rows(draw), draw),
        draw.choice([nothing, *ANY_DAMAGE, cut_end, cut_end]),
    )
    if draw.random() < 0.2:
        return Damaged(name + suffix, COMPRESS[suffix](damage(content, draw)), f"{damage.__name__} within")
    return Damaged(name + suffix, damage(COMPRESS[suffix](content), draw), f"{damage.__name__} of the stream")


def damaged_columns(draw: random.Random) -> Damaged:
    name = draw.choice(list(BINARY))
    damage = draw.choice(ANY_DAMAGE)
    return Damaged(name, damage(BINARY[name](sample_rows(draw), draw), draw), damage.__name__)


def misnamed(draw: random.Random) -> Damaged:
    """Sound content under any name, or read as any format."""
    name = draw.choice([*TEXT, *BINARY])
    content = {**TEXT, **BINARY}[name](sample_rows(draw), draw)
    formats = ["plain", "delimited", "movielens", "recbole", "json_lines", "sequences", "columnar"]
    form = draw.choice(["auto", "auto", *formats])
    return Damaged(draw.choice(ALL_NAMES) if form == "auto" else name, content, f"{name} misnamed", form)


def corpus(seed: int, number: int) -> list[Damaged]:
    draw = random.Random(seed)
    kinds = [damaged_text] * 6 + [damaged_stream] * 2 + [damaged_columns] * 2 + [misnamed]
    return [kinds[at % len(kinds)](draw) for at in range(number)]
