"""Reads text files with Arrow: decompressed on the way, only the columns asked for."""

import io
import re
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.csv as csv

from data_pipeline.bad_lines import locate_bad_line
from data_pipeline.columns import first_bad_row, interactions_table
from data_pipeline.layout import TextLayout
from data_pipeline.text_file import explain_stream_error, open_bytes
from data_pipeline.times import TIME_TYPES, TimeKind, time_kind

BLOCK_BYTES = 2**23
TEXT_IDS = pa.dictionary(pa.int32(), pa.string())


def read_text(path: Path, layout: TextLayout) -> pa.Table:
    """The interactions of one text file. Raises DataError with the line that does not fit the layout."""
    try:
        table = _parse(path, layout)
        for role in layout.columns:
            if bad := first_bad_row(table[role], role):
                raise pa.ArrowInvalid(f"row {bad[0] + 1}: {bad[1]}")
        return interactions_table(table)
    except OSError as error:
        raise explain_stream_error(path, error) from error
    except pa.ArrowInvalid as error:
        raise locate_bad_line(path, layout, str(error)) from error


def _parse(path: Path, layout: TextLayout) -> pa.Table:
    """Times are read as the first row writes them. Tries the cheap way first; the last way's error counts."""
    separators = [layout.even_separator, layout.separator]
    attempts = [
        (separator, time_type)
        for separator in separators
        if separator is not None
        for time_type in TIME_TYPES[_first_time_kind(path, layout)]
    ]
    for attempt in attempts[:-1]:
        try:
            return _parse_as(path, layout, *attempt)
        except pa.ArrowInvalid:
            continue
    return _parse_as(path, layout, *attempts[-1])


def _first_time_kind(path: Path, layout: TextLayout) -> TimeKind:
    _, _, fields = next(layout.rows(path))
    at = layout.columns.get("timestamp", len(fields))
    return (time_kind(fields[at].strip()) if at < len(fields) else None) or "number"


def _parse_as(path: Path, layout: TextLayout, separator: str, time_type: pa.DataType) -> pa.Table:
    names = [str(position) for position in range(layout.num_columns)]
    for role, position in layout.columns.items():
        names[position] = role
    types = {"user": TEXT_IDS, "item": TEXT_IDS, "rating": pa.float64(), "timestamp": time_type}
    with open_bytes(path) as stream:
        source = SEPARATOR_STREAMS[separator](stream) if separator in SEPARATOR_STREAMS else stream
        return csv.read_csv(
            cast(IO[Any], source),
            read_options=csv.ReadOptions(
                column_names=names, skip_rows=layout.header_lines, block_size=BLOCK_BYTES
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


class SingleSeparator(io.RawIOBase):
    """A byte stream whose separators are made one character, without moving any line."""

    MARK = "\x1f"  # ASCII's unit separator: Arrow splits at one character only
    HELD = b":"  # what a block may not end in, as the separator may go on in the next

    def __init__(self, source: pa.NativeFile) -> None:
        self._source = source
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while True:
            block = self._source.read(max(size - len(self._rest), 1))
            text = self._rest + block
            whole = text.rstrip(self.HELD) if block else text
            self._rest = text[len(whole) :]
            if whole or not block:
                return self.translate(whole)

    def translate(self, text: bytes) -> bytes:
        return text.replace(b"::", b"\x1f")


class SqueezedBlanks(SingleSeparator):
    HELD = b" \t\r\n"
    EDGES = re.compile(rb"[ \t]*(\r?\n)[ \t]*|[ \t]+\Z")
    BLANKS = re.compile(rb"[ \t]+")
    _at_start = True

    def translate(self, text: bytes) -> bytes:
        if self._at_start:
            text, self._at_start = text.lstrip(b" \t"), False
        return self.BLANKS.sub(b"\x1f", self.EDGES.sub(rb"\1", text))


SEPARATOR_STREAMS = {"::": SingleSeparator, "blanks": SqueezedBlanks}
