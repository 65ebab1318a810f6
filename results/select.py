"""Rows and columns of a leaderboard by what a user types: `lr<0.01`, `test.*`, `-seconds`.

A condition is COLUMN OPERATOR VALUE and is read here: an expression that pandas evaluates could run code,
and column names with dots and @ would have to be quoted in it.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import pandas as pd

from seqsweep.results.errors import TableError
from seqsweep.results.leaderboard import STATE_ORDER

OUTSIDE_RANKING = ("baseline", "ceiling")  # what a trial is read against
ORDERED: dict[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
QUOTED = r"'[^']*'|\"[^\"]*\""
CONDITION = re.compile(rf"\s*({QUOTED}|[^\s=!<>~]+)\s*(!=|<=|>=|==|=|<|>|~)\s*(.*?)\s*")
SHOWN_COLUMNS = 12


@dataclass(frozen=True)
class Condition:
    """`model=sasrec`, `hparam.lr<0.01`, `device~cuda*`, `seeds!=null`. A null meets `=null` alone.

    Column and value may stand in quotes: `'hparam.my own'="this and that"`.
    """

    column: str
    operator: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        found = CONDITION.fullmatch(text)
        if found is None or _is_expression(found[2], found[3]):
            raise TableError(
                "a filter must be COLUMN OPERATOR VALUE with one of = != < <= > >= ~ (a pattern), such as "
                f"'hparam.lr<0.01', got {text!r}; of several filters all must hold"
            )
        column, sign, value = found.groups()
        return cls(_unquoted(column), "=" if sign == "==" else sign, _unquoted(value))

    def holds(self, frame: pd.DataFrame) -> pd.Series[bool]:
        values = frame[one_column(frame, self.column)]
        if self.value == "null" and self.operator in ("=", "!="):
            return values.isna() if self.operator == "=" else values.notna()
        return values.notna() & self._compare(values).fillna(False).astype(bool)

    def _compare(self, values: pd.Series[Any]) -> pd.Series[Any]:
        if self.operator == "~":
            return values.map(lambda value: fnmatchcase(str(value), self.value), na_action="ignore")
        value = self._typed(values)
        if self.operator in ORDERED:
            return pd.Series(ORDERED[self.operator](values, value))
        return values.eq(value) if self.operator == "=" else values.ne(value)

    def _typed(self, values: pd.Series[Any]) -> Any:
        """The value as the column has it."""
        kind = "text"
        try:
            if pd.api.types.is_bool_dtype(values):
                kind = "true or false"
                return {"true": True, "false": False}[self.value.lower()]
            if pd.api.types.is_numeric_dtype(values):
                kind = "a number"
                return float(self.value)
            if pd.api.types.is_datetime64_any_dtype(values):
                kind = "a time, such as 2026-01-31 or 2026-01-31T12:00"
                time = pd.Timestamp(self.value)
                return time.tz_localize("UTC") if time.tzinfo is None else time
        except (KeyError, ValueError):
            raise TableError(f"{self.column} is compared with {kind}, got {self.value!r}") from None
        return self.value


def _is_expression(sign: str, value: str) -> bool:
    """More than one condition. In a pattern and in quotes the words mean themselves."""
    words_are_text = sign == "~" or re.fullmatch(QUOTED, value)
    return not words_are_text and re.search(r"\s(and|or)\s", value) is not None


def _unquoted(text: str) -> str:
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if is_quoted else text


def select_rows(
    frame: pd.DataFrame,
    *,
    conditions: Iterable[Condition] = (),
    states: Sequence[str] = (),
    sort: str | None = None,
    limit: int | None = None,
) -> pd.DataFrame:
    """`sort`: a column, smallest first, or -COLUMN. `limit` counts trials: baselines and ceilings stay."""
    for state in states:
        if state not in STATE_ORDER:
            raise TableError(f"a state must be one of {', '.join(STATE_ORDER)}, got {state!r}")
    if states:
        frame = frame[frame["state"].isin(states)]
    for condition in conditions:
        frame = frame[condition.holds(frame)]
    if sort is not None:
        column = one_column(frame, sort.removeprefix("-"))
        frame = frame.sort_values(column, ascending=not sort.startswith("-"), kind="stable")
    if limit is not None:
        outside = frame["state"].isin(OUTSIDE_RANKING)
        frame = frame[outside | ((~outside).cumsum() <= limit)]
    return frame.reset_index(drop=True)


def select_columns(frame: pd.DataFrame, patterns: Iterable[str]) -> list[str]:
    """Names in the order of the patterns, each once."""
    names: list[str] = []
    for pattern in patterns:
        found = [name for name in frame.columns if fnmatchcase(name, pattern)]
        names += found or [one_column(frame, pattern)]
    return list(dict.fromkeys(names))


def one_column(frame: pd.DataFrame, name: str) -> str:
    if name in frame.columns:
        return name
    ending = [column for column in frame.columns if column.endswith(f".{name}")]
    near = ending or difflib.get_close_matches(name, list(frame.columns), n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {_some(list(frame.columns))}"
    raise TableError(f"there is no column {name!r}: {hint}")


def _some(names: Sequence[str]) -> str:
    rest = len(names) - SHOWN_COLUMNS
    more = f" and {rest} more; docs/leaderboard.md has all" if rest > 0 else ""
    return ", ".join(names[:SHOWN_COLUMNS]) + more


def as_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values for JSON: what is missing or not finite is None, a time is ISO 8601."""
    rows = frame.astype(object).to_dict(orient="records")
    return [{str(name): _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    if pd.isna(value) or value in (math.inf, -math.inf):
        return None
    return value.isoformat() if isinstance(value, pd.Timestamp) else value
