"""A trial on several workers: Ray Train starts them, and here their reports find the way to Tune.

Within Tune's function runs a TorchTrainer. The first worker hands each report over and all wait for what Tune
says to it, as a trial of one worker does: so the checkpoint is never ahead of what the study knows.
(TuneReportCallback, Ray Train's own way, lets the workers run ahead, and reads a report every two seconds.)
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import ray
import ray.train
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from seqsweep.sweep.cluster.failures import lost_its_node
from seqsweep.sweep.cluster.mailbox import Mailbox, Report
from seqsweep.sweep.cluster.trial import TrialContext, train_request
from seqsweep.sweep.engine.workers import Workers
from seqsweep.sweep.storage.bucket import BucketPath, StudyPath
from seqsweep.sweep.storage.study_folder import RAY_FOLDER

SECONDS_BETWEEN_CHECKS = 0.5  # of the workers' health; so long a failure, or the end, takes to be seen
SECONDS_TO_END = 30.0
SECONDS_TO_END_IN_ORDER = 5.0  # after an attempt ended
MOST_ATTEMPTS = 1000

# Read by Ray Train in this process, which passes them on.
TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(SECONDS_BETWEEN_CHECKS),
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less; a lost node says so itself
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # The process groups of workers that wait for one that failed can't be taken down: they are ended anyway.
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "2",
}


class Stopped(Exception):
    """Tune wants no more of this trial."""


def run_trial_on_workers(
    config: dict[str, Any], *, context: TrialContext, work: Callable[[dict[str, Any]], None] | None = None
) -> None:
    """`run_trial` with `context.num_workers`, each of which does `work`. The same failures come out."""
    os.environ.update(TRAIN_ENVIRONMENT)
    request = config["request"]
    mailbox: ActorHandle[Any] = ray.remote(num_cpus=0)(Mailbox).remote()  # type: ignore[assignment]
    run_name = f"{request['trial_number']}-{request['attempt']}-workers"
    trainer = TorchTrainer(
        work or work_on_trial,
        train_loop_config={"request": request, "context": context, "mailbox": mailbox},
        # NCCL refuses two workers on one GPU; Gloo takes the way over the CPU.
        torch_config=TorchConfig(backend="nccl" if context.num_gpus >= 1 else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=context.num_workers,
            use_gpu=context.num_gpus > 0,
            resources_per_worker={
                **context.resources_per_worker,
                "memory": mark(request["trial_number"], request["attempt"]),
            },
        ),
        run_config=ray.train.RunConfig(
            name=run_name,
            **_storage(context.folder),
            # The study decides what is tried again. Left out, a preempted worker would be, without it.
            # (The type checker sees the class of Train's first version.)
            failure_config=ray.train.FailureConfig(max_failures=0, max_preemption_failures=0),  # type: ignore[call-arg]
        ),
    )
    fit = _Fit(trainer)
    try:
        _pass_on_reports(mailbox, fit)
    except SystemExit:  # so Tune ends a function at its report
        mailbox.answer.remote(False)
        raise
    finally:
        fit.join(SECONDS_TO_END)
    if fit.error is not None:
        raise first_cause(fit.error) from fit.error


def _storage(folder: StudyPath) -> dict[str, Any]:
    """Of Ray Train's own files, which all workers must reach."""
    if isinstance(folder, BucketPath):
        place = folder / RAY_FOLDER
        return {"storage_path": place.in_filesystem, "storage_filesystem": place.filesystem}
    return {"storage_path": str(folder.absolute() / RAY_FOLDER)}


def mark(trial_number: int, attempt: int) -> float:
    """So many bytes each worker takes beside the rest: by them its placement group is found again."""
    return float(trial_number * MOST_ATTEMPTS + attempt + 1)


class OrphanedPlacementGroups:
    """Gives back what the workers of ended attempts held.

    Where the process that made a placement group was killed, as that of a trial that hangs is, Ray keeps the
    group until the job ends. Ray Train's own cleaner asks the dashboard, which need not be there.
    """

    def __init__(self) -> None:
        self._seen_at: dict[str, float] = {}
        self._checked_at = -SECONDS_BETWEEN_CHECKS

    def step(self, attempts: Iterable[tuple[int, int]]) -> None:
        """`attempts`: those that run now, (trial, attempt). Called all the time."""
        now = time.monotonic()
        if now - self._checked_at < SECONDS_BETWEEN_CHECKS:
            return
        self._checked_at = now
        marks = {mark(*attempt) for attempt in attempts}
        left_over = {group for group, held in _groups_of_workers() if held not in marks}
        self._seen_at = {group: self._seen_at.get(group, now) for group in left_over}
        for group, seen_at in self._seen_at.items():
            if now - seen_at > SECONDS_TO_END_IN_ORDER:
                remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(group)))


def _groups_of_workers() -> Iterator[tuple[str, float]]:
    """Ids and marks of those that this driver's trials made. An id ends with that of its job."""
    job_id = ray.get_runtime_context().get_job_id()
    for group_id, group in placement_group_table().items():
        bundle = next(iter(group["bundles"].values()))
        if group["state"] != "REMOVED" and group_id.endswith(job_id) and {"CPU", "memory"} <= bundle.keys():
            yield group_id, bundle["memory"]


def _pass_on_reports(mailbox: ActorHandle[Any], fit: "_Fit") -> None:
    next_report: ray.ObjectRef[Report] = mailbox.next_report.remote()
    while fit.is_alive():
        if ray.wait([next_report], timeout=SECONDS_BETWEEN_CHECKS)[0]:
            tune.report(ray.get(next_report))
            mailbox.answer.remote(True)
            next_report = mailbox.next_report.remote()


class _Fit(threading.Thread):
    """`trainer.fit()` beside the thread that reports: Tune takes reports from its own thread alone."""

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(name="fit", daemon=True)
        self.error: Exception | None = None
        self._trainer = trainer
        self.start()

    def run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:
            self.error = error


def work_on_trial(config: Mapping[str, Any]) -> None:
    """What each worker does; Ray Train has set up its process group and its GPU."""
    rank, mailbox = ray.train.get_context().get_world_rank(), config["mailbox"]
    context: TrialContext = config["context"]
    workers = Workers(rank, context.num_workers)

    def report(report: Report) -> None:
        stops = rank == 0 and not ray.get(mailbox.report.remote(report))
        if workers.any_of(stops):
            raise Stopped

    with suppress(Stopped):
        train_request(config["request"], context, report, workers)


def first_cause(error: BaseException) -> BaseException:
    """Of what Ray Train raises, the exception that a worker did.

    Where one process ended, others fail with it, as they can't reach it any more: then that is the cause. A
    worker that raised stays there until all are ended, so that the others only wait for it.
    """
    if isinstance(error, WorkerGroupError):
        causes = [first_cause(failure) for _, failure in sorted(error.worker_failures.items())]
        died = [cause for cause in causes if isinstance(cause, RayActorError)]
        return next((cause for cause in died if lost_its_node(cause)), (died or causes)[0])
    if isinstance(error, ControllerError):
        return first_cause(error.controller_failure)
    if isinstance(error, RayTaskError):
        return first_cause(error.cause)
    # Of a class that is not public, around the error of a process that does not answer.
    inner = getattr(error, "health_check_failure", None)
    return error if inner is None else first_cause(inner)
