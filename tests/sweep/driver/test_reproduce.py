"""A trial trained again comes out as it was recorded; what differs is told."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.preparing.prepare import prepare
from seqsweep.data_pipeline.store import open_log
from seqsweep.results.schema import Hparam
from seqsweep.sweep.cluster import trial
from seqsweep.sweep.cluster.trial import TrialContext, run_trial
from seqsweep.sweep.driver import reproduce as module
from seqsweep.sweep.driver.reproduce import ROUNDING, ReproduceError, Reproduction, Row, reproduce
from seqsweep.sweep.engine import training
from seqsweep.sweep.engine.opened_log import open_data
from seqsweep.sweep.environment import environment
from seqsweep.sweep.errors import ConfigError, StudyError
from seqsweep.sweep.settings.search import SearchConfig
from seqsweep.sweep.settings.study_config import StudyConfig
from seqsweep.sweep.storage.trial_files import checkpoint_path
from seqsweep.sweep.study.study import Study
from seqsweep.sweep.study.trial_records import epoch_attribute
from seqsweep.sweep.study.trial_request import TrialRequest

HPARAMS: dict[str, Hparam] = {
    "model": "sasrec", "hidden_dim": 16, "num_blocks": 1, "max_len": 8, "dropout": 0.2,
    "lr": 0.03, "batch_size": 16, "lr_schedule": "cosine",
}  # fmt: skip
MAX_EPOCHS = 5


class Stopped(Exception):
    """The driver ends the trial."""


def space(trial: optuna.Trial) -> dict[str, Hparam]:
    return HPARAMS


def write_log(path: Path, num_users: int = 60) -> None:
    generator = np.random.default_rng(0)
    lines = []
    for user in range(num_users):
        start, length = generator.integers(20), generator.integers(4, 12)
        item = (start + np.arange(length) + generator.integers(0, 4, length)) % 20
        lines += [f"{user} {item[step]} {1000 * user + step}" for step in range(length)]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    write_log(tmp_path / "log.txt")
    return StudyConfig(
        name="small",
        seed=3,
        runs=tmp_path / "runs",
        cache=tmp_path / "cache",
        data=DataConfig(path=str(tmp_path / "log.txt")),
        search=SearchConfig(trials=2, max_epochs=MAX_EPOCHS, grace_epochs=1),  # of two trials none is pruned
    )


@pytest.fixture
def study(config: StudyConfig) -> Iterator[Study]:
    """Begun as `sweep/driver/run_study.py` begins one."""
    log = open_log(prepare(config.data, config.cache))
    study = Study.open(
        config.folder,
        name=config.name,
        seed=config.seed,
        search=config.search,
        space=space,
        attributes={"fingerprint": log.manifest.fingerprint},
    )
    (config.folder / "study.toml").write_text(config.to_toml())
    with study:
        yield study


@pytest.fixture
def context(config: StudyConfig, study: Study, monkeypatch: pytest.MonkeyPatch) -> TrialContext:
    """A worker's, in this process: its log is open already, so that Ray's store is not asked for it."""
    log = open_log(prepare(config.data, config.cache))
    key = (log.manifest.fingerprint, config.protocol.model_dump_json(), "cpu")
    data = open_data(log, config.protocol, torch.device("cpu"))
    monkeypatch.setattr(trial, "_opened", {key: data})
    return TrialContext(
        folder=config.folder,
        manifest=log.manifest,
        shards=(),
        protocol=config.protocol,
        budget=config.training,
        max_epochs=MAX_EPOCHS,
        num_threads=1,
        num_gpus=0,
    )


@pytest.fixture
def run(context: TrialContext, study: Study, monkeypatch: pytest.MonkeyPatch) -> "Run":
    return Run(context, study, monkeypatch)


class Run:
    """Trains one request as a worker does, and records what it reports."""

    def __init__(self, context: TrialContext, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
        self.context, self.study, self._monkeypatch = context, study, monkeypatch

    def __call__(self, request: TrialRequest | None, num_epochs: int = MAX_EPOCHS) -> int:
        assert request is not None

        def report(values: Mapping[str, Any]) -> None:
            self.study.report(request.trial_number, values)
            if values["epoch"] == num_epochs:
                raise Stopped

        self._monkeypatch.setattr("seqsweep.sweep.cluster.trial.tune.report", report)
        with suppress(Stopped):
            run_trial({"request": vars(request)}, context=self.context)
        return request.trial_number


def silent(text: str) -> None:
    pass


def test_a_complete_trial_is_equal_to_the_bit(run: Run, study: Study, config: StudyConfig) -> None:
    number = run(study.ask())
    study.complete(number)
    before = sorted(config.folder.rglob("*"))
    said: list[str] = []
    outcome = reproduce(config.folder, number, said.append)
    assert (outcome.is_equal, outcome.is_reproduced, outcome.largest_difference) == (True, True, 0.0)
    assert outcome.changes == ()
    assert [row.epoch for row in outcome.rows] == [1, 2, 3, 4, 5]
    assert [row.loss for row in outcome.rows] == [record.loss for record in study.epochs_of(number)]
    assert len({row.loss for row in outcome.rows}) == 5
    assert len(said) == 7 and said[-1] == "trial 0: 5 epochs, equal to the bit"
    assert sorted(config.folder.rglob("*")) == before


def test_a_trial_that_was_validated_at_some_epochs(
    run: Run, study: Study, config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def every_second(epoch: int, schedule: str, *, rungs: Any, last_epoch: int) -> int:
        asked.append((schedule, rungs))
        return min(epoch + 2, last_epoch)

    monkeypatch.setattr(training, "next_evaluation", every_second)
    number = run(study.ask(), num_epochs=2)
    study.release(number)
    run(study.ask())  # goes on from its checkpoint
    study.complete(number)
    assert [record.epoch for record in study.epochs_of(number)] == [2, 4, 5]
    assert study.record(number).epochs == 5
    asked.clear()
    outcome = reproduce(config.folder, number, silent)
    assert outcome.is_equal and [row.epoch for row in outcome.rows] == [2, 4, 5]
    assert asked == [("sparse", (1, 3))] * 3


def test_only_the_trials_own_seed_gives_its_values(run: Run, study: Study, config: StudyConfig) -> None:
    first, second = run(study.ask()), run(study.ask())
    assert study.epochs_of(first)[0].loss != study.epochs_of(second)[0].loss
    assert reproduce(config.folder, second, silent).is_equal


def test_a_pruned_trial_without_its_checkpoint(run: Run, study: Study, config: StudyConfig) -> None:
    number = run(study.ask(), num_epochs=2)
    study.pruned(number, "stopped_by_user")
    checkpoint_path(config.folder, number).unlink()
    outcome = reproduce(config.folder, number, silent)
    assert outcome.is_equal and len(outcome.rows) == 2


def test_micro_batches_begin_where_they_began(run: Run, study: Study, config: StudyConfig) -> None:
    number = run(study.ask(), num_epochs=2)
    study.out_of_memory(number, "out of memory", "")
    run(study.ask())
    assert study.trial(number).user_attrs["micro_batch_size"] == 8
    outcome = reproduce(config.folder, number, silent)
    assert outcome.is_equal and len(outcome.rows) == 5


def test_micro_batches_from_the_first_epoch_would_differ(
    run: Run, study: Study, config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = run(study.ask(), num_epochs=2)
    study.out_of_memory(number, "out of memory", "")
    run(study.ask())
    monkeypatch.setattr(module, "_num_epochs_before", lambda *_: 0)
    assert (
        reproduce(config.folder, number, silent).largest_difference > ROUNDING
    )  # so the test above can tell


def test_a_record_that_was_tampered_with_is_noticed(run: Run, study: Study, config: StudyConfig) -> None:
    number = run(study.ask())
    tampered = dict(study.trial(number).user_attrs[epoch_attribute(4)])
    tampered["objective"] += 0.01
    study._study._storage.set_trial_user_attr(study.trial(number)._trial_id, epoch_attribute(4), tampered)
    said: list[str] = []
    outcome = reproduce(config.folder, number, said.append)
    assert not outcome.is_equal and not outcome.is_reproduced
    assert outcome.largest_difference == pytest.approx(0.01)
    assert [row.epoch for row in outcome.rows if row.objective_difference] == [4]
    assert said[-1] == (
        "trial 0: 5 epochs, largest difference 0.01, though nothing is known to be other than recorded"
    )


def test_a_changed_log_is_refused_before_it_is_prepared(run: Run, study: Study, config: StudyConfig) -> None:
    number = run(study.ask(), num_epochs=1)
    write_log(Path(config.data.path), num_users=61)
    prepared = sorted(config.cache.iterdir())
    with pytest.raises(ReproduceError, match=r"is not the log that trial 0 was trained on"):
        reproduce(config.folder, number, silent)
    assert sorted(config.cache.iterdir()) == prepared


def test_what_can_not_be_trained_again(run: Run, study: Study, config: StudyConfig) -> None:
    run(study.ask(), num_epochs=1)
    with pytest.raises(StudyError, match=r"trials 0 to 0, got 7"):
        reproduce(config.folder, 7, silent)
    request = study.ask()
    assert request is not None
    study.failed(request.trial_number, "error", "no such thing", "")
    with pytest.raises(ReproduceError, match=r"trial 1 \(failed\) has no recorded epoch"):
        reproduce(config.folder, 1, silent)


def test_hparams_that_are_not_known_any_more(run: Run, study: Study, config: StudyConfig) -> None:
    number = run(study.ask(), num_epochs=1)
    study._study._storage.set_trial_user_attr(
        study.trial(number)._trial_id, "hparams", {**HPARAMS, "gone": 1}
    )
    with pytest.raises(ConfigError, match=r"hparam 'gone'"):
        reproduce(config.folder, number, silent)


def test_training_that_ends_earlier_now(
    run: Run, study: Study, config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = run(study.ask())
    patient = config.training.model_copy(update={"patience": 1})
    (config.folder / "study.toml").write_text(config.model_copy(update={"training": patient}).to_toml())
    monkeypatch.setattr(training, "compute_metrics", lambda ranks: {config.training.objective: 0.0})
    said: list[str] = []
    outcome = reproduce(config.folder, number, said.append)
    assert [row.epoch for row in outcome.rows] == [1, 2]  # the second is no better than the first
    assert not outcome.is_equal and not outcome.is_reproduced
    assert said[-1] == "trial 0: training ends after 2 of 5 recorded epochs"


def test_training_that_diverges_now(
    run: Run, study: Study, config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = run(study.ask())

    def diverge(*_: object, **__: object) -> None:
        raise FloatingPointError("the loss is nan at epoch 1")

    monkeypatch.setattr(training._Training, "epoch", diverge)
    with pytest.raises(ReproduceError, match=r"trial 0 has 5 recorded epochs, but now: the loss is nan"):
        reproduce(config.folder, number, silent)


def test_each_epoch_has_its_threads_and_the_process_keeps_its_own(
    run: Run, study: Study, config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = run(study.ask(), num_epochs=4)
    study.release(number)
    run.context = replace(run.context, num_threads=2)  # another machine goes on with it
    run(study.ask())
    torch.set_num_threads(1)
    used: list[int] = []
    train_epoch = training._Training.epoch

    def noted(*arguments: Any) -> tuple[float, float]:
        used.append(torch.get_num_threads())
        return train_epoch(*arguments)

    monkeypatch.setattr(training._Training, "epoch", noted)
    assert reproduce(config.folder, number, silent).is_equal
    assert used == [1, 1, 1, 1, 2]
    assert torch.get_num_threads() == 1


def test_what_changed_since_is_told(run: Run, study: Study, config: StudyConfig) -> None:
    facts = environment()
    other = {**facts, "versions": {**facts["versions"], "torch": "0.1"}, "cpus": -1}
    study.record_environment(other)
    first = run(study.ask(), num_epochs=1)
    study.record_environment(facts)
    second = run(study.ask(), num_epochs=1)
    torch_now = facts["versions"]["torch"]
    assert set(reproduce(config.folder, first, silent).changes) >= {
        f"torch 0.1, now {torch_now}",
        f"cpus -1, now {facts['cpus']}",
    }
    changes = reproduce(config.folder, second, silent).changes
    assert all("uncommitted" in change for change in changes)


def test_the_studys_file_tells_of_trials_that_kept_no_environment(
    run: Run, study: Study, config: StudyConfig
) -> None:
    number = run(study.ask(), num_epochs=1)
    facts = {**environment(), "commit": "0" * 40, "search": {}}
    (config.folder / "environment.json").write_text(json.dumps(facts))
    changes = reproduce(config.folder, number, silent).changes
    assert any(change.startswith("commit 000") for change in changes)


def test_a_trial_of_a_gpu_and_of_another_machine(
    run: Run, study: Study, config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "device_name", lambda device, num_workers: "NVIDIA H100")
    number = run(study.ask(), num_epochs=1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("seqsweep.sweep.driver.reproduce.platform.node", lambda: "here")
    outcome = reproduce(config.folder, number, silent)
    there = study.record(number).node
    assert set(outcome.changes) >= {"device NVIDIA H100, now a CPU", f"machine {there}, now here"}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("difference", "changes", "is_reproduced"),
    [
        (0.0, (), True),
        (0.0, ("torch 1, now 2",), True),
        (ROUNDING / 2, (), False),
        (ROUNDING / 2, ("torch 1, now 2",), True),
        (ROUNDING * 2, ("torch 1, now 2",), False),
    ],
)
def test_where_nothing_changed_a_single_bit_counts(
    difference: float, changes: tuple[str, ...], is_reproduced: bool, sign: int
) -> None:
    by_objective, by_loss = Row(2, 0, sign * difference, 2, 2), Row(2, 0.5, 0.5, 0, sign * difference)
    for row in (by_objective, by_loss):
        outcome = Reproduction(0, (Row(1, 0.1, 0.1, 3, 3), row), num_recorded=2, changes=changes)
        assert outcome.is_reproduced == is_reproduced
        assert outcome.is_equal == (difference == 0)
        assert outcome.largest_difference == difference
