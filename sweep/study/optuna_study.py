"""How a search is set, and the Optuna study that keeps it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.study import StudyDirection

from seqsweep.results.schema import Hparam
from seqsweep.search_spaces.branches import Space
from seqsweep.sweep.errors import StudyError
from seqsweep.sweep.settings.search import SearchConfig
from seqsweep.sweep.study.attributes import StudyAttributes, set_study_attributes, study_attributes
from seqsweep.sweep.study.pruning import RungTable
from seqsweep.sweep.study.sampling import check_point

USUAL_BATCH_SIZE = 128
STEPS_BEFORE_RUNG = 250
MIN_GRACE_EPOCHS = 3
MAY_CHANGE = ("trials", "max_attempts")  # in a study that is begun


def suggest_grace(num_users: int, max_epochs: int) -> int:
    """Epochs before the first rung: some steps must lie behind a trial that is judged.

    An epoch of a small log is few steps: 8 on ML-100K in batches of 128. But no more than a ninth of the
    epochs, so that there are two rungs, and never below `MIN_GRACE_EPOCHS`.
    """
    steps_an_epoch = num_users / USUAL_BATCH_SIZE
    return max(MIN_GRACE_EPOCHS, min(math.ceil(STEPS_BEFORE_RUNG / steps_an_epoch), max_epochs // 9))


def rung_table(search: SearchConfig) -> RungTable:
    grace = search.grace_epochs or MIN_GRACE_EPOCHS
    return RungTable(grace, search.reduction_factor, search.max_epochs, search.grace_factors)


def rungs_of(search: SearchConfig, family: str) -> tuple[int, ...]:
    """Epochs that are validated on every schedule, with any pruner: none judges before the first."""
    return tuple(rung_table(search).rungs(family))


def find_study(storage: JournalStorage) -> optuna.Study | None:
    """The study of a journal, which holds one at most."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    studies = storage.get_all_studies()
    return optuna.load_study(study_name=studies[0].study_name, storage=storage) if studies else None


def create_study(
    storage: JournalStorage,
    name: str,
    attributes: StudyAttributes,
    points: Sequence[dict[str, Hparam]],
    directions: Sequence[str] = ("maximize",),
) -> optuna.Study:
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        directions=[StudyDirection[direction.upper()] for direction in directions],
    )
    set_study_attributes(study, **attributes)
    for point in points:
        study.enqueue_trial(point)
    return study


def check_same_search(
    study: optuna.Study, folder: Path, *, name: str, seed: int, search: SearchConfig
) -> None:
    """Raises StudyError if the study was begun with another name, seed or settings."""
    attributes = study_attributes(study)
    begun = SearchConfig(**attributes["search"])
    there = {"name": study.study_name, "seed": attributes["seed"], **begun.model_dump()}
    asked = {"name": name, "seed": seed, **search.model_dump(exclude=set(MAY_CHANGE))}
    differing = [
        f"{key} is {there.get(key)!r}, not {asked[key]!r}" for key in asked if there.get(key) != asked[key]
    ]
    if differing:
        raise StudyError(
            f"the study in {folder} was begun with other settings: {'; '.join(differing)}. "
            "Go on with those, or begin a study under another name"
        )


def checked_point(space: Space, point: Mapping[str, Hparam]) -> dict[str, Hparam]:
    """Raises StudyError for a point that the space could not have proposed."""
    try:
        check_point(space, point)
    except ValueError as error:
        raise StudyError(f"can't enqueue {dict(point)}: {error}") from error
    return dict(point)
