"""Runs a study's trials on Ray Tune.

Tune places trials and carries their reports; every decision is the study's. Nothing that Tune holds is
missed when it is lost: each start makes a new experiment, Tune retries nothing, and its files are removed
at the end.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray import tune
from ray.tune.error import TuneError
from ray.tune.experiment import Trial

from seqsweep.sweep.cluster.tune_adapters import (
    Experiment,
    StudyCallback,
    StudyScheduler,
    StudySearcher,
    StudyStopper,
    nothing_started,
)
from seqsweep.sweep.errors import UserError
from seqsweep.sweep.storage.study_folder import RAY_FOLDER
from seqsweep.sweep.study.study import Study

Trainable = Callable[[dict[str, Any]], None]

TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the study has all that they would write
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver's own handlers call Study.stop
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # concurrency is counted here, not there
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # snapshots are for Tuner.restore, which is not used
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",  # so long a worker that hangs while it stops keeps its device
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
# Read in the worker when it is reset. After 2 s, the default, Tune gives up on a thread that still winds up.
WORKER_ENVIRONMENT = {"TUNE_FUNCTION_THREAD_TIMEOUT_S": "60"}


def run_trials(
    study: Study,
    trainable: Trainable,
    *,
    resources: dict[str, float],
    concurrency: Callable[[], int],
    folder: Path,
    on_step: Callable[[], None],
) -> None:
    """Run trials until the study has no more or is stopped; what runs then stays RUNNING in its journal.

    `trainable(config)` finds the fields of a TrialRequest in `config["request"]`, calls `ray.tune.report`
    after each epoch that it validates, and raises to fail. `concurrency` is asked before each start,
    `on_step` called ten times a second or more.
    """
    if ray.util.client.ray.is_connected():  # type: ignore[no-untyped-call]
        raise UserError(
            "a study can't be run through a ray:// address, which would ship the driver's side away. "
            "Start on a node of the cluster with --address auto, or submit a job"
        )
    ray_folder = folder.absolute() / RAY_FOLDER
    try:
        while study.has_more:
            experiment = Experiment(study, concurrency, on_step)
            _run_experiment(experiment, trainable, resources, ray_folder)
            if experiment.num_suggested == 0 and study.has_more:
                raise nothing_started(study)
    finally:
        for trial_number in study.live:
            study.release(trial_number)
        shutil.rmtree(ray_folder, ignore_errors=True)


def _run_experiment(
    experiment: Experiment, trainable: Trainable, resources: dict[str, float], ray_folder: Path
) -> None:
    with _tune_settings():
        tuner = tune.Tuner(
            tune.with_resources(_in_worker(trainable), tune.PlacementGroupFactory([resources])),
            tune_config=tune.TuneConfig(
                search_alg=StudySearcher(experiment),
                scheduler=StudyScheduler(experiment),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=uuid4().hex,
                storage_path=str(ray_folder),
                failure_config=tune.FailureConfig(max_failures=0),
                callbacks=[StudyCallback(experiment)],
                stop=StudyStopper(experiment),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except TuneError:
            if experiment.error is None:
                raise
    if experiment.error is not None:
        raise experiment.error


def _in_worker(trainable: Trainable) -> Trainable:
    environment = WORKER_ENVIRONMENT

    def run(config: dict[str, Any]) -> None:
        os.environ.update(environment)
        trainable(config)

    return run


def _trial_name(trial: Trial) -> str:
    request = trial.config["request"]
    return f"{request['trial_number']}-{request['attempt']}"


@contextmanager
def _tune_settings() -> Iterator[None]:
    """Tune reads them from the environment when a fit begins. Its log is silenced: the driver reports."""
    logger = logging.getLogger("ray.tune")
    level = logger.level
    before = {name: os.environ.get(name) for name in TUNE_ENVIRONMENT}
    os.environ.update(TUNE_ENVIRONMENT)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
