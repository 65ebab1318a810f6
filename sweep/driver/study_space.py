"""The space of a study: of families, or a user's own, with what is pinned and narrowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch

from seqsweep.data_pipeline.store import SequenceLog
from seqsweep.models import MODELS
from seqsweep.search_spaces import KNOWN_GOOD, SEARCH_SPACES, Hparam
from seqsweep.search_spaces.branches import Space
from seqsweep.search_spaces.compose import compose, compose_user
from seqsweep.search_spaces.points import point_for, point_in, points_to_enqueue
from seqsweep.sweep.driver.user_space import load_space
from seqsweep.sweep.driver.view import View
from seqsweep.sweep.engine.hparams import pins_by_family
from seqsweep.sweep.errors import ConfigError, StudyError
from seqsweep.sweep.settings.protocol import ProtocolConfig
from seqsweep.sweep.settings.study_config import ALL, SpaceConfig
from seqsweep.sweep.study.attributes import StudyAttributes
from seqsweep.sweep.study.finalists import ranked
from seqsweep.sweep.study.study import Study

WARM_START_TRIALS = 3  # as many as are finalists by default


def families(config: SpaceConfig, log: SequenceLog, view: View) -> list[str]:
    """The models to search; none are named for a user's own space. Those that use time need a log with it."""
    if config.function is not None:
        return []
    names = config.names()
    if log.has_timestamps:
        return names
    timeless = [name for name in names if not MODELS[name].uses_time]
    left_out = ", ".join(name for name in names if name not in timeless)
    if left_out and config.models != (ALL,):
        raise ConfigError(
            f"the log has no timestamps, which {left_out} needs: leave it out of --models, or "
            "give a log with a column of times"
        )
    if left_out:
        view.say(f"without timestamps in the log {left_out} is left out")
    return timeless


def fitted_space(config: SpaceConfig, protocol: ProtocolConfig, log: SequenceLog) -> SpaceConfig:
    """Pin what the log decides, unless the user has pinned it.

    Where rankings keep seen items, one of them can be the right answer: no loss may leave them out.
    """
    if config.function is not None or protocol.removes_seen(log):
        return config
    return config.model_copy(update={"fix": {"exclude_seen": False, **config.fix}})


def build_space(config: SpaceConfig, names: Sequence[str]) -> Space:
    """Raises ConfigError for pins or bounds that fit no family, and for a function that is not there."""
    if config.function is not None:
        return compose_user(load_space(config.function).function, config.fix, config.narrow)
    fix = pins_by_family(names, config.fix)
    return compose({name: SEARCH_SPACES[name] for name in names}, fix, pins_by_family(names, config.narrow))


def first_points(
    config: SpaceConfig, names: Sequence[str], log: SequenceLog, warm_start: Path | None
) -> list[dict[str, Hparam]]:
    """The best of another study, then points known to be good (of a user's own space we know none)."""
    points: list[dict[str, Hparam]] = []
    if warm_start is not None:
        points = StudySpace(config, names).points_of(warm_start, WARM_START_TRIALS)
    if config.function is None:
        points += points_to_enqueue(
            KNOWN_GOOD,
            pins_by_family(names, config.fix),
            pins_by_family(names, config.narrow),
            num_users=log.num_users,
            num_items=log.num_items,
            num_interactions=int(log.offset_U[-1]),
            on_gpu=torch.cuda.is_available(),
        )
    return points


class StudySpace:
    """A space, and how hparams as people write them are named in it."""

    def __init__(self, config: SpaceConfig, names: Sequence[str]) -> None:
        self.config = config
        self.names = names

    @classmethod
    def of(cls, attributes: StudyAttributes) -> Self:
        """That of a study, from its attributes."""
        config = SpaceConfig(**attributes.get("space", attributes["identity"]["space"]))
        return cls(config, attributes.get("families", config.names()))

    def build(self) -> Space:
        return build_space(self.config, self.names)

    def point(self, hparams: Mapping[str, Hparam], *, strict: bool) -> dict[str, Hparam]:
        """In the space's names; hparams it does not ask for are refused if `strict`, else left out."""
        if self.config.function is not None:
            return point_in(self.build(), hparams, strict=strict)
        fix = pins_by_family(self.names, self.config.fix)
        narrow = pins_by_family(self.names, self.config.narrow)
        return point_for(hparams, self.names, fix, narrow, strict=strict)

    def points_of(self, folder: Path, count: int) -> list[dict[str, Hparam]]:
        """The best hparams of another study, as far as this space moves them.

        Raises StudyError if none has a result, or none has a model that is searched here.
        """
        with Study.read(folder) as study:
            best = ranked(study.records())
        known = [r for r in best if self.config.function is not None or r.model in self.names]
        if not known:
            raise StudyError(
                f"the study in {folder} has nothing to start from: {len(best)} trials with a result, none of "
                f"{', '.join(self.names) or 'this space'}"
            )
        return [self.point(record.hparams, strict=False) for record in known[:count]]


def space_source(config: SpaceConfig) -> str | None:
    """What a user's own function is: it may not change within a study."""
    return None if config.function is None else load_space(config.function).source_sha256


def study_space(attributes: StudyAttributes) -> Space:
    return StudySpace.of(attributes).build()
