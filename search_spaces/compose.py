"""One space out of several families, with some hparams pinned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna

from search_spaces.sasrec import Hparam

Space = Callable[[optuna.Trial], dict[str, Hparam]]


def compose(spaces: Mapping[str, Space], fix: Mapping[str, Hparam]) -> Space:
    """With one family its space, with several the family is a parameter, `model`.

    Pinned hparams are not asked of the sampler, and come out exactly as given, also where the space would
    have rounded them or does not know them.
    """
    names = list(spaces)

    def space(trial: optuna.Trial) -> dict[str, Hparam]:
        pinned = _Pinned(trial, fix)
        name = str(pinned.suggest_categorical("model", names)) if len(names) > 1 else names[0]
        return {**spaces[name](pinned), **fix}  # type: ignore[arg-type]

    return space


def points_to_enqueue(
    known_good: Mapping[str, Sequence[Mapping[str, Hparam]]], names: Sequence[str], fix: Mapping[str, Hparam]
) -> list[dict[str, Hparam]]:
    """Known-good points of the families, in turn, without what is pinned; equal ones once."""
    points: list[dict[str, Hparam]] = []
    longest = max((len(known_good.get(name, ())) for name in names), default=0)
    for index in range(longest):
        for name in names:
            for point in known_good.get(name, ())[index : index + 1]:
                # A pinned loss (or another switch) makes a point's conditional parameters another point's.
                if any(
                    key in point and point[key] != value
                    for key, value in fix.items()
                    if isinstance(value, str)
                ):
                    continue
                free = {key: value for key, value in point.items() if key not in fix}
                free |= {"model": name} if len(names) > 1 else {}
                if free not in points:
                    points.append(free)
    return points


class _Pinned:
    """A trial that answers for pinned parameters itself."""

    def __init__(self, trial: optuna.Trial, fix: Mapping[str, Hparam]) -> None:
        self._trial = trial
        self._fix = fix

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)

    def suggest_int(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._fix[name] if name in self._fix else self._trial.suggest_int(name, *args, **kwargs)

    def suggest_float(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._fix[name] if name in self._fix else self._trial.suggest_float(name, *args, **kwargs)

    def suggest_categorical(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return (
            self._fix[name] if name in self._fix else self._trial.suggest_categorical(name, *args, **kwargs)
        )
