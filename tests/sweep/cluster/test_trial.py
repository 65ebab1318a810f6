"""The border to Ray: shards come out of the object store as they lie there, reports go out once, failures are
told apart, and a finalist leaves its ranks."""

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import optuna
import pytest
import ray
import torch
from ray import tune
from torch import Tensor

from seqsweep.data_pipeline.history import History
from seqsweep.data_pipeline.store import SequenceLog
from seqsweep.models.sasrec import SASRec
from seqsweep.results.metrics import compute_metrics
from seqsweep.results.schema import Hparam
from seqsweep.sweep.cluster import trial
from seqsweep.sweep.cluster.failures import classify
from seqsweep.sweep.cluster.trial import TrialContext, run_trial
from seqsweep.sweep.cluster.tune_run import Trainable, run_trials
from seqsweep.sweep.engine.hparams import typed_configs
from seqsweep.sweep.engine.opened_log import open_data
from seqsweep.sweep.engine.ranking import ModelScorer, Ranker
from seqsweep.sweep.settings.budgets import FinalistConfig, TrainBudget
from seqsweep.sweep.settings.protocol import ProtocolConfig
from seqsweep.sweep.settings.search import SearchConfig
from seqsweep.sweep.storage.trial_files import (
    checkpoint_path,
    load_checkpoint,
    ranks_path,
    read_ranks,
    save_checkpoint,
)
from seqsweep.sweep.study.study import Study
from tests.logs import random_log

CPU = torch.device("cpu")
HPARAMS: dict[str, Hparam] = {
    "model": "sasrec", "hidden_dim": 16, "num_blocks": 1, "max_len": 8, "dropout": 0.0,
    "lr": 0.03, "batch_size": 8,
}  # fmt: skip
TOO_MUCH = 2**50  # bytes, more than a process can address
Report = dict[str, Any]

pytestmark = pytest.mark.usefixtures("ray_address")


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialContext:
    monkeypatch.setattr(trial, "_opened", {})
    log = random_log()
    return TrialContext(
        folder=tmp_path,
        manifest=log.manifest,
        shards=tuple(ray.put(shard) for shard in log.shards),
        protocol=ProtocolConfig(),
        budget=TrainBudget(),
        max_epochs=4,
        num_threads=1,
        num_gpus=0,
    )


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[Report]:
    """What trials report in this process, without a session of Tune's."""
    reported: list[Report] = []
    monkeypatch.setattr(tune, "report", reported.append)
    return reported


def attempt(context: TrialContext, **changes: Any) -> None:
    request = {"trial_number": 3, "attempt": 1, "hparams": HPARAMS, "seed": 5, "last_epoch": 0, **changes}
    run_trial({"request": request}, context=context)


def losses(reports: list[Report]) -> list[float]:
    return [report["loss"] for report in reports]


def test_trials_map_the_shards_without_a_copy() -> None:
    log = random_log(num_shards=2)
    references = [ray.put(shard) for shard in log.shards]
    first, second = (
        SequenceLog(log.manifest, tuple(ray.get(list(references)))).item_chunks() for _ in range(2)
    )
    for one, other, original in zip(first, second, log.item_chunks(), strict=True):
        np.testing.assert_array_equal(one, original)
        assert not one.flags.writeable  # it is the store's memory
        assert one.ctypes.data == other.ctypes.data  # and the same each time


def test_a_finalist_leaves_the_ranks_of_its_best_weights(
    context: TrialContext, reports: list[Report]
) -> None:
    context = replace(context, max_epochs=12, budget=TrainBudget(patience=12))
    attempt(context, is_finalist=True)
    best = reports[-1]["best_epoch"]
    assert best < len(reports) == 12  # so that the last weights are others
    ranks = read_ranks(ranks_path(context.folder, 3))
    valid = {f"valid.{name}": value for name, value in compute_metrics(ranks["valid"]).items()}
    assert valid == {key: value for key, value in reports[best - 1].items() if key.startswith("valid.")}
    assert valid != {key: value for key, value in reports[-1].items() if key.startswith("valid.")}

    data = open_data(random_log(), context.protocol, CPU)
    model_class, model_config, _ = typed_configs(HPARAMS)
    model = model_class(model_config, data.log.num_items).eval()
    checkpoint = load_checkpoint(checkpoint_path(context.folder, 3), CPU)
    model.load_state_dict(checkpoint["state"]["best_weights"])
    ranker = Ranker(data.log, data.sequences, data.split.test, context.protocol, "test")
    test = ranker.rank(ModelScorer(model))
    assert ranks["test"].better_U.tolist() == test.better_U.tolist()
    assert ranks["test"].tied_U.tolist() == test.tied_U.tolist()
    assert ranks["test"].better_U.tolist() != ranks["valid"].better_U.tolist()


def test_rungs_of_the_model_are_validated(context: TrialContext, reports: list[Report]) -> None:
    context = replace(
        context,
        budget=TrainBudget(patience=50),
        max_epochs=44,
        rungs={"sasrec": (37, 41), "gru4rec": (3,)},
    )
    attempt(context)
    assert [report["epoch"] for report in reports] == [37, 38, 39, 40, 41, 42, 44]


def test_other_trials_leave_no_ranks(context: TrialContext, reports: list[Report]) -> None:
    attempt(context)
    assert len(reports) == 4
    assert not ranks_path(context.folder, 3).exists()


def killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_finalist_killed_before_its_ranks_are_there_writes_them_next_time(
    context: TrialContext, reports: list[Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt(context, is_finalist=True, trial_number=4)  # never killed
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(trial, "write_ranks", killed)
        attempt(context, is_finalist=True)
    assert reports[-1]["last"] and not ranks_path(context.folder, 3).exists()
    checkpoint = checkpoint_path(context.folder, 3).read_bytes()
    reports.clear()
    attempt(context, is_finalist=True, attempt=2, last_epoch=4)
    assert reports == []  # the study knows them all
    assert checkpoint_path(context.folder, 3).read_bytes() == checkpoint
    whole, late = (read_ranks(ranks_path(context.folder, number)) for number in (4, 3))
    for split in ("valid", "test"):
        assert late[split].better_U.tolist() == whole[split].better_U.tolist()
        assert late[split].tied_U.tolist() == whole[split].tied_U.tolist()


def test_a_finished_trial_that_is_run_again_tells_what_the_study_missed(
    context: TrialContext, reports: list[Report]
) -> None:
    attempt(context, is_finalist=True)
    first = losses(reports)
    ranks_path(context.folder, 3).unlink()
    reports.clear()
    attempt(context, is_finalist=True, attempt=2, last_epoch=2)
    assert losses(reports) == first[2:] and reports[-1]["last"]
    assert ranks_path(context.folder, 3).exists()


def too_much(*_: object, **__: object) -> Any:
    return torch.empty(TOO_MUCH, dtype=torch.uint8)


def test_a_failed_allocation_on_a_cpu_is_a_memory_error(
    context: TrialContext, reports: list[Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SASRec, "encode", too_much)
    with pytest.raises(MemoryError, match=f"you tried to allocate {TOO_MUCH} bytes") as caught:
        attempt(context)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert classify(caught.value).error_class == "out_of_memory"


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes cannot be multiplied"), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_other_errors_come_as_they_are(
    error: RuntimeError, context: TrialContext, reports: list[Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Tensor:
        raise error

    monkeypatch.setattr(SASRec, "encode", fail)
    with pytest.raises(RuntimeError) as caught:
        attempt(context)
    assert caught.value is error


def need_half_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second epoch on there is memory for half of the largest batch, and a sequence."""
    encode, last_state, epochs, largest = SASRec.encode, SASRec.last_state, 0, 0

    def limited(model: SASRec, history: History) -> Tensor:
        nonlocal largest
        size, longest = history.item_id_BL.numel(), history.item_id_BL.shape[1]
        if epochs >= 1 and size > largest / 2 + longest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        largest = max(largest, size)
        return encode(model, history)

    def counted(model: SASRec, history: History) -> Tensor:
        nonlocal epochs
        epochs += 1  # ranked once an epoch: of this log in one block
        return last_state(model, history)

    monkeypatch.setattr(SASRec, "encode", limited)
    monkeypatch.setattr(SASRec, "last_state", counted)


def test_out_of_memory_within_an_epoch_goes_on_from_the_checkpoint_in_micro_batches(
    context: TrialContext, reports: list[Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt(context, trial_number=4)
    whole = losses(reports)
    reports.clear()
    need_half_a_batch(monkeypatch)
    with pytest.raises(torch.OutOfMemoryError):
        attempt(context)
    assert losses(reports) == whole[:1]
    attempt(context, attempt=2, last_epoch=1, micro_batch_size=4)
    assert losses(reports) == pytest.approx(whole, rel=1e-4)  # float32 over three epochs
    assert [report["epoch"] for report in reports] == [1, 2, 3, 4]


def one_point(_trial: optuna.Trial) -> dict[str, Hparam]:
    return HPARAMS


def faulty(context: TrialContext) -> Trainable:
    """First attempts fail: the search's runs out of memory after an epoch, the finalist's is killed when all
    that is missing is its ranks. A function within, so that workers get its code.
    """
    size = TOO_MUCH

    def save_and_run_out(path: Path, content: dict[str, Any]) -> None:
        save_checkpoint(path, content)
        torch.empty(size, dtype=torch.uint8)

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), 9)

    def train(config: dict[str, Any]) -> None:
        request = config["request"]
        fault: dict[str, Any] = {}
        if request["attempt"] == 1:
            fault = {"write_ranks": die} if request["is_finalist"] else {"save_checkpoint": save_and_run_out}
        with mock.patch.multiple(trial, **fault) if fault else nullcontext():
            trial.run_trial(config, context=context)

    return train


def test_out_of_memory_and_a_late_kill_on_ray(context: TrialContext) -> None:
    folder = context.folder
    assert isinstance(folder, Path)
    with Study.open(
        folder,
        name="s",
        seed=1,
        search=SearchConfig(trials=1, pruner="none"),
        finalists=FinalistConfig(count=1, seeds=1),
        space=one_point,
    ) as study:
        run_trials(
            study, faulty(context), resources={"CPU": 1}, concurrency=lambda: 1,
            folder=folder, on_step=lambda: None,
        )  # fmt: skip
        (record,) = study.records()
        assert (record.state, record.epochs, record.attempts) == ("complete", 4, 2)
        assert study.trial(0).user_attrs["micro_batch_size"] == 4
        (finalist,) = study.finalist_runs()
        assert (finalist.record.state, finalist.record.epochs, finalist.record.attempts) == ("complete", 4, 2)
        ranks = read_ranks(ranks_path(context.folder, 1))
        assert compute_metrics(ranks["valid"]) == finalist.record.valid
    assert not ranks_path(context.folder, 0).exists()
