"""One space out of several families, or a user's own, with some hparams pinned and some narrowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import optuna

from seqsweep.search_spaces.branches import Asked, Space, hint_for, names_in, walk
from seqsweep.search_spaces.common_hparams import Hparam
from seqsweep.search_spaces.errors import SpaceError
from seqsweep.search_spaces.pinned import WithoutGrid, bounds_of, pinned_space
from seqsweep.search_spaces.points import prefix_of


def compose(
    spaces: Mapping[str, Space],
    fix: Mapping[str, Mapping[str, Hparam]],
    narrow: Mapping[str, Mapping[str, str]] | None = None,
) -> Space:
    """With one family its space; with several the family is a parameter, and leads the names of the others.

    Two families may give one hparam other bounds, which Optuna does not allow under one name; and what one
    family has learned of its learning rate says little of another's.

    `fix` has what is pinned for each family: it is not asked of the sampler, and comes out exactly as given,
    also where the space would have rounded it or does not ask for it.

    `narrow` has LOW:HIGH or choices for each family. What is drawn and what comes out lie within them, also
    where the space rounds. Raises SpaceError where that can't be, and for a name that no family asks for.
    """
    names = list(spaces)
    narrow = narrow or {}
    asked = {name: walk(pinned_space(spaces[name], fix[name])) for name in names if narrow.get(name)}
    _check_names(narrow, fix, asked)
    bounds = {
        name: bounds_of(pinned_space(spaces[name], fix[name]), asked[name], narrow[name])
        if name in asked
        else {}
        for name in names
    }

    def space(trial: optuna.Trial) -> Mapping[str, Hparam]:
        name = str(trial.suggest_categorical("model", names)) if len(names) > 1 else names[0]
        asks = pinned_space(spaces[name], fix[name], bounds[name], prefix_of(name, names))
        return asks(cast("optuna.Trial", WithoutGrid(trial)))

    return space


def compose_user(
    function: Space, fix: Mapping[str, Hparam], narrow: Mapping[str, str] | None = None
) -> Space:
    """A user's own space, whose names stay as they are."""
    return compose({"": function}, {"": fix}, {"": narrow or {}})


def draws(space: Space, number: int) -> list[dict[str, Hparam]]:
    """Random points of a space, always the same."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [dict(space(study.ask())) for _ in range(number)]


def _check_names(
    narrow: Mapping[str, Mapping[str, str]],
    fix: Mapping[str, Mapping[str, Hparam]],
    asked: Mapping[str, Sequence[Asked]],
) -> None:
    names = {key for found in asked.values() for key in names_in(found)}
    for family in asked:
        for key, text in narrow[family].items():
            if key in fix[family]:
                raise SpaceError(f"{key} is pinned to {fix[family][key]}: it can't be narrowed to {text} too")
            if key not in names:
                raise SpaceError(f"{key} can't be narrowed, the space does not draw it{hint_for(key, names)}")
