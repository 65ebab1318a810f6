"""The search itself: a log shared with all workers, Tune, and what is written while it runs."""

import functools
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from seqsweep.data_pipeline.store import SequenceLog
from seqsweep.models import MODELS
from seqsweep.sweep.cluster.connect import Resources, concurrency, connect
from seqsweep.sweep.cluster.nodes import NodeWatch, check_room
from seqsweep.sweep.cluster.several_workers import OrphanedPlacementGroups, run_trial_on_workers
from seqsweep.sweep.cluster.trial import TrialContext, run_trial
from seqsweep.sweep.cluster.tune_run import run_trials
from seqsweep.sweep.driver.budget import Budget
from seqsweep.sweep.driver.session import Session
from seqsweep.sweep.driver.tensorboard import TensorBoardWriter
from seqsweep.sweep.driver.view import View
from seqsweep.sweep.settings.search import SearchConfig
from seqsweep.sweep.settings.study_config import StudyConfig
from seqsweep.sweep.storage.bucket import BucketPath
from seqsweep.sweep.storage.study_folder import RAY_FOLDER
from seqsweep.sweep.study.commands import Inbox
from seqsweep.sweep.study.optuna_study import rungs_of
from seqsweep.sweep.study.study import Study
from seqsweep.sweep.study.trial_request import LiveTrial


def search(session: Session) -> None:
    config, study, view, log = session.config, session.study, session.view, session.data.log
    with (
        event_files(config, study),
        connect(config.hardware, view.say, study=config.name) as resources,
        NodeWatch(config.trial_files) as nodes,
        stop_on_signals(study, view),
    ):
        view.say(
            f"{concurrency(resources, config.hardware.max_concurrent)} trials at a time, each on "
            + (f"{resources.num_workers} workers of " if resources.num_workers > 1 else "")
            + f"{resources.cpus:g} CPUs and {resources.gpus:g} GPUs"
        )
        warning = check_room(sum(shard.nbytes for shard in log.shards))
        if warning is not None:
            view.say(warning)
        context = share_log(config, study.search, log, resources)
        inbox, budget = Inbox(config.folder), Budget(config.budget, config.folder)
        orphans = OrphanedPlacementGroups()

        def step() -> None:
            inbox.step(study)
            budget.step(study)
            problem = nodes.step()
            if problem is not None:
                study.stop(problem)
            if context.num_workers > 1:
                orphans.step((live.number, live.attempt) for live in study.live_trials())
            session.mirror.step(study)  # first: what another driver may need is not removed
            if study.stopped_because is None:
                session.publisher.step()
            view.step(study)

        run_trials(
            study,
            functools.partial(
                run_trial if context.num_workers == 1 else run_trial_on_workers, context=context
            ),
            resources=resources.as_dict(),
            concurrency=lambda: concurrency(resources, config.hardware.max_concurrent),
            folder=config.folder,
            on_step=step,
        )
        if isinstance(context.folder, BucketPath):
            (context.folder / RAY_FOLDER).remove_all()


@contextmanager
def event_files(config: StudyConfig, study: Study) -> Iterator[None]:
    """Where it is asked for, each epoch goes to TensorBoard's files too."""
    if not config.tensorboard:
        yield
        return
    writer = TensorBoardWriter(config.folder)

    def write(live: LiveTrial, report: Mapping[str, Any]) -> None:
        writer.write(live.number, live.hparams, report)
        if report.get("last"):
            writer.end(live.number)

    study.on_report = write
    try:
        yield
    finally:
        study.on_report = None
        writer.close()


def share_log(
    config: StudyConfig, search: SearchConfig, log: SequenceLog, resources: Resources
) -> TrialContext:
    """Put each shard into the object store once; trials get references and map what they point to."""
    return TrialContext(
        folder=config.trial_files,
        manifest=log.manifest,
        shards=tuple(ray.put(shard) for shard in log.shards),
        protocol=config.protocol,
        budget=config.training,
        max_epochs=search.max_epochs,
        num_threads=max(1, int(resources.cpus)),
        num_gpus=resources.gpus,
        rungs={name: rungs_of(search, name) for name in MODELS},
        num_workers=resources.num_workers,
        num_cpus=resources.cpus,
    )


@contextmanager
def stop_on_signals(study: Study, view: View) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the search in order, running trials resumable; a second Ctrl-C ends it at once.

    Entered after `ray.init`, which installs a SIGTERM handler of its own.
    """

    def stop(number: int, _frame: object) -> None:
        if study.stopped_because is not None:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        view.say(f"{name}: stopping; trials that run go on from their last epoch next time")
        study.stop(name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
