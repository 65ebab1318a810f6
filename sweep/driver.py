"""run_study(): the whole system in one readable function."""

import dataclasses
import functools
import json
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
import torch

from data_pipeline.prepare import prepare
from data_pipeline.store import SequenceLog, open_log, read_item_ids
from models import MODELS
from results.export import export_best, model_card
from results.leaderboard import StudyFacts
from results.metrics import compute_metrics
from results.schema import TrialRecord
from search_spaces import GRACE_FACTORS, KNOWN_GOOD, SEARCH_SPACES, Hparam
from search_spaces.compose import Space, compose, draws, points_to_enqueue
from sweep.baselines import ceiling_records, score_baselines
from sweep.checkpoint import checkpoint_path, load_checkpoint
from sweep.cluster import Resources, concurrency, connect
from sweep.config import ALL, StudyConfig
from sweep.errors import ConfigError
from sweep.evaluation import ModelScorer, Ranker
from sweep.hparams import pins_by_family, typed_configs
from sweep.publish import Publisher, environment, versions, write_text
from sweep.search import suggest_grace
from sweep.study import Study
from sweep.trial import TrialContext, TrialData, open_data, run_trial
from sweep.tuner import run_trials

# What a study is about, and what may therefore not change between two runs of it.
IDENTITY = ("seed", "data", "protocol", "space", "training")

NUM_DRAWS = 64  # of a space, to see whether what is pinned goes with the rest


class View(Protocol):
    """Where the driver says what it does."""

    def say(self, text: str) -> None: ...

    def step(self, study: Study) -> None: ...


@dataclass(frozen=True)
class Outcome:
    folder: Path
    stopped_because: str | None
    best: TrialRecord | None


def run_study(config: StudyConfig, view: View) -> Outcome:
    """Start the study, or go on with it; what is finished already is not done again."""
    prepared = prepare(config.data, config.cache.absolute(), view.say)
    log = open_log(prepared)
    with open_study(config, log, view) as study:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        data = open_data(log, config.protocol, device)
        facts = study_facts(config, log)
        publisher = Publisher(study, config.folder, facts, reference_rows(config, study, data, view))
        publisher.write()
        if study.has_more:
            search(config, study, log, publisher, view)
        publisher.write()
        if study.stopped_because is not None or study.has_more:
            return Outcome(config.folder, study.stopped_because, study.best())
        best = study.best()
        if best is not None:
            view.say(f"test metrics and export of trial {best.trial}")
            best = export_winner(config, best, data, prepared, facts)
            publisher.write(best)
        return Outcome(config.folder, None, best)


def open_study(config: StudyConfig, log: SequenceLog, view: View) -> Study:
    """The study of this configuration, under its lock. ConfigError if it began with another."""
    fix = pins_by_family(families(config, log, view), config.space.fix)
    space = compose({name: SEARCH_SPACES[name] for name in fix}, fix)
    check_pins(space, config.space.fix)
    grace_epochs = config.search.grace_epochs or suggest_grace(log.num_users, config.search.max_epochs)
    search = config.search.model_copy(
        update={
            "grace_epochs": grace_epochs,
            "grace_factors": {**GRACE_FACTORS, **config.search.grace_factors},
        }
    )
    study = Study.open(
        config.folder,
        name=config.name,
        seed=config.seed,
        search=search,
        space=space,
        enqueue=points_to_enqueue(KNOWN_GOOD, fix, num_users=log.num_users, num_items=log.num_items)[
            : search.trials
        ],
        attributes={
            "fingerprint": log.manifest.fingerprint,
            "identity": config.model_dump(mode="json", include=set(IDENTITY)),
        },
    )
    try:
        check_same_study(config, study, log)
        write_text(config.folder / "study.toml", config.to_toml())
        write_text(
            config.folder / "environment.json",
            environment(fingerprint=log.manifest.fingerprint, search=search.model_dump()),
        )
    except BaseException:
        study.close()
        raise
    return study


def families(config: StudyConfig, log: SequenceLog, view: View) -> list[str]:
    """The models to search. Those that use time need a log that has it."""
    names = config.space.names()
    if log.has_timestamps:
        return names
    timeless = [name for name in names if not MODELS[name].uses_time]
    left_out = ", ".join(name for name in names if name not in timeless)
    if left_out and config.space.models != (ALL,):
        raise ConfigError(
            f"{config.data.path} has no timestamps, which {left_out} needs: leave it out of --models, or "
            "give a log with a column of times"
        )
    if left_out:
        view.say(f"without timestamps in the log {left_out} is left out")
    return timeless


def check_pins(space: Space, fix: Mapping[str, Hparam]) -> None:
    """Pinned hparams that do not go with what the space draws would fail trials one by one: say so first."""
    if not fix:
        return
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
    now = config.model_dump(mode="json", include=set(IDENTITY))
    before["data"].pop("path"), now["data"].pop("path")  # the same bytes elsewhere are the same log
    for section in IDENTITY:
        if before[section] != now[section]:
            raise ConfigError(
                f"study {config.name!r} was begun with {section} = {json.dumps(before[section])}, "
                f"got {json.dumps(now[section])}: give it another --name, or go on with the old settings "
                f"({config.folder / 'study.toml'})"
            )
    if study.attributes["fingerprint"] != log.manifest.fingerprint:
        raise ConfigError(
            f"study {config.name!r} was begun on another log than {config.data.path} holds now "
            f"(fingerprint {study.attributes['fingerprint'][:12]}, got {log.manifest.fingerprint[:12]}): "
            "give it another --name"
        )


def study_facts(config: StudyConfig, log: SequenceLog) -> StudyFacts:
    seen = "removed" if config.protocol.removes_seen(log) else "kept"
    return StudyFacts(
        study=config.name,
        fingerprint=log.manifest.fingerprint,
        objective=f"valid.{config.training.objective}",
        protocol=f"{config.protocol.split}, ranking={config.protocol.ranking}, seen items {seen}",
        versions=versions(),
    )


def reference_rows(config: StudyConfig, study: Study, data: TrialData, view: View) -> list[TrialRecord]:
    """Baselines and ceilings; scored once, then kept with the study."""
    if "baselines" not in study.attributes:
        view.say("scoring the baselines")
        scored = score_baselines(data, config.protocol, config.training.objective)
        study.set_attribute("baselines", [asdict(record) for record in scored])
    baselines = [TrialRecord(**row) for row in study.attributes["baselines"]]
    return baselines + ceiling_records(data.log.manifest, config.training.objective)


def search(config: StudyConfig, study: Study, log: SequenceLog, publisher: Publisher, view: View) -> None:
    with connect(config.hardware) as resources, stop_on_signals(study, view):
        view.say(
            f"{concurrency(resources, config.hardware.max_concurrent)} trials at a time, each on "
            f"{resources.cpus:g} CPUs and {resources.gpus:g} GPUs"
        )
        context = place(config, log, resources)

        def step() -> None:
            publisher.step()
            view.step(study)

        run_trials(
            study,
            functools.partial(run_trial, context=context),
            resources=resources.as_dict(),
            concurrency=lambda: concurrency(resources, config.hardware.max_concurrent),
            folder=config.folder,
            on_step=step,
        )


def place(config: StudyConfig, log: SequenceLog, resources: Resources) -> TrialContext:
    """Put each shard into the object store once; trials get references and map what they point to."""
    return TrialContext(
        folder=config.folder,
        manifest=log.manifest,
        shards=tuple(ray.put(shard) for shard in log.shards),
        protocol=config.protocol,
        budget=config.training,
        max_epochs=config.search.max_epochs,
        num_threads=max(1, int(resources.cpus)),
        num_gpus=resources.gpus,
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


def export_winner(
    config: StudyConfig, best: TrialRecord, data: TrialData, prepared: Path, facts: StudyFacts
) -> TrialRecord:
    """Write `best/`, and give the winner's row with the test metrics, which are computed here alone."""
    assert best.trial is not None
    device = data.sequences.device
    checkpoint = load_checkpoint(checkpoint_path(config.folder, best.trial), device)
    model_class, model_config, _ = typed_configs(best.hparams)
    model = model_class(model_config, data.log.num_items).to(device).eval()
    model.load_state_dict(checkpoint["state"]["best_weights"])
    ranker = Ranker(data.log, data.sequences, data.split.test, config.protocol, "test")
    autocast = config.training.autocast and device.type == "cuda"
    test = compute_metrics(ranker.rank(ModelScorer(model, autocast=autocast)))
    winner = dataclasses.replace(best, test=test)
    manifest = data.log.manifest
    export_best(
        config.folder,
        weights={name: tensor.cpu().numpy() for name, tensor in model.state_dict().items()},
        config={
            "model": best.model,
            "hparams": dict(best.hparams),
            "config": model_config.model_dump(),
            "num_items": manifest.num_items,
            "fingerprint": manifest.fingerprint,
            "trial": best.trial,
            "epoch": best.best_epoch,
        },
        item_ids=read_item_ids(prepared),
        metrics={
            "objective": facts.objective,
            "protocol": facts.protocol,
            "num_test_users": len(ranker.user_id_U),
            "valid": dict(winner.valid),
            "test": test,
        },
        card=model_card(
            winner,
            facts,
            {
                "log": manifest.name,
                "users": manifest.num_users,
                "items": manifest.num_items,
                "interactions": manifest.num_interactions,
            },
        ),
    )
    return winner
