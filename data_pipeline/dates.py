"""Points in time as a person writes them: ISO dates, in settings and in messages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seqsweep.data_pipeline.schema import TimeUnit

EXPECTED_DATE = "seconds since 1970 or an ISO date such as 2003-01-31 or 2003-01-31T12:00:00Z"


def microseconds(text: str) -> int:
    """Microseconds since 1970 of an ISO date or date-time; without a zone it is UTC, as in logs.

    Raises ValueError for any other text.
    """
    moment = datetime.fromisoformat(text)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def whole_seconds(text: str) -> int:
    """Seconds since 1970, written as a number or as an ISO date. Raises ValueError for anything else."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        seconds, rest = divmod(microseconds(text), 10**6)
    except ValueError:
        raise ValueError(f"must be {EXPECTED_DATE}") from None
    if rest:
        raise ValueError("must be a whole second")
    return seconds


def iso_date(value: int, unit: TimeUnit) -> str:
    """A time of a log, in the log's unit, as it is told to a person."""
    import numpy as np  # here, as settings are light to import

    return f"{np.datetime64(value, unit)}Z"
