"""run_study(): the whole system in one readable function."""

import functools
import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from seqsweep.data_pipeline.prepare import prepare
from seqsweep.data_pipeline.split import Split, count_cold_targets
from seqsweep.data_pipeline.store import SequenceLog, open_log
from seqsweep.models import MODELS
from seqsweep.results.leaderboard import StudyFacts
from seqsweep.results.schema import TrialRecord
from seqsweep.search_spaces import GRACE_FACTORS, Hparam
from seqsweep.search_spaces.compose import Space, draws
from seqsweep.sweep.baselines import ceiling_records, score_baselines
from seqsweep.sweep.budget import Budget
from seqsweep.sweep.cluster import Resources, concurrency, connect
from seqsweep.sweep.commands import Inbox
from seqsweep.sweep.config import BEFORE_SCHEDULES, StudyConfig
from seqsweep.sweep.distributed import LeftOvers, run_trial_on_workers
from seqsweep.sweep.errors import ConfigError
from seqsweep.sweep.export import export_winner
from seqsweep.sweep.files import RAY_FOLDER, BucketPath
from seqsweep.sweep.finalists import winner
from seqsweep.sweep.hparams import typed_configs
from seqsweep.sweep.mirror import Mirror
from seqsweep.sweep.nodes import NodeWatch, check_room
from seqsweep.sweep.progress import View
from seqsweep.sweep.pruning import check_pruner
from seqsweep.sweep.publish import Publisher, environment, versions, write_text
from seqsweep.sweep.report import ReportWriter, data_facts
from seqsweep.sweep.requests import LiveTrial
from seqsweep.sweep.sampling import check_sampler
from seqsweep.sweep.search import SearchConfig, rungs_of, suggest_grace
from seqsweep.sweep.spaces import build_space, families, first_points, fitted_space, space_source
from seqsweep.sweep.study import Study
from seqsweep.sweep.tensorboard import TensorBoardWriter
from seqsweep.sweep.training import TrainBudget
from seqsweep.sweep.trial import TrialContext, TrialData, open_data, run_trial
from seqsweep.sweep.tuner import run_trials
from seqsweep.sweep.user_space import check_user_space

# What a study is about, and what may therefore not change between two runs of it.
IDENTITY = ("seed", "data", "protocol", "space", "training")

# Has the study's trials trained: as `search` does.
TrainTrials = Callable[[StudyConfig, Study, TrialData, Publisher, Mirror | None, View], None]

NUM_DRAWS = 64  # of a space, to see whether what is pinned goes with the rest


@dataclass(frozen=True)
class Outcome:
    folder: Path
    stopped_because: str | None
    best: TrialRecord | None
    exported: bool = False  # whether best/ is there


def run_study(
    config: StudyConfig, view: View, warm_start: Path | None = None, train_trials: "TrainTrials | None" = None
) -> Outcome:
    """Start the study, or go on with it; what is finished already is not done again.

    A new study tries the best hparams of the study in the folder `warm_start` first. `train_trials` stands
    for `search`, where it is given.
    """
    mirror = open_mirror(config, view)
    prepared = prepare(config.data, config.cache.absolute(), view.say)
    log = open_log(prepared)
    split = config.protocol.open_split(log, view.say)  # before there is a study: it may be refused
    with open_study(config, log, view, warm_start) as study:
        config = config.as_begun(study.attributes)
        tell_split(config, study, log, split, view)
        if "data" not in study.attributes:
            study.set_attribute("data", data_facts(log.manifest, prepared))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        data = open_data(log, config.protocol, device, split)
        facts = study_facts(config, log, split)
        rows = reference_rows(config, study, data, view)
        report = ReportWriter(study, config.folder, view.say)
        publisher = Publisher(study, config.folder, facts, rows, config.trial_files, report)
        publisher.write()
        if study.has_more:
            (train_trials or search)(config, study, data, publisher, mirror, view)
        if mirror is not None:
            mirror.copy()
        publisher.write()
        if mirror is not None:
            mirror.copy()
        if study.stopped_because is not None and not study.stopped_by_budget:
            return Outcome(config.folder, study.stopped_because, study.best())
        best = winner(study.records(), study.finalist_runs())
        if best is not None:
            view.say(f"test metrics and export of trial {best.trial}")
            best = export_winner(config, best, study, data, prepared, facts, publisher, rows)
            publisher.write(best)
            if mirror is not None:
                mirror.copy()
        return Outcome(config.folder, study.stopped_because, best, exported=best is not None)


def open_mirror(config: StudyConfig, view: View) -> Mirror | None:
    """With the study's journal fetched, if a driver elsewhere has left one."""
    if not isinstance(config.trial_files, BucketPath):
        return None
    mirror = Mirror(config.folder, config.trial_files, view.say)
    mirror.fetch()
    return mirror


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
            "identity": identity(config),
            "space": space_config.model_dump(mode="json"),
            "families": names,
        },
    )
    try:
        config = config.as_begun(study.attributes)
        check_same_study(config, study, log)
        write_text(config.folder / "study.toml", config.with_whole_paths().to_toml())
        facts = environment()
        study.record_environment(facts)
        facts |= {"fingerprint": log.manifest.fingerprint, "search": search.model_dump(mode="json")}
        write_text(config.folder / "environment.json", json.dumps(facts, indent=2) + "\n")
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


def identity(config: StudyConfig) -> dict[str, Any]:
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
    before: dict[str, Any] = study.attributes["identity"]
    before["training"] = {
        **TrainBudget().model_dump(mode="json"),  # settings there were none of when it was begun
        **BEFORE_SCHEDULES,
        **before["training"],
    }
    now = identity(config)
    before["data"].pop("path"), now["data"].pop("path")  # the same bytes elsewhere are the same log
    for section in now:
        if before.get(section) != now[section]:
            was, given = differing(before.get(section), now[section])
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


def differing(before: Any, now: Any) -> tuple[Any, Any]:
    """Of two sections the keys that differ, and of a pinned space those within it."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return before, now
    pairs = {
        key: differing(before.get(key), now.get(key))
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    }
    return {key: was for key, (was, _) in pairs.items()}, {key: given for key, (_, given) in pairs.items()}


def tell_split(config: StudyConfig, study: Study, log: SequenceLog, split: Split, view: View) -> None:
    """Who trains and who is evaluated; counted once, then kept with the study."""
    if "split" not in study.attributes:
        study.set_attribute("split", {**split.counts, **count_cold_targets(log, split)})
    counts: dict[str, int] = study.attributes["split"]
    told = [f"{number:,} {name.removeprefix('num_').replace('_', ' ')}" for name, number in counts.items()]
    view.say(f"{config.protocol.describe(log, split)}: {', '.join(told)}")


def study_facts(config: StudyConfig, log: SequenceLog, split: Split) -> StudyFacts:
    return StudyFacts(
        study=config.name,
        fingerprint=log.manifest.fingerprint,
        objective=f"valid.{config.training.objective}",
        protocol=config.protocol.describe(log, split),
        versions=versions(),
    )


def reference_rows(config: StudyConfig, study: Study, data: TrialData, view: View) -> list[TrialRecord]:
    """Baselines and ceilings; scored once, then kept with the study."""
    if "baselines" not in study.attributes:
        view.say("scoring the baselines")
        scored = score_baselines(data, config.protocol, config.training.objective)
        study.set_attribute("baselines", [asdict(record) for record in scored])
    baselines = [TrialRecord(**row) for row in study.attributes["baselines"]]
    return baselines + ceiling_records(data.log.manifest, config.protocol, config.training.objective)


def search(
    config: StudyConfig,
    study: Study,
    data: TrialData,
    publisher: Publisher,
    mirror: Mirror | None,
    view: View,
) -> None:
    log = data.log
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
        context = place(config, study.search, log, resources)
        inbox, budget, left_overs = Inbox(config.folder), Budget(config.budget, config.folder), LeftOvers()

        def step() -> None:
            inbox.step(study)
            budget.step(study)
            problem = nodes.step()
            if problem is not None:
                study.stop(problem)
            if context.num_workers > 1:
                left_overs.step((live.number, live.attempt) for live in study.live_trials())
            if mirror is not None:
                mirror.step(study)  # first: what another driver may need is not removed
            if study.stopped_because is None:
                publisher.step()
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


def place(config: StudyConfig, search: SearchConfig, log: SequenceLog, resources: Resources) -> TrialContext:
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
