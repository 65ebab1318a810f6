"""Hparams as people write them, by the names that a composed space draws under: to be tried next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optuna.distributions import IntDistribution

from seqsweep.search_spaces import SEARCH_SPACES
from seqsweep.search_spaces.branches import (
    Asked,
    Space,
    condition,
    condition_in_words,
    contains,
    hint_for,
    names_in,
    values_in_words,
    walk,
)
from seqsweep.search_spaces.common_hparams import Hparam, nearest
from seqsweep.search_spaces.errors import SpaceError
from seqsweep.search_spaces.pinned import bounds_of, parse_all, pinned_space

SHORT_LEN = 50  # the max_len of points for short histories
USUAL_STEPS = 47  # an epoch of ML-1M in batches of 128
# Cross-entropy over the catalogue is first choice while it is affordable. It needs no more memory than a
# chunk of scores, and a thread of a CPU forms and trains about 1e8 scores a second at width 64: up to 15,000
# items a step takes at most some 12 times what it takes without, and 2e9 scores an epoch are 20 s.
MAX_CE_ITEMS = 15_000
CE_SCORES_AN_EPOCH = 2e9
GPU_FACTOR = 10  # of both on a GPU; an estimate, not measured
LONG_HISTORIES = 40  # interactions a user, on average, from which points for long histories are tried first
MANY_ITEMS: dict[str, Hparam] = {  # as measured on Games (docs/decisions.md)
    "loss": "sampled_softmax",
    "num_negatives": 512,
    "popularity_power": 0.5,
    "lr": 3e-3,
}


def points_to_enqueue(
    known_good: Mapping[str, Sequence[Mapping[str, Hparam]]],
    fix: Mapping[str, Mapping[str, Hparam]],
    narrow: Mapping[str, Mapping[str, str]] | None = None,
    *,
    num_users: int,
    num_items: int,
    num_interactions: int,
    on_gpu: bool = False,
) -> list[dict[str, Hparam]]:
    """Known-good points of the families, in turn, without what is pinned; equal ones once.

    Points outside of what is narrowed are left out.

    They are made to fit the log: those for histories as long as its own come first, batches are smaller for
    few users, and sampled softmax stands where cross-entropy over the whole catalogue is too dear.
    """
    are_long = num_interactions >= LONG_HISTORIES * num_users
    known_good = {
        name: sorted(found, key=lambda point: (int(point["max_len"]) > SHORT_LEN) != are_long)
        for name, found in known_good.items()
    }
    uses_ce = affords_ce(num_items, num_interactions, on_gpu=on_gpu)
    points: list[dict[str, Hparam]] = []
    longest = max((len(known_good.get(name, ())) for name in fix), default=0)
    for index in range(longest):
        for name, pinned in fix.items():
            bounds = parse_all((narrow or {}).get(name, {}))
            for point in known_good.get(name, ())[index : index + 1]:
                point = _fitted(point, num_users, uses_ce=uses_ce)
                # A pinned loss (or another switch) makes a point's conditional parameters another point's.
                if any(
                    point.get(key, value) != value for key, value in pinned.items() if isinstance(value, str)
                ):
                    continue
                if any(key in point and point[key] not in bound for key, bound in bounds.items()):
                    continue
                free = {key: value for key, value in point.items() if key not in pinned}
                if len(fix) > 1:
                    free = {"model": name, **{prefix_of(name, list(fix)) + key: v for key, v in free.items()}}
                if free not in points:
                    points.append(free)
    return points


def point_for(
    hparams: Mapping[str, Hparam],
    names: Sequence[str],
    fix: Mapping[str, Mapping[str, Hparam]],
    narrow: Mapping[str, Mapping[str, str]] | None = None,
    *,
    strict: bool,
) -> dict[str, Hparam]:
    """Hparams as people write them, by the names of the parameters that `compose` draws from.

    See `point_in`. Raises SpaceError also for hparams of a model that is not searched.
    """
    name = hparams.get("model", names[0] if len(names) == 1 else None)
    if name is None:
        raise SpaceError(
            f"several models are searched: say for which the hparams are, model={' or model='.join(names)}"
        )
    if not isinstance(name, str) or name not in names:
        raise SpaceError(f"model={name} is not searched here, only {', '.join(names)}")
    space = pinned_space(SEARCH_SPACES[name], fix.get(name, {}))
    narrowed = (narrow or {}).get(name, {})
    bounds = bounds_of(space, walk(space), narrowed) if narrowed else {}
    space = pinned_space(SEARCH_SPACES[name], fix.get(name, {}), bounds)
    point = point_in(space, {key: value for key, value in hparams.items() if key != "model"}, strict=strict)
    if len(names) == 1:
        return point
    return {"model": name, **{prefix_of(name, names) + key: value for key, value in point.items()}}


def point_in(space: Space, hparams: Mapping[str, Hparam], *, strict: bool) -> dict[str, Hparam]:
    """Those of the hparams that the space asks for, whatever the sampler adds to them.

    What comes out of the space anyway, as hparams that are pinned to the same value do, is left out. For the
    rest `strict` raises SpaceError: a name the space does not ask for, or not without another choice; a
    value out of range, or one that would be rounded. Else that is left out too, and rounding allowed.
    """
    everywhere = walk(space, hparams)
    point: dict[str, Hparam] = {}
    problems = []
    for key, value in hparams.items():
        present = [asked for asked in everywhere if key in asked.distributions]
        if len(present) < len(everywhere):
            if any(asked.hparams.get(key) != value for asked in everywhere):
                problems.append(_not_asked(space, key, value, present, everywhere))
            continue
        distribution = present[0].distributions[key]
        if not contains(distribution, value):
            problems.append(f"{key} must be within {values_in_words(distribution)}, got {value}")
            continue
        comes_out = next((a.hparams[key] for a in everywhere if a.hparams.get(key, value) != value), value)
        if comes_out != value:
            where = condition_in_words(
                condition([a for a in everywhere if a.hparams.get(key, value) != value], everywhere)
            )
            problems.append(
                f"{key}={value} would come out as {comes_out}"
                + (f" where {where}: give another choice with it" if where else "")
            )
        point[key] = int(value) if isinstance(distribution, IntDistribution) else value
    if strict and problems:
        raise SpaceError("; ".join(problems))
    return point


def _not_asked(
    space: Space, key: str, value: Hparam, present: Sequence[Asked], everywhere: Sequence[Asked]
) -> str:
    outcomes = {asked.hparams.get(key) for asked in everywhere} - {None}
    if outcomes and not present:
        return f"{key} is not searched, it is {' or '.join(map(str, outcomes))} here, got {value}"
    free = walk(space)
    anywhere = [asked for asked in free if key in asked.distributions]
    if not anywhere:
        return f"{key} is not asked for{hint_for(key, names_in(free))}"
    deciding = condition(anywhere, free)
    return f"{key} is asked for only where {condition_in_words(deciding)}: name that as well"


def affords_ce(num_items: int, num_interactions: int, *, on_gpu: bool) -> bool:
    """Tell whether a training with cross-entropy over the whole catalogue ends in good time."""
    factor = GPU_FACTOR if on_gpu else 1
    num_scores = num_interactions * num_items
    return num_items <= factor * MAX_CE_ITEMS or num_scores <= factor * CE_SCORES_AN_EPOCH


def _fitted(point: Mapping[str, Hparam], num_users: int, *, uses_ce: bool) -> dict[str, Hparam]:
    # An epoch keeps its number of steps: in batches of 128 ML-1M has 47, ML-100K would have 8.
    batch_size = nearest((32, 64, 128), max(1, num_users // USUAL_STEPS))
    fitted = {**point, "batch_size": min(batch_size, int(point["batch_size"]))}
    return fitted if uses_ce or point["loss"] != "ce" else fitted | MANY_ITEMS


def prefix_of(name: str, names: Sequence[str]) -> str:
    return f"{name}." if len(names) > 1 else ""
