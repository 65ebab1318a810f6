"""What a user leaves of a parameter: a part of its range, or some of its choices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from seqsweep.search_spaces.branches import values_in_words


@dataclass(frozen=True)
class Range:
    low: float
    high: float  # included

    def __str__(self) -> str:
        return f"{self.low:g}:{self.high:g}"

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choices:
    texts: tuple[str, ...]

    def __str__(self) -> str:
        return ",".join(self.texts)

    def __contains__(self, value: object) -> bool:
        return _text(value) in self.texts


Narrowing = Range | Choices


def parse_narrowing(text: str) -> Narrowing:
    """LOW:HIGH or A,B,C. Raises ValueError for anything else."""
    if ":" not in text:
        choices = tuple(word.strip() for word in text.split(","))
        if not all(choices):
            raise ValueError(f"must be a range such as 0.1:0.6, or choices such as ce,gbce, got {text!r}")
        return Choices(choices)
    low, _, high = text.partition(":")
    try:
        parsed = Range(float(low), float(high))
    except ValueError:
        raise ValueError(f"must be two numbers LOW:HIGH such as 0.1:0.6, got {text!r}") from None
    if not parsed.low <= parsed.high:
        raise ValueError(f"low <= high must hold in LOW:HIGH, got {text!r}")
    return parsed


def narrow_distribution(distribution: BaseDistribution, narrowing: Narrowing) -> BaseDistribution:
    """What is left of it, on the same scale and grid. Raises ValueError if nothing is."""
    there = values_in_words(distribution)
    if isinstance(distribution, CategoricalDistribution):
        if isinstance(narrowing, Range):
            raise ValueError(f"it is one of {there}: give choices, separated by commas, got {narrowing}")
        known = [_text(choice) for choice in distribution.choices]
        unknown = [text for text in narrowing.texts if text not in known]
        if unknown:
            raise ValueError(f"choices must be among {there}, got {', '.join(unknown)}")
        return CategoricalDistribution([choice for choice in distribution.choices if choice in narrowing])
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if isinstance(narrowing, Choices):
        raise ValueError(f"it is drawn from {there}: give LOW:HIGH, got {narrowing}")
    low, high = max(distribution.low, narrowing.low), min(distribution.high, narrowing.high)
    if distribution.step is not None and low <= high:
        # The narrower range stays on the grid of the wider one, which is of decimal numbers, as Optuna's.
        first, step = Decimal(str(distribution.low)), Decimal(str(distribution.step))
        low = float(first + math.ceil((Decimal(str(low)) - first) / step) * step)
        high = float(first + math.floor((Decimal(str(high)) - first) / step) * step)
    if low > high:
        raise ValueError(f"it is drawn from {there}, of which nothing lies within {narrowing}")
    if isinstance(distribution, IntDistribution):
        return IntDistribution(int(low), int(high), log=distribution.log, step=distribution.step)
    return FloatDistribution(low, high, log=distribution.log, step=distribution.step)


def _text(choice: Any) -> str:
    return str(choice).lower() if isinstance(choice, bool) else str(choice)
