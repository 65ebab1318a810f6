"""A space as rows to read: what is drawn, from where to where, and under which choices.

A space is code, so it is drawn from, with each of its choices in turn, and what it asks for is noted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from search_spaces.compose import Space


@dataclass(frozen=True)
class Row:
    name: str
    values: str
    condition: str  # "" where it is always drawn


def describe_space(space: Space) -> list[Row]:
    """Every parameter in the order of asking, with the choices it depends on."""
    seen: dict[str, BaseDistribution] = {}
    asked_with: dict[str, list[dict[str, Any]]] = {}
    asked: list[dict[str, Any]] = []
    todo: list[dict[str, Any]] = [{}]
    while todo:
        trial = _Recorder(todo.pop(0))
        space(cast("optuna.Trial", trial))
        if trial.choices in asked:
            continue
        asked.append(trial.choices)
        for name, distribution in trial.distributions.items():
            seen.setdefault(name, distribution)
            asked_with.setdefault(name, []).append(trial.choices)
            if isinstance(distribution, CategoricalDistribution):
                todo += [{**trial.choices, name: choice} for choice in distribution.choices]
    return [Row(name, _values(seen[name]), _condition(asked_with[name], asked)) for name in seen]


class _Recorder:
    """A trial that answers with given choices, else with the first, and with lower bounds."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        self.distributions: dict[str, BaseDistribution] = {}
        self.choices: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.distributions[name] = CategoricalDistribution(choices)
        self.choices[name] = self._given.get(name, choices[0])
        return self.choices[name]

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self.distributions[name] = IntDistribution(low, high, log=log, step=step)
        return low

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        self.distributions[name] = FloatDistribution(low, high, log=log, step=step)
        return low


def _values(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return f"{distribution.low:g} to {distribution.high:g}{', log' if distribution.log else ''}"


def _condition(present: list[dict[str, Any]], asked: list[dict[str, Any]]) -> str:
    """The one choice that decides, where there is one: its values with which the parameter is asked for."""
    if len(present) == len(asked):
        return ""
    parts = []
    for name in present[0]:
        here = {choices[name] for choices in present if name in choices}
        everywhere = {choices[name] for choices in asked if name in choices}
        if here < everywhere and all(name in choices for choices in present):
            parts.append(f"{name} = {' or '.join(map(str, dict.fromkeys(c[name] for c in present)))}")
    return ", ".join(parts)
