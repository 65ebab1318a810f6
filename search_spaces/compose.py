"""One space out of several families, with some hparams pinned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import optuna

from search_spaces.shared import Hparam, nearest

USUAL_STEPS = 47  # an epoch of ML-1M in batches of 128
MAX_CE_ITEMS = 10_000  # at 24,000 a step of ce costs twenty times one of sampled softmax on a CPU
MANY_ITEMS: dict[str, Hparam] = {  # as measured on Games (docs/decisions.md)
    "loss": "sampled_softmax",
    "num_negatives": 512,
    "popularity_power": 0.5,
    "lr": 3e-3,
}

Space = Callable[[optuna.Trial], dict[str, Hparam]]


def compose(spaces: Mapping[str, Space], fix: Mapping[str, Mapping[str, Hparam]]) -> Space:
    """With one family its space; with several the family is a parameter, and leads the names of the others.

    Two families may give one hparam other bounds, which Optuna does not allow under one name; and what one
    family has learned of its learning rate says little of another's.

    `fix` has what is pinned for each family: it is not asked of the sampler, and comes out exactly as given,
    also where the space would have rounded it or does not ask for it.
    """
    names = list(spaces)

    def space(trial: optuna.Trial) -> dict[str, Hparam]:
        name = str(trial.suggest_categorical("model", names)) if len(names) > 1 else names[0]
        pinned = cast("optuna.Trial", _Pinned(trial, fix[name], _prefix(name, names)))
        return {**spaces[name](pinned), **fix[name]}

    return space


def points_to_enqueue(
    known_good: Mapping[str, Sequence[Mapping[str, Hparam]]],
    fix: Mapping[str, Mapping[str, Hparam]],
    *,
    num_users: int,
    num_items: int,
) -> list[dict[str, Hparam]]:
    """Known-good points of the families, in turn, without what is pinned; equal ones once.

    They are made to fit the log: smaller batches for few users, and above `MAX_CE_ITEMS` sampled softmax in
    place of cross-entropy over the whole catalogue.
    """
    points: list[dict[str, Hparam]] = []
    longest = max((len(known_good.get(name, ())) for name in fix), default=0)
    for index in range(longest):
        for name, pinned in fix.items():
            for point in known_good.get(name, ())[index : index + 1]:
                point = _fitted(point, num_users, num_items)
                # A pinned loss (or another switch) makes a point's conditional parameters another point's.
                if any(
                    point.get(key, value) != value for key, value in pinned.items() if isinstance(value, str)
                ):
                    continue
                free = {key: value for key, value in point.items() if key not in pinned}
                if len(fix) > 1:
                    free = {"model": name, **{_prefix(name, list(fix)) + key: v for key, v in free.items()}}
                if free not in points:
                    points.append(free)
    return points


def _fitted(point: Mapping[str, Hparam], num_users: int, num_items: int) -> dict[str, Hparam]:
    # An epoch keeps its number of steps: in batches of 128 ML-1M has 47, ML-100K would have 8.
    batch_size = nearest((32, 64, 128), max(1, num_users // USUAL_STEPS))
    fitted = {**point, "batch_size": min(batch_size, int(point["batch_size"]))}
    return fitted | MANY_ITEMS if num_items > MAX_CE_ITEMS and point["loss"] == "ce" else fitted


def draws(space: Space, number: int) -> list[dict[str, Hparam]]:
    """Random points of a space, always the same."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [space(study.ask()) for _ in range(number)]


def _prefix(name: str, names: Sequence[str]) -> str:
    return f"{name}." if len(names) > 1 else ""


class _Pinned:
    """A trial that answers for pinned parameters itself, and asks for the others under the family's name."""

    def __init__(self, trial: optuna.Trial, fix: Mapping[str, Hparam], prefix: str) -> None:
        self._trial = trial
        self._fix = fix
        self._prefix = prefix

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)

    def suggest_int(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._ask(self._trial.suggest_int, name, *args, **kwargs)

    def suggest_float(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._ask(self._trial.suggest_float, name, *args, **kwargs)

    def suggest_categorical(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._ask(self._trial.suggest_categorical, name, *args, **kwargs)

    def _ask(self, suggest: Callable[..., Any], name: str, *args: Any, **kwargs: Any) -> Any:
        return self._fix[name] if name in self._fix else suggest(self._prefix + name, *args, **kwargs)
