import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.dates import iso_date, microseconds, whole_seconds


def test_dates_count_from_1970_in_utc() -> None:
    assert microseconds("1970-01-02") == 86_400 * 10**6
    assert microseconds("1970-01-01T01:00:00.000001") == 3600 * 10**6 + 1
    assert microseconds("1970-01-01T01:00:00+01:00") == microseconds("1970-01-01T00:00:00Z") == 0
    assert iso_date(86_400, "s") == "1970-01-02T00:00:00Z"
    assert iso_date(1500, "ms") == "1970-01-01T00:00:01.500Z"


@given(st.integers(0, 10**11))
def test_a_date_that_is_told_is_read_as_it_was(seconds: int) -> None:
    assert whole_seconds(iso_date(seconds, "s")) == whole_seconds(str(seconds)) == seconds


def test_time_filters_are_seconds_or_dates() -> None:
    assert DataConfig(start_time="2003-01-01", end_time="2003-01-01T00:00:10Z") == DataConfig(
        start_time=1_041_379_200, end_time="1041379210"
    )
    toml = tomllib.loads("start_time = 2003-01-01\nend_time = 2003-01-01T00:00:10Z")
    assert DataConfig(**toml).end_time == 1_041_379_210


@pytest.mark.parametrize(
    ("start_time", "words"),
    [
        ("yesterday", "must be seconds since 1970 or an ISO date such as 2003-01-31"),
        ("2003-13-01", "must be seconds since 1970 or an ISO date"),
        ("2003-01-01T00:00:00.5", "must be a whole second"),
    ],
)
def test_other_texts_are_refused(start_time: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DataConfig(start_time=start_time)
