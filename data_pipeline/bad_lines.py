"""Finds the line that keeps a text file from being read. Row by row: only for files known to be bad."""

import csv
from pathlib import Path

from data_pipeline.columns import Role
from data_pipeline.layout import TextLayout
from data_pipeline.schema import DataError
from data_pipeline.text_file import cut, explain_stream_error
from data_pipeline.times import EXPECTED_TIME, NUMBER, TimeKind, time_kind


def locate_bad_line(path: Path, layout: TextLayout, reason: str) -> DataError:
    """The first row that breaks the layout; where none is found, `reason`: the reader's own words."""
    kind: TimeKind | None = None
    line = layout.header_lines
    try:
        for line, text, fields in layout.rows(path):
            if problem := _problem(fields, layout, kind):
                return DataError(f"{path}, line {line}: {problem} (in {cut(text)})")
            if kind is None and "timestamp" in layout.columns:
                kind = time_kind(fields[layout.columns["timestamp"]].strip())
    except OSError as error:
        return explain_stream_error(path, error)
    except csv.Error as error:
        return DataError(f"{path}, line {line + 1}: {error}; expected {layout.expected}; correct the row")
    return DataError(f"{path}: {reason}; expected {layout.expected}; check format and columns")


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
            f"wrong encoding: the {role} {cut(value)} is not UTF-8; expected UTF-8; "
            "convert the file, such as with `iconv -f LATIN1 -t UTF-8`"
        )
    if role == "timestamp":
        return _time_problem(value, kind)
    if role == "rating":
        fits = NUMBER.fullmatch(value)
        return (
            None if fits else f"non-numeric rating {cut(value)}; expected a number; correct or remove the row"
        )
    return None if value else f"empty {role} id; expected an integer or a string; complete or remove the row"


def _time_problem(value: str, kind: TimeKind | None) -> str | None:
    own = time_kind(value)
    if own is None:
        return f"{_fault(value)} timestamp {cut(value)}; expected {EXPECTED_TIME}; correct or remove the row"
    if kind is not None and own != kind:
        return (
            f"timestamp {cut(value)} is written as {own}, those before as {kind}; "
            "expected one form throughout; convert the column"
        )
    return None


def _fault(value: str) -> str:
    if NUMBER.fullmatch(value):
        return "negative" if value.startswith("-") else "too large a"
    before_1970 = value[:4].isdecimal() and value[4:5] == "-" and value[:4] < "1970"
    return "negative (before 1970)" if before_1970 else "non-numeric"
