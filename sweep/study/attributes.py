"""What the journal keeps beside Optuna's own fields, key by key: of each trial, and of the study.

Further keys of a trial are `epoch.1`, `epoch.2`, .. : a report for each validated epoch (trial_records.py).
Further keys of the study are `command.<id>`: the answer to a command (commands.py).
"""

from __future__ import annotations

from typing import Any, TypedDict, Unpack, cast

import optuna
from optuna.trial import FrozenTrial

from seqsweep.results.schema import Hparam

ErrorRecord = TypedDict("ErrorRecord", {"class": str, "message": str, "traceback": str})


class TrialAttributes(TypedDict, total=False):
    hparams: dict[str, Hparam]
    """What the space returned, `model` among it. A trial has it from the moment it starts."""
    family: str
    """The model again: rungs and samplers ask for it alone."""
    attempts: int
    """How often the trial was handed to a worker."""
    environment: int
    """Index into the study's `environments`: what the latest attempt ran with."""
    interruptions: list[str]
    """Why its worker died, for each time that counts towards `search.max_attempts`."""
    micro_batch_size: int
    """Share of the batch size that is trained at a time, once the device was out of memory."""
    stopped_because: str
    """Of a pruned trial that no rung stopped: `stopped_by_user` or `time_limit`."""
    error: ErrorRecord
    """Of a failed trial; class is `error`, `interrupted`, `out_of_memory` or `diverged`."""
    retry_of: int
    """The failed trial whose hparams this one tries again."""
    finalist_of: int
    """The trial whose hparams this one trains again, with another seed: a finalist's training."""
    seed_index: int
    """Of a finalist's training: which of its seeds."""


class StudyAttributes(TypedDict, total=False):
    seed: int
    """Seed of all that is random in the study."""
    search: dict[str, Any]
    """SearchConfig, with the first rung that was chosen for the log."""
    finalists: dict[str, Any]
    """FinalistConfig; may change from one start to the next."""
    fingerprint: str
    """Of the prepared log: another log is refused."""
    identity: dict[str, Any]
    """The settings that may not change (driver/opening.py), and the source of a user's own space."""
    space: dict[str, Any]
    """SpaceConfig, fitted to the log."""
    families: list[str]
    """Models that are searched; empty with a user's own space."""
    environments: list[dict[str, Any]]
    """Versions, commit and machine of each start that differed from the ones before."""
    extra_trials: int
    """Trials added by commands to `search.trials`, or taken away."""
    data: dict[str, Any]
    """Facts of the log for the report."""
    split: dict[str, int]
    """Users that train and are evaluated, and cold targets."""
    baselines: list[dict[str, Any]]
    """Rows of the leaderboard for baselines and ceilings."""


def trial_attributes(trial: FrozenTrial | optuna.Trial) -> TrialAttributes:
    return cast(TrialAttributes, trial.user_attrs)


def study_attributes(study: optuna.Study) -> StudyAttributes:
    return cast(StudyAttributes, study.user_attrs)


def set_trial_attributes(trial: optuna.Trial, **attributes: Unpack[TrialAttributes]) -> None:
    for key, value in attributes.items():
        trial.set_user_attr(key, value)


def set_study_attributes(study: optuna.Study, **attributes: Unpack[StudyAttributes]) -> None:
    for key, value in attributes.items():
        study.set_user_attr(key, value)
