"""When a trial is validated, and that studies from before schedules validate every epoch."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqsweep.data_pipeline.store import SequenceLog
from seqsweep.results.schema import Hparam
from seqsweep.sweep.driver.opening import check_same_study, frozen_settings
from seqsweep.sweep.engine.eval_schedule import next_evaluation
from seqsweep.sweep.errors import ConfigError
from seqsweep.sweep.settings.budgets import EvalSchedule
from seqsweep.sweep.settings.search import SearchConfig
from seqsweep.sweep.settings.study_config import StudyConfig
from seqsweep.sweep.study.attributes import StudyAttributes
from seqsweep.sweep.study.optuna_study import rungs_of
from seqsweep.sweep.study.study import Study
from tests.logs import random_log

LATE = [42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 63, 66, 69, 72, 75, 78, 81, 85, 89, 93, 97]


def validated(schedule: EvalSchedule, rungs: list[int], max_epochs: int) -> list[int]:
    epochs = [0]
    while epochs[-1] < max_epochs:
        epochs.append(next_evaluation(epochs[-1], schedule, rungs=rungs, last_epoch=max_epochs))
    return epochs[1:]


def test_validations_begin_at_the_first_rung_and_are_the_further_apart_the_later() -> None:
    assert validated("sparse", [], 100) == [*range(1, 41), *LATE, 100]
    assert validated("sparse", [11, 33, 99], 100) == [*range(11, 41), *LATE, 99, 100]
    assert validated("sparse", [11], 9) == [9]
    assert validated("every", [7], 30) == list(range(1, 31))


@given(st.lists(st.integers(1, 40), min_size=1), st.lists(st.integers(41, 120)), st.integers(1, 100))
def test_rungs_and_the_last_epoch_come_in_between_and_shift_nothing(
    early: list[int], late: list[int], last: int
) -> None:
    expected = {*range(min(early), 41), *LATE, *late, last}
    assert validated("sparse", [*late, *early], last) == sorted(e for e in expected if e <= last)


def test_no_pruner_judges_before_the_first_validation() -> None:
    search = SearchConfig(max_epochs=100, grace_epochs=11, grace_factors={"bert4rec": 3})
    assert rungs_of(search, "sasrec") == (11, 33, 99)
    assert rungs_of(search, "bert4rec") == (33, 99)
    assert rungs_of(search.model_copy(update={"pruner": "median"}), "sasrec") == (11, 33, 99)


def old(attributes: dict[str, Any]) -> dict[str, Any]:
    """As a version that knew no schedules wrote them."""
    training = {key: value for key, value in attributes["training"].items() if key != "eval_schedule"}
    return {**attributes, "training": training}


def test_a_study_from_before_schedules_goes_on_with_every_epoch() -> None:
    config = StudyConfig()
    begun, begun_before = frozen_settings(config), old(frozen_settings(config))
    assert config.with_recorded_defaults(begun).training.eval_schedule == "sparse"
    gone_on = config.with_recorded_defaults(begun_before)
    assert gone_on.training.eval_schedule == "every"
    assert gone_on.training.model_copy(update={"eval_schedule": "sparse"}) == config.training
    assert gone_on.with_recorded_defaults(begun_before) == gone_on


def no_space(_trial: optuna.Trial) -> dict[str, Hparam]:
    return {"model": "sasrec"}


def study_with(folder: Path, log: SequenceLog, known: dict[str, Any]) -> Study:
    attributes: StudyAttributes = {"fingerprint": log.manifest.fingerprint, "identity": known}
    return Study.open(folder, name="a", seed=0, search=SearchConfig(), space=no_space, attributes=attributes)


def test_the_schedule_of_a_study_does_not_change(tmp_path: Path) -> None:
    log, config = random_log(), StudyConfig()
    every, sparse = (StudyConfig.build({"training": {"eval_schedule": s}}) for s in ("every", "sparse"))
    with study_with(tmp_path / "old", log, old(frozen_settings(config))) as study:
        check_same_study(config.with_recorded_defaults(study.attributes["identity"]), study, log)
        check_same_study(every.with_recorded_defaults(study.attributes["identity"]), study, log)
        with pytest.raises(ConfigError, match=r'begun with training = .*"eval_schedule": "every"'):
            check_same_study(sparse.with_recorded_defaults(study.attributes["identity"]), study, log)
    with study_with(tmp_path / "new", log, frozen_settings(config)) as study:
        check_same_study(config.with_recorded_defaults(study.attributes["identity"]), study, log)
        with pytest.raises(ConfigError, match=r'begun with training = .*"eval_schedule": "sparse"'):
            check_same_study(every.with_recorded_defaults(study.attributes["identity"]), study, log)
