"""What a space asks for: it is code, so it is run with each of its choices, and its questions are noted."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from seqsweep.search_spaces.common_hparams import Hparam
from seqsweep.search_spaces.errors import SpaceError

Space = Callable[[optuna.Trial], Mapping[str, Hparam]]


@dataclass(frozen=True)
class Asked:
    """What a space asked for under one set of choices, and what it returned then."""

    choices: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    hparams: dict[str, Hparam]


def walk(space: Space, given: Mapping[str, Any] | None = None) -> list[Asked]:
    """All sets of choices that lead to different questions or answers, save for the choices that are given.

    What depends on a number that is drawn is seen at its given value or at its lower bound alone.
    """
    found: list[Asked] = []
    todo: list[dict[str, Any]] = [dict(given or {})]
    while todo:
        settled = todo.pop(0)
        asked = ask_once(space, settled)
        found.append(asked)
        # Each choice that was not settled branches off, with those before it as they were: none comes twice.
        for name, chosen in asked.choices.items():
            distribution = asked.distributions[name]
            assert isinstance(distribution, CategoricalDistribution)
            if name in settled and contains(distribution, settled[name]):
                continue
            todo += [{**settled, name: choice} for choice in distribution.choices if choice != chosen]
            settled = {**settled, name: chosen}
    return found


def ask_once(space: Space, given: Mapping[str, Any]) -> Asked:
    """Raises SpaceError for whatever the space raises: it may be a user's own code."""
    trial = _Recorder(given)
    try:
        hparams = dict(space(cast("optuna.Trial", trial)))
    except SpaceError:
        raise
    except Exception as error:
        raise SpaceError(
            f"the space raised {type(error).__name__}: {error}, when it was answered with {trial.params}"
        ) from error
    return Asked(trial.choices, trial.distributions, hparams)


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Unlike Optuna's own, false for a value of another type."""
    if isinstance(distribution, CategoricalDistribution):
        return any(value == choice and type(value) is type(choice) for choice in distribution.choices)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and distribution._contains(float(value))


def condition(present: Sequence[Asked], everywhere: Sequence[Asked]) -> dict[str, list[Any]]:
    """Which choices lead to `present`, by name; {} if all do, or no single choice decides."""
    deciding: dict[str, list[Any]] = {}
    for name in present[0].choices:
        here = [asked.choices[name] for asked in present if name in asked.choices]
        there = {asked.choices[name] for asked in everywhere if name in asked.choices}
        if len(here) == len(present) and set(here) < there:
            deciding[name] = list(dict.fromkeys(here))
    return deciding


def condition_in_words(deciding: Mapping[str, Sequence[Any]]) -> str:
    return ", ".join(f"{name} = {' or '.join(map(str, choices))}" for name, choices in deciding.items())


def values_in_words(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return f"{distribution.low:g} to {distribution.high:g}{', log' if distribution.log else ''}"


def names_in(found: Sequence[Asked]) -> set[str]:
    return {name for asked in found for name in asked.distributions}


def hint_for(key: str, names: set[str]) -> str:
    matches = difflib.get_close_matches(key, sorted(names), n=1)
    return f"; did you mean {matches[0]}?" if matches else f"; it asks for {', '.join(sorted(names))}"


class _Recorder:
    """A trial that answers with what is given if that can be, else with first choices and lower bounds."""

    number = 0

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self.distributions: dict[str, BaseDistribution] = {}
        self.choices: dict[str, Any] = {}
        self.params: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.choices[name] = self._answer(name, CategoricalDistribution(choices), choices[0])
        return self.choices[name]

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return int(self._answer(name, IntDistribution(low, high, log=log, step=step), low))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._answer(name, FloatDistribution(low, high, log=log, step=step), low))

    def _answer(self, name: str, distribution: BaseDistribution, default: Any) -> Any:
        self.distributions[name] = distribution
        value = self._given.get(name, default)
        self.params[name] = value if contains(distribution, value) else default
        return self.params[name]
