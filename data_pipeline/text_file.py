"""A text file as bytes, lines and first lines, whatever compresses it."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import pyarrow as pa

from data_pipeline.schema import DataError

Codec = Literal["gzip", "bz2", "zstd", "lz4"]
COMPRESSIONS: dict[str, Codec] = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
HEAD_BYTES = 2**16


def cut(text: str) -> str:
    """Offending text, quoted and short enough for one message."""
    return repr(text if len(text) <= 80 else text[:80] + "...")


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
    """Raises DataError on an empty file, on UTF-16 (its first bytes give it away) and on a broken stream."""
    try:
        with open_bytes(path) as stream:
            start = stream.read(HEAD_BYTES)
    except OSError as error:
        raise explain_stream_error(path, error) from error
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start:
        raise DataError(
            f"{path}, line 1: wrong encoding: {start[:20]!r} looks like UTF-16 or binary data; "
            "expected text in UTF-8; convert it, such as with `iconv -f UTF-16 -t UTF-8`"
        )
    lines = start.decode("utf-8-sig", errors="surrogateescape").splitlines()
    if len(start) == HEAD_BYTES and len(lines) > 1:
        lines.pop()  # perhaps cut in the middle
    num_blank = next((number for number, line in enumerate(lines) if line.strip()), None)
    if num_blank is None:
        raise DataError(f"{path}: the file is empty; expected one interaction a line, at least user and item")
    return Head([line for line in lines[num_blank:] if line.strip()], num_blank)


def explain_stream_error(path: Path, error: OSError) -> DataError:
    """A compressed stream that ends early, or is none, with the line up to which it could be read."""
    codec = COMPRESSIONS.get(path.suffix.lower())
    if codec is None:
        return DataError(f"{path}: could not be read: {error}; check the disk and the file's permissions")
    line = _count_readable_lines(path)
    if "runcated" in str(error):
        return DataError(
            f"{path}, line {line + 1}: truncated {codec} file: its data end in or after this line; "
            "expected a complete file; copy or download it again"
        )
    return DataError(
        f"{path}, line {line + 1}: not {codec} data from here on ({error}); expected what the name says; "
        f"compress it again, or drop {path.suffix} from its name if it is not compressed"
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
