"""A study is begun, or opened again after its settings are compared with those it was begun with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqsweep.data_pipeline.store import SequenceLog
from seqsweep.results.files import replace_text
from seqsweep.search_spaces import GRACE_FACTORS, Hparam
from seqsweep.search_spaces.branches import Space
from seqsweep.search_spaces.compose import draws
from seqsweep.sweep.driver.study_space import build_space, families, first_points, fitted_space, space_source
from seqsweep.sweep.driver.user_space import check_user_space
from seqsweep.sweep.driver.view import View
from seqsweep.sweep.engine.hparams import typed_configs
from seqsweep.sweep.environment import environment
from seqsweep.sweep.errors import ConfigError
from seqsweep.sweep.settings.budgets import TrainBudget
from seqsweep.sweep.settings.search import SearchConfig
from seqsweep.sweep.settings.study_config import BEFORE_SCHEDULES, StudyConfig
from seqsweep.sweep.study.optuna_study import suggest_grace
from seqsweep.sweep.study.pruning import check_pruner
from seqsweep.sweep.study.sampling import check_sampler
from seqsweep.sweep.study.study import Study

NUM_DRAWS = 64  # of a space, to see whether what is pinned goes with the rest
# What a study is about, and what may therefore not change between two runs of it.
IDENTITY = ("seed", "data", "protocol", "space", "training")


def open_study(config: StudyConfig, log: SequenceLog, view: View, warm_start: Path | None = None) -> Study:
    """The study of this configuration, under its lock. ConfigError if it began with another."""
    names = families(config.space, log, view)
    space_config = fitted_space(config.space, config.protocol, log)
    space = build_space(space_config, names)
    check_space(space, config)
    search = fitted_search(config.search, log)
    check_pruner(search.pruner, 1 + len(search.objectives))
    check_sampler(search.sampler, space, num_objectives=1 + len(search.objectives))
    study = Study.open(
        config.folder,
        name=config.name,
        seed=config.seed,
        search=search,
        space=space,
        finalists=config.finalists,
        enqueue=first_points(space_config, names, log, warm_start)[: search.trials],
        attributes={
            "fingerprint": log.manifest.fingerprint,
            "identity": frozen_settings(config),
            "space": space_config.model_dump(mode="json"),
            "families": names,
        },
    )
    try:
        config = config.with_recorded_defaults(study.attributes.get("identity"))
        check_same_study(config, study, log)
        replace_text(config.folder / "study.toml", config.with_whole_paths().to_toml())
        facts = environment()
        study.record_environment(facts)
        facts |= {"fingerprint": log.manifest.fingerprint, "search": search.model_dump(mode="json")}
        replace_text(config.folder / "environment.json", json.dumps(facts, indent=2) + "\n")
    except BaseException:
        study.close()
        raise
    return study


def fitted_search(search: SearchConfig, log: SequenceLog) -> SearchConfig:
    """With the first rung that suits the log, if none is given."""
    return search.model_copy(
        update={
            "grace_epochs": search.grace_epochs or suggest_grace(log.num_users, search.max_epochs),
            "grace_factors": {**GRACE_FACTORS, **search.grace_factors},
        }
    )


def frozen_settings(config: StudyConfig) -> dict[str, Any]:
    """What may not change within a study; of a user's own space also its source."""
    values = config.model_dump(mode="json", include=set(IDENTITY))
    return {**values, "space_source": space_source(config.space)}


def check_space(space: Space, config: StudyConfig) -> None:
    """A user's own space, and hparams pinned or narrowed, would fail trials one by one: say so first."""
    if config.space.function is not None:
        check_user_space(space)
    elif config.space.fix or config.space.narrow:
        check_pins(space, config.space.fix)


def check_pins(space: Space, fix: Mapping[str, Hparam]) -> None:
    """Pinned hparams that do not go with what the space draws would fail trials one by one: say so first."""
    for trial in draws(space, NUM_DRAWS):
        try:
            typed_configs(trial)
        except ConfigError as error:
            pins = ", ".join(f"{key}={value}" for key, value in fix.items())
            raise ConfigError(
                f"with {pins} pinned, the space can draw hparams that don't fit: {error}"
            ) from None


def check_same_study(config: StudyConfig, study: Study, log: SequenceLog) -> None:
    before = study.attributes["identity"]
    before["training"] = {
        **TrainBudget().model_dump(mode="json"),  # settings there were none of when it was begun
        **BEFORE_SCHEDULES,
        **before["training"],
    }
    now = frozen_settings(config)
    before["data"].pop("path"), now["data"].pop("path")  # the same bytes elsewhere are the same log
    for section in now:
        if before.get(section) != now[section]:
            was, given = differences(before.get(section), now[section])
            raise ConfigError(
                f"study {config.name!r} was begun with {section} = {json.dumps(was)}, "
                f"got {json.dumps(given)}: give it another --name, or go on with the old settings "
                f"({config.folder / 'study.toml'})"
            )
    if study.attributes["fingerprint"] != log.manifest.fingerprint:
        raise ConfigError(
            f"study {config.name!r} was begun on another log than {config.data.path} holds now "
            f"(fingerprint {study.attributes['fingerprint'][:12]}, got {log.manifest.fingerprint[:12]}): "
            "give it another --name"
        )


def differences(before: Any, now: Any) -> tuple[Any, Any]:
    """Of two sections the keys that differ, and of a pinned space those within it."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return before, now
    pairs = {
        key: differences(before.get(key), now.get(key))
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    }
    return {key: was for key, (was, _) in pairs.items()}, {key: given for key, (_, given) in pairs.items()}
