"""Finds the line that keeps a text file from being read. Row by row: only for files known to be bad."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.formats.columns import Role, id_problem
from seqsweep.data_pipeline.formats.separators import long_fields
from seqsweep.data_pipeline.formats.text_file import (
    MAX_LINE_BYTES,
    explain_stream_error,
    one_line,
    open_lines,
    quoted,
)
from seqsweep.data_pipeline.formats.text_layout import TextLayout
from seqsweep.data_pipeline.formats.timestamps import EXPECTED_TIME, NUMBER, TimeKind, time_kind


def locate_bad_line(path: Path, layout: TextLayout, reason: str) -> DataError:
    """The first row that breaks the layout; where none is found, `reason`: the reader's own words."""
    kind: TimeKind | None = None
    line = layout.header_lines
    try:
        for line, text, fields in layout.rows(path):
            if problem := _problem(fields, layout, kind):
                return DataError(f"{path}, line {line}: {problem} (in {quoted(text)})")
            if len(text) > MAX_LINE_BYTES:
                return DataError(f"{path}, line {line}: {too_long()} (in {quoted(text)})")
            if kind is None and "timestamp" in layout.columns:
                kind = time_kind(fields[layout.columns["timestamp"]].strip())
    except OSError as error:
        return explain_stream_error(path, error)
    except csv.Error as error:
        return DataError(
            f"{path}, line {line + 1}: {one_line(error)}; expected {layout.expected}; correct the row"
        )
    return DataError(f"{path}: {reason}; expected {layout.expected}; check format and columns")


def too_long() -> str:
    return (
        f"a row longer than {MAX_LINE_BYTES >> 20} MiB; expected one interaction a line; look for a "
        "quotation mark that is left open, or for a missing line end"
    )


def open_quote(path: Path, layout: TextLayout) -> DataError | None:
    """The row whose quotation mark is open at the end of the file: all that follows went into one field."""
    with open_lines(path, newline="") as stream, long_fields():
        record: list[str] = []  # lines that the reader took since its last row
        first = 1
        reader = csv.reader(_kept(stream, record), delimiter=layout.separator)
        try:
            for _ in reader:
                last, record[:] = "".join(record), []
                start, first = first, reader.line_num + 1
        except csv.Error as error:
            return DataError(
                f"{path}, line {first}: {one_line(error)}; expected {layout.expected}; correct the row"
            )
    try:
        with long_fields():
            list(csv.reader(io.StringIO(last, newline=""), delimiter=layout.separator, strict=True))
    except csv.Error as error:
        if "end of data" in str(error):
            return DataError(
                f"{path}, line {start}: a quotation mark is left open (in {quoted(last)}); expected "
                f"{layout.expected}; close it, or double it where it is part of the text"
            )
    return None


def _kept(stream: io.TextIOWrapper, record: list[str]) -> Iterator[str]:
    for line in stream:
        record.append(line)
        yield line


def _problem(fields: list[str], layout: TextLayout, kind: TimeKind | None) -> str | None:
    if len(fields) != layout.num_columns:
        return (
            f"ragged row of {len(fields)} columns where the first row has {layout.num_columns}; "
            f"expected {layout.expected}; complete or remove the row"
        )
    problems = (_field_problem(role, fields[at].strip(), kind) for role, at in layout.columns.items())
    return next((problem for problem in problems if problem), None)


def _field_problem(role: Role, value: str, kind: TimeKind | None) -> str | None:
    if any("\udc80" <= character <= "\udcff" for character in value):
        return (
            f"wrong encoding: the {role} {quoted(value)} is not UTF-8; expected UTF-8; "
            "convert the file, such as with `iconv -f LATIN1 -t UTF-8`"
        )
    if role == "timestamp":
        return _time_problem(value, kind)
    if role == "rating":
        fits = NUMBER.fullmatch(value)
        return (
            None
            if fits
            else f"non-numeric rating {quoted(value)}; expected a number; correct or remove the row"
        )
    problem = id_problem(role, value) or (None if value else f"empty {role} id")
    return f"{problem}; expected an integer or a string; complete or remove the row" if problem else None


def _time_problem(value: str, kind: TimeKind | None) -> str | None:
    own = time_kind(value)
    if own is None:
        return (
            f"{_fault(value)} timestamp {quoted(value)}; expected {EXPECTED_TIME}; correct or remove the row"
        )
    if kind is not None and own != kind:
        return (
            f"timestamp {quoted(value)} is written as {own}, those before as {kind}; "
            "expected one form throughout; convert the column"
        )
    return None


def _fault(value: str) -> str:
    if NUMBER.fullmatch(value):
        return "negative" if value.startswith("-") else "too large a"
    before_1970 = value[:4].isdecimal() and value[4:5] == "-" and value[:4] < "1970"
    return "negative (before 1970)" if before_1970 else "non-numeric"
