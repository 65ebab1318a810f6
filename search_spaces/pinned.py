"""A space of which some parameters are pinned and others narrowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from seqsweep.search_spaces.branches import Asked, Space, ask_once, condition, condition_in_words, walk
from seqsweep.search_spaces.common_hparams import Hparam
from seqsweep.search_spaces.errors import SpaceError
from seqsweep.search_spaces.narrow import Narrowing, Range, narrow_distribution, parse_narrowing


def pinned_space(
    space: Space,
    fix: Mapping[str, Hparam],
    bounds: Mapping[str, Narrowing] | None = None,
    prefix: str = "",
) -> Space:
    def pinned(trial: optuna.Trial) -> Mapping[str, Hparam]:
        return {**space(cast("optuna.Trial", _Pinned(trial, fix, bounds or {}, prefix))), **fix}

    return pinned


def parse_all(narrow: Mapping[str, str]) -> dict[str, Narrowing]:
    parsed = {}
    for key, text in narrow.items():
        try:
            parsed[key] = parse_narrowing(text)
        except ValueError as error:
            raise SpaceError(f"can't narrow {key}: {error}") from None
    return parsed


def bounds_of(space: Space, found: Sequence[Asked], narrow: Mapping[str, str]) -> dict[str, Narrowing]:
    """What `_Pinned` must keep to. `found` is what the space asks for as it is."""
    bounds = parse_all(narrow)
    for asked in found:
        for key in bounds.keys() & asked.distributions.keys():
            _narrowed(key, asked.distributions[key], bounds[key])  # raises for what can't be
    choices = {key: bound for key, bound in bounds.items() if not isinstance(bound, Range)}
    chosen = pinned_space(space, {}, choices)
    found = walk(chosen)
    return {
        key: _range_that_comes_out(chosen, found, key, bound) if isinstance(bound, Range) else bound
        for key, bound in bounds.items()
    }


def _range_that_comes_out(space: Space, found: Sequence[Asked], key: str, bound: Range) -> Range:
    """Within the range what is drawn of a count that the space rounds up or down into the range again."""
    present = [asked for asked in found if key in asked.distributions]
    impossible = []
    low, high = bound.low, bound.high
    for asked in present:
        distribution = _narrowed(key, asked.distributions[key], bound)
        if not isinstance(distribution, IntDistribution):
            return bound

        def stays(drawn: int, choices: Mapping[str, Any] = asked.choices) -> bool:
            return ask_once(space, {**choices, key: drawn}).hparams.get(key, drawn) in bound

        grid = range(distribution.low, distribution.high + 1, distribution.step)
        first = next(filter(stays, grid), None)
        last = next(filter(stays, reversed(grid)), None)
        if first is None or last is None:
            impossible.append(asked)
        else:
            low, high = max(low, first), min(high, last)
    if impossible or low > high:
        where = condition_in_words(condition(impossible or present, found))
        there, or_else = (f" where {where}", ", or narrow what it depends on") if where else ("", "")
        raise SpaceError(
            f"{key} can't be within {bound}{there}: the space rounds it to a value outside. "
            f"Widen the range{or_else}"
        )
    return Range(low, high)


def _narrowed(key: str, distribution: BaseDistribution, bound: Narrowing) -> BaseDistribution:
    try:
        return narrow_distribution(distribution, bound)
    except ValueError as error:
        raise SpaceError(f"can't narrow {key}: {error}") from None


class _Pinned:
    """A trial that answers for pinned parameters itself, and asks for the others under the family's name."""

    def __init__(
        self,
        trial: optuna.Trial,
        fix: Mapping[str, Hparam],
        bounds: Mapping[str, Narrowing],
        prefix: str,
    ) -> None:
        self._trial = trial
        self._fix = fix
        self._bounds = bounds
        self._prefix = prefix

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> Any:
        return self._ask(name, IntDistribution(low, high, log=log, step=step))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> Any:
        return self._ask(name, FloatDistribution(low, high, log=log, step=step))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._ask(name, CategoricalDistribution(choices))

    def _ask(self, name: str, distribution: BaseDistribution) -> Any:
        if name in self._fix:
            return self._fix[name]
        if name in self._bounds:
            distribution = _narrowed(name, distribution, self._bounds[name])
        if isinstance(distribution, CategoricalDistribution):
            return self._trial.suggest_categorical(self._prefix + name, distribution.choices)
        assert isinstance(distribution, IntDistribution | FloatDistribution)
        low, high = distribution.low, distribution.high
        if isinstance(distribution, FloatDistribution):
            return self._trial.suggest_float(
                self._prefix + name, low, high, step=distribution.step, log=distribution.log
            )
        return self._trial.suggest_int(
            self._prefix + name, int(low), int(high), step=distribution.step, log=distribution.log
        )


class WithoutGrid:
    """A trial that draws counts on a logarithmic scale between the whole numbers, and rounds.

    TPE weighs each whole number of a range by itself: a proposal took 92 ms with hundreds of them, 36 ms so.
    """

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        if log:
            return round(self._trial.suggest_float(name, low, high, log=True))
        return self._trial.suggest_int(name, low, high, step=step)
