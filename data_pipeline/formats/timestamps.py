"""Timestamps: how they are written, and how they become int64."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqsweep.data_pipeline.schema import UNITS_PER_SECOND, TimeUnit

EXPECTED_TIME = "a timestamp of 0 or more: integer or float seconds, milliseconds or an ISO date-time"
NUMBER = re.compile(r"-?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
ISO_TIME = re.compile(
    r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(?P<zone>Z|[+-]\d{2}(:?\d{2})?)?)?",
    re.ASCII,
)
TimeKind = Literal["number", "iso", "iso with zone"]
TIME_TYPES: dict[TimeKind, tuple[pa.DataType, ...]] = {
    "number": (pa.int64(), pa.float64()),
    "iso": (pa.timestamp("us"), pa.timestamp("ns")),
    "iso with zone": (pa.timestamp("us", "UTC"), pa.timestamp("ns", "UTC")),
}


def time_kind(text: str) -> TimeKind | None:
    """How a timestamp is written; None where it is none, or is negative or beyond int64."""
    if NUMBER.fullmatch(text):
        return "number" if 0 <= float(text) < 2**63 else None
    if (match := ISO_TIME.fullmatch(text)) and int(text[:4]) >= 1970 and _is_in_calendar(text):
        return "iso with zone" if match["zone"] else "iso"
    return None


def _is_in_calendar(text: str) -> bool:
    try:
        datetime.fromisoformat(text[:19])
    except ValueError:
        return False
    return True


def parse_times(column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    """Times that are text, as numbers or date-times. Raises ArrowInvalid where one is neither, or unlike the
    first one."""
    kind = time_kind(str(column[0]).strip())
    for time_type in TIME_TYPES[kind] if kind else ():
        try:
            return column.cast(time_type)
        except pa.ArrowInvalid:
            continue
    raise pa.ArrowInvalid(f"the timestamps could not be read as {kind or 'numbers or date-times'}")


def unit_of(texts: list[str]) -> TimeUnit | None:
    """The unit of a few timestamps as they are written; None where only the whole column tells it."""
    if not texts or any(NUMBER.fullmatch(text.strip()) is None for text in texts):
        return None
    column = pa.chunked_array([pa.array([float(text) for text in texts])])
    return _unit_of_size(column) if pc.all(pc.equal(pc.floor(column), column)).as_py() else None


def encode_time(column: pa.ChunkedArray[Any]) -> tuple[pa.ChunkedArray[Any], TimeUnit]:
    """Times as int64 and their unit; date-times without a zone are taken as UTC.

    Whole seconds stay seconds; fractions become microseconds. Plain integers have no unit of their own: it is
    told from their size (10^11 seconds would be the year 5138). Raises ArrowInvalid on values beyond int64.
    """
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type):
        return _whole_seconds(column.cast(pa.int64()), cast(TimeUnit, column.type.unit))
    if pa.types.is_floating(column.type):
        column = column.cast(pa.float64())
        if not pc.all(pc.equal(pc.floor(column), column)).as_py():
            scale = (
                1e6 if _unit_of_size(column) == "s" else 1e3
            )  # a fraction of a second, or of a millisecond
            return pc.round(pc.multiply(column, scale)).cast(pa.int64()), "us"
    column = column.cast(pa.int64())
    return column, _unit_of_size(column)


def _unit_of_size(column: pa.ChunkedArray[Any]) -> TimeUnit:
    latest = pc.max(column).as_py() or 0
    return "s" if latest < 10**11 else "ms" if latest < 10**14 else "us" if latest < 10**17 else "ns"


def _whole_seconds(column: pa.ChunkedArray[Any], unit: TimeUnit) -> tuple[pa.ChunkedArray[Any], TimeUnit]:
    value = column.to_numpy()
    if np.any(value % UNITS_PER_SECOND[unit]):
        return column, unit
    return pa.chunked_array([pa.array(value // UNITS_PER_SECOND[unit])]), "s"
