"""Reads text files with Arrow: decompressed on the way, only the columns asked for."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.csv as csv

from data_pipeline.bad_lines import locate_bad_line
from data_pipeline.columns import first_bad_row, interactions_table
from data_pipeline.layout import TextLayout
from data_pipeline.streams import PlainIntegers, SingleSeparator, SqueezedBlanks
from data_pipeline.text_file import explain_stream_error, open_bytes
from data_pipeline.times import TIME_TYPES, time_kind

SEPARATOR_STREAMS = {"::": SingleSeparator, "blanks": SqueezedBlanks}
INTEGER = re.compile(r"-?\d{1,19}")
TEXT_IDS = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class Attempt:
    """One way to read a file."""

    separator: str
    id_type: pa.DataType
    time_type: pa.DataType


def read_text(path: Path, layout: TextLayout) -> pa.Table:
    """The interactions of one text file. Raises DataError with the line that does not fit the layout."""
    try:
        table = _parse(path, layout)
        for role in layout.columns:
            if bad := first_bad_row(table[role], role):
                raise locate_bad_line(path, layout, f"row {bad[0] + 1}: {bad[1]}")
        return interactions_table(table)
    except OSError as error:
        raise explain_stream_error(path, error) from error
    except pa.ArrowInvalid as error:
        raise locate_bad_line(path, layout, str(error)) from error


def _parse(path: Path, layout: TextLayout) -> pa.Table:
    """Tries the cheap ways first; the last and most tolerant one's error counts."""
    *cheap, last = _attempts(path, layout)
    for attempt in cheap:
        try:
            return _parse_as(path, layout, attempt)
        except pa.ArrowInvalid:
            continue
    return _parse_as(path, layout, last)


def _attempts(path: Path, layout: TextLayout) -> Iterator[Attempt]:
    """Judged by the first row, whose form of time must hold for all. Integers take half the time of text."""
    _, text, fields = next(layout.rows(path), (0, "", []))
    if len(fields) != layout.num_columns:
        raise pa.ArrowInvalid(f"the first row has {len(fields)} columns: {text}")
    value = {role: fields[at].strip() for role, at in layout.columns.items()}
    time_types = TIME_TYPES[time_kind(value.get("timestamp", "0")) or "number"]
    id_types: list[pa.DataType] = [TEXT_IDS]
    if INTEGER.fullmatch(value["user"]) and INTEGER.fullmatch(value["item"]):
        id_types.insert(0, pa.int64())
    for separator in (layout.even_separator, layout.separator):
        for id_type in id_types if separator else []:
            for time_type in time_types if "timestamp" in layout.columns else time_types[:1]:
                yield Attempt(str(separator), id_type, time_type)


def _parse_as(path: Path, layout: TextLayout, attempt: Attempt) -> pa.Table:
    names = [str(position) for position in range(layout.num_columns)]
    for role, position in layout.columns.items():
        names[position] = role
    ids, separator = attempt.id_type, attempt.separator
    types = {"user": ids, "item": ids, "rating": pa.float64(), "timestamp": attempt.time_type}
    with open_bytes(path) as stream:
        source = SEPARATOR_STREAMS[separator](stream) if separator in SEPARATOR_STREAMS else stream
        table = csv.read_csv(
            cast(IO[Any], PlainIntegers(source) if ids == pa.int64() else source),
            read_options=csv.ReadOptions(column_names=names, skip_rows=layout.header_lines),
            parse_options=csv.ParseOptions(
                delimiter=SingleSeparator.MARK if separator in SEPARATOR_STREAMS else separator,
                quote_char='"' if layout.quoted else False,
                newlines_in_values=layout.quoted,
            ),
            convert_options=csv.ConvertOptions(
                column_types=types, include_columns=list(layout.columns), null_values=[""]
            ),
        )
    if ids == pa.int64():
        for at, name in enumerate(("user", "item")):  # as one chunk: else every chunk's dictionary is unified
            table = table.set_column(at, name, table[name].combine_chunks().dictionary_encode())
    return table
