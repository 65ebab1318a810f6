"""Reads text files with Arrow: decompressed on the way, only the columns asked for."""

import re
from collections.abc import Iterator
from csv import Error as CsvError
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.csv as csv

from seqsweep.data_pipeline.formats.bad_lines import locate_bad_line, open_quote
from seqsweep.data_pipeline.formats.byte_streams import (
    PlainIntegers,
    QuoteCounter,
    SingleSeparator,
    Source,
    SqueezedBlanks,
)
from seqsweep.data_pipeline.formats.columns import first_bad_row
from seqsweep.data_pipeline.formats.text_file import (
    MAX_LINE_BYTES,
    explain_stream_error,
    one_line,
    open_bytes,
)
from seqsweep.data_pipeline.formats.text_layout import TextLayout
from seqsweep.data_pipeline.formats.timestamps import TIME_TYPES, time_kind

SEPARATOR_STREAMS = {"::": SingleSeparator, "blanks": SqueezedBlanks}
INTEGER = re.compile(r"-?[0-9]{1,19}")
LONG_LINE = "straddl"  # Arrow's word for a row that is longer than a block
TEXT_IDS = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class Attempt:
    """One way to read a file."""

    separator: str
    id_type: pa.DataType
    time_type: pa.DataType
    block_size: int = 2**20  # Arrow's own; no row may be longer


def read_text(path: Path, layout: TextLayout) -> pa.Table:
    """The columns of one text file by role, as `columns.interactions_table` takes them.

    Raises DataError with the line that does not fit the layout.
    """
    try:
        table = _parse(path, layout)
        for role in layout.columns:
            if bad := first_bad_row(table[role], role):
                raise locate_bad_line(path, layout, f"row {bad[0] + 1}: {bad[1]}")
        return table
    except OSError as error:
        raise explain_stream_error(path, error) from error
    except (pa.ArrowInvalid, CsvError) as error:
        raise locate_bad_line(path, layout, one_line(error)) from error


def _parse(path: Path, layout: TextLayout) -> pa.Table:
    """Tries the cheap ways first; the last and most tolerant one's error counts."""
    *cheap, last = _attempts(path, layout)
    for attempt in cheap:
        try:
            return _parse_as(path, layout, attempt)
        except pa.ArrowInvalid as error:
            if LONG_LINE in str(error):
                break
    try:
        return _parse_as(path, layout, last)
    except pa.ArrowInvalid as error:
        if LONG_LINE not in str(error):
            raise
    return _parse_as(path, layout, replace(last, block_size=MAX_LINE_BYTES))


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
        source: Source = SEPARATOR_STREAMS[separator](stream) if separator in SEPARATOR_STREAMS else stream
        quotes = QuoteCounter(source)
        source = quotes if layout.quoted else source
        table = csv.read_csv(
            cast(IO[Any], PlainIntegers(source) if ids == pa.int64() else source),
            read_options=csv.ReadOptions(
                column_names=names, skip_rows=layout.header_lines, block_size=attempt.block_size
            ),
            parse_options=csv.ParseOptions(
                delimiter=SingleSeparator.MARK if separator in SEPARATOR_STREAMS else separator,
                quote_char='"' if layout.quoted else False,
                newlines_in_values=layout.quoted,
            ),
            convert_options=csv.ConvertOptions(
                column_types=types, include_columns=list(layout.columns), null_values=[""]
            ),
        )
    if quotes.is_odd and (error := open_quote(path, layout)):
        raise error
    if ids == pa.int64():
        for at, name in enumerate(("user", "item")):  # as one chunk: else every chunk's dictionary is unified
            table = table.set_column(at, name, table[name].combine_chunks().dictionary_encode())
    return table
