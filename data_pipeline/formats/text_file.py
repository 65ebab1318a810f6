"""A text file as bytes, lines and first lines, whatever compresses it."""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import pyarrow as pa

from seqsweep.data_pipeline.errors import DataError

Codec = Literal["gzip", "bz2", "zstd", "lz4"]
COMPRESSIONS: dict[str, Codec] = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
HEAD_BYTES = 2**16
MAX_LINE_BYTES = 2**26  # reviews come to some 2^15; Arrow holds a few blocks of this size for a longer line
BYTE_ORDER_MARK = "\ufeff"
MAGIC = {
    b"\x1f\x8b": "gzip (.gz)",
    b"BZh": "bz2 (.bz2)",
    b"\x28\xb5\x2f\xfd": "zstd (.zst)",
    b"\x04\x22\x4d\x18": "lz4 (.lz4)",
    b"PK\x03\x04": "zip",
    b"\xfd7zXZ": "xz",
}


def quoted(text: str) -> str:
    """Offending text, quoted and short enough for one message."""
    return repr(text if len(text) <= 80 else text[:80] + "...")


def printable(text: str, length: int = 80) -> str:
    """Text as it stands, in one line; what cannot be printed is escaped, and what is beyond `length` cut."""
    text = text if len(text) <= length else text[:length] + "..."
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def one_line(error: Exception) -> str:
    """What a library says of an error, in one line and short enough for a message."""
    return printable(" ".join(str(error).split()), 300)


def strip_compression(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path


def open_bytes(path: Path) -> pa.NativeFile:
    stream = pa.OSFile(str(path), mode="rb")
    codec = COMPRESSIONS.get(path.suffix.lower())
    return pa.CompressedInputStream(stream, codec) if codec else stream


def open_lines(path: Path, *, newline: str | None = None) -> io.TextIOWrapper:
    """Lines with undecodable bytes kept as lone surrogates, so that a reader can say where they are."""
    stream = io.BufferedReader(cast(io.RawIOBase, open_bytes(path)))
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


@dataclass(frozen=True)
class Head:
    """The first lines that are not blank, and how many blank ones lie before them."""

    lines: list[str]
    num_blank: int


def read_head(path: Path) -> Head:
    """Raises DataError on an empty file, on what is no text in UTF-8 and on a broken stream."""
    try:
        with open_bytes(path) as stream:
            start, is_whole = _first_bytes(stream)
    except OSError as error:
        raise explain_stream_error(path, error) from error
    _check_is_text(path, start)
    lines = re.split("\r\n|\r|\n", start.decode("utf-8-sig", errors="surrogateescape"))
    if not is_whole and len(lines) > 1:
        lines.pop()  # perhaps cut in the middle
    num_blank = next((number for number, line in enumerate(lines) if line.strip()), None)
    if num_blank is None:
        raise DataError(f"{path}: the file is empty; expected one interaction a line, at least user and item")
    return Head([line for line in lines[num_blank:] if line.strip()], num_blank)


def _first_bytes(stream: pa.NativeFile) -> tuple[bytes, bool]:
    """Enough for a header and a row, and whether that is all there is."""
    start = b""
    while block := stream.read(max(HEAD_BYTES, len(start))):
        start += block
        if len(start) >= HEAD_BYTES and (_has_two_lines(start) or len(start) > MAX_LINE_BYTES):
            return start, False
    return start, True


def _has_two_lines(start: bytes) -> bool:
    _, end, rest = start.lstrip().replace(b"\r", b"\n").partition(b"\n")
    return bool(end) and b"\n" in rest.lstrip()


def _check_is_text(path: Path, start: bytes) -> None:
    for magic, name in MAGIC.items():
        if start.startswith(magic) and not _is_utf8(start):
            raise DataError(
                f"{path}, line 1: {name} data where text is expected; add the ending to its name if that is "
                f"one of {', '.join(COMPRESSIONS)}, else unpack it"
            )
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start:
        raise DataError(
            f"{path}, line 1: wrong encoding: {start[:20]!r} looks like UTF-16 or binary data; "
            "expected text in UTF-8; convert it, such as with `iconv -f UTF-16 -t UTF-8`"
        )


def _is_utf8(start: bytes) -> bool:
    try:
        start.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in start


def explain_stream_error(path: Path, error: OSError) -> DataError:
    """A compressed stream that ends early, or is none, with the line up to which it could be read."""
    codec = COMPRESSIONS.get(path.suffix.lower())
    if codec is None:
        return DataError(
            f"{path}: could not be read: {one_line(error)}; check the disk and the file's permissions"
        )
    line = _count_readable_lines(path)
    if "runcated" in str(error):
        return DataError(
            f"{path}, line {line + 1}: truncated {codec} file: its data end in or after this line; "
            "expected a complete file; copy or download it again"
        )
    return DataError(
        f"{path}, line {line + 1}: not {codec} data from here on ({one_line(error)}); expected what the name "
        f"says; compress it again, or drop {path.suffix} from its name if it is not compressed"
    )


def _count_readable_lines(path: Path) -> int:
    line = 0
    try:
        with open_lines(path) as stream:
            for _ in stream:
                line += 1
    except OSError:
        pass  # the error that is being explained
    return line
