"""One line a user: `user item item ...`, in order, without times. NumPy cuts a block at a time into words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.formats.columns import first_bad_row, id_problem, needed_columns
from seqsweep.data_pipeline.formats.text_file import (
    MAX_LINE_BYTES,
    explain_stream_error,
    one_line,
    open_bytes,
    open_lines,
    quoted,
    read_head,
)

BLOCK_BYTES = 2**24
EXPECTED = "`user item item ...` with blanks or tabs between, one line a user"
UTF8_MARK = b"\xef\xbb\xbf"


def read_sequences(path: Path, config: DataConfig) -> pa.Table:
    """The columns user and item of one file. Raises DataError with the line that does not fit.

    A user may have several lines: they are taken one after the other.
    """
    check_sequences(path, config)
    try:
        blocks = list(_blocks(path))
        user, item = (pa.chunked_array([block[at] for block in blocks]) for at in (0, 1))
        table = pa.Table.from_arrays([user, item], names=["user", "item"])
        if bad := first_bad_row(table["user"], "user") or first_bad_row(table["item"], "item"):
            raise _bad_line(path, f"row {bad[0] + 1}: {bad[1]}")
        return table
    except OSError as error:
        raise explain_stream_error(path, error) from error
    except pa.ArrowInvalid as error:
        raise _bad_line(path, one_line(error)) from error


def check_sequences(path: Path, config: DataConfig) -> None:
    """Raises DataError where the settings ask for what no such file has, or the first line is of one word."""
    if config.columns:
        raise DataError(
            f"{path}: one line a user ({EXPECTED}) has no columns to choose, got columns={config.columns}; "
            "leave them out, or set another format"
        )
    head = read_head(path)
    where = f"{path}, line {head.num_blank + 1}"
    needed_columns({"user": 0, "item": 1}, config, where, "each line is a user and the user's items")
    if len(head.lines[0].split()) == 1:
        raise DataError(
            f"{where}: a line of one word ({quoted(head.lines[0])}); expected {EXPECTED}; correct it"
        )


def _blocks(path: Path) -> Iterator[tuple[pa.Array[Any], pa.Array[Any]]]:
    """User and item of every interaction, dictionary encoded. Raises ArrowInvalid on what is no such text."""
    rest, is_first = b"", True
    with open_bytes(path) as stream:
        while True:
            block = stream.read(BLOCK_BYTES)
            text = rest + block
            text, is_first = text.removeprefix(UTF8_MARK) if is_first else text, False
            end = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1 if block else len(text)
            rest = text[end:]
            if len(rest) > MAX_LINE_BYTES:
                raise pa.ArrowInvalid("a line is too long")
            if text[:end].strip():
                yield _interactions(text[:end])
            if not block:
                return


def _interactions(text: bytes) -> tuple[pa.Array[Any], pa.Array[Any]]:
    byte = np.frombuffer(text, np.uint8)
    in_word = ~np.isin(byte, np.frombuffer(b" \t\r\n", np.uint8))
    start, end = _runs(in_word)
    line_end = np.flatnonzero((byte == ord("\n")) | (byte == ord("\r")))
    line = np.searchsorted(line_end, start)  # how many line ends lie before a word
    is_user = np.append(True, line[1:] != line[:-1])
    num_items = np.diff(np.append(np.flatnonzero(is_user), len(line))) - 1
    if np.any(num_items == 0):
        raise pa.ArrowInvalid("a user without items")
    words = _words(byte[in_word], end - start)
    user = words.filter(pa.array(is_user)).dictionary_encode()
    item = words.filter(pa.array(~is_user)).dictionary_encode()
    code = np.repeat(user.indices.to_numpy(), num_items)
    return pa.DictionaryArray.from_arrays(pa.array(code, pa.int32()), user.dictionary), item


def _runs(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First position of every run of True, and the position after its last."""
    edge = np.flatnonzero(np.diff(mask.view(np.int8), prepend=0, append=0))
    return edge[::2], edge[1::2]


def _words(byte: NDArray[np.uint8], length: NDArray[np.int64]) -> pa.Array[Any]:
    """Strings of the given lengths, one after the other. Raises ArrowInvalid where they are not UTF-8."""
    offset = np.zeros(len(length) + 1, np.int32)
    np.cumsum(length, out=offset[1:])
    buffers = [None, pa.py_buffer(offset.tobytes()), pa.py_buffer(byte.tobytes())]
    words: pa.Array[Any] = pa.Array.from_buffers(pa.string(), len(length), buffers)
    words.validate(full=True)
    return words


def _bad_line(path: Path, reason: str) -> DataError:
    """The first line that is no sequence. Line by line: only for files known to be bad."""
    try:
        with open_lines(path) as stream:
            for number, line in enumerate(stream, start=1):
                if problem := _line_problem(line):
                    return DataError(f"{path}, line {number}: {problem} (in {quoted(line.rstrip())})")
    except OSError as error:
        return explain_stream_error(path, error)
    return DataError(f"{path}: {reason}; expected {EXPECTED}; check the format")


def _line_problem(line: str) -> str | None:
    if len(line) > MAX_LINE_BYTES:
        return f"a line longer than {MAX_LINE_BYTES >> 20} MiB; expected {EXPECTED}; cut it"
    if any("\udc80" <= character <= "\udcff" for character in line):
        return "wrong encoding: not UTF-8; convert the file, such as with `iconv -f LATIN1 -t UTF-8`"
    words = line.replace("\t", " ").replace("\n", " ").split(" ")
    words = [word for word in words if word]
    if len(words) == 1:
        return f"a user without items; expected {EXPECTED}; complete or remove the line"
    for word in words:
        if problem := id_problem("item", word) or (None if word.strip() else "an empty id"):
            return f"{problem}; expected {EXPECTED}; correct the line"
    return None
