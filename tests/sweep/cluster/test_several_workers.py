"""Several workers train what one does: two processes without Ray, then trials through Ray Train."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import pytest
import ray
import ray.train
import torch
import torch.distributed
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from seqsweep.data_pipeline.history import History
from seqsweep.data_pipeline.split import leave_one_out
from seqsweep.data_pipeline.views.batches import MaskedItem, NextItem, Task, TrainBatches
from seqsweep.data_pipeline.views.device import DeviceSequences
from seqsweep.models import MODELS, SequenceModel
from seqsweep.models.sasrec import SASRec, SASRecConfig
from seqsweep.results.schema import Hparam
from seqsweep.sweep.cluster import trial, tune_adapters
from seqsweep.sweep.cluster.connect import Resources
from seqsweep.sweep.cluster.several_workers import (
    OrphanedPlacementGroups,
    run_trial_on_workers,
    work_on_trial,
)
from seqsweep.sweep.cluster.trial import TrialContext
from seqsweep.sweep.cluster.tune_run import run_trials
from seqsweep.sweep.driver.reproduce import reproduce
from seqsweep.sweep.engine import ranking
from seqsweep.sweep.engine.gradients import add_joint_gradients
from seqsweep.sweep.engine.hparams import TrainConfig
from seqsweep.sweep.engine.negatives import NegativeSampler
from seqsweep.sweep.engine.opened_log import open_data
from seqsweep.sweep.engine.ranking import ModelScorer
from seqsweep.sweep.engine.state import TrainState, build_model, new_state
from seqsweep.sweep.engine.training import train
from seqsweep.sweep.engine.workers import ALONE, Workers
from seqsweep.sweep.settings.budgets import TrainBudget
from seqsweep.sweep.settings.protocol import ProtocolConfig
from seqsweep.sweep.settings.search import SearchConfig
from seqsweep.sweep.storage.trial_files import checkpoint_path, load_checkpoint
from seqsweep.sweep.study.study import Study
from tests.logs import random_log
from tests.models.test_contract import VARIANTS

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
SMALL = SASRecConfig(hidden_dim=16, num_blocks=1, max_len=8, dropout=0.0)
SIZE = 2

LOSSES: dict[str, dict[str, Any]] = {
    "ce": {"loss": "ce"},
    "bce": {"loss": "bce"},
    "sampled_softmax-shared": {"loss": "sampled_softmax", "negatives": "batch", "popularity_power": 0.5},
}
# By name: sequences of the batch, and of a micro-batch. One sequence is less than one for each worker.
BATCHES = {"ten": (10, None), "ten-in-threes": (10, 3), "three": (3, None), "one": (1, None)}
GRADIENTS = [
    f"{variant}/{loss}/{batch}"
    for variant in VARIANTS
    for loss in LOSSES
    for batch in BATCHES
    if batch == "ten" or (variant, loss) in [("sasrec", "bce"), ("sasrec", "ce"), ("gru4rec", "ce")]
]
TRAININGS: dict[str, dict[str, Any]] = {
    "ce": {"loss": "ce"},
    "bce-in-twos": {"loss": "bce", "micro_batch_size": 2},
    "bce-many-items": {"loss": "bce", "num_items": 2000},  # a batch touches few of them
    "dropout": {"loss": "bce", "dropout": 0.3},
    "diverging": {"loss": "bce", "lr": 1e30},
}
RANKINGS = ("full", "sampled:5")


def joint_gradients(case: str, workers: Workers) -> tuple[Tensor, dict[str, Tensor]]:
    """Of one batch, in double precision: the sum of the loss over all workers, and each gradient."""
    variant, loss, batch_name = case.split("/")
    name, settings = VARIANTS[variant]
    size, micro_batch_size = BATCHES[batch_name]
    log = random_log(with_times=True)
    model_config = MODELS[name].Config(**{"max_len": 8, **settings, "dropout": 0.0})
    model = build_model(MODELS[name], model_config, log.num_items, seed=3, device=CPU).double().train()
    sequences = DeviceSequences(log, CPU, leave_one_out(log.offset_U).train_end_U)
    batches = TrainBatches(
        sequences,
        max_len=8,
        batch_size=size,
        window="last",
        task=task_of(model),
        with_times=model.uses_time,
    )
    batch = max(batches.epoch(seed=1), key=lambda batch: len(batch.length_B))
    config = TrainConfig(num_negatives=5, **LOSSES[loss])
    negatives = None
    if config.loss != "ce":
        negatives = NegativeSampler(sequences, config).draw(batch, torch.Generator().manual_seed(1))
    total = add_joint_gradients(model, batch, config, negatives, workers, micro_batch_size=micro_batch_size)
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return workers.all_reduce_(total), gradients


def task_of(model: SequenceModel) -> Task:
    if not model.masked:
        return NextItem()
    return MaskedItem(model.config.mask_probability, model.config.mask_last_share)


def trained(case: str, workers: Workers) -> TrainState:
    settings = dict(TRAININGS[case])
    micro_batch_size = settings.pop("micro_batch_size", None)
    model_config = SMALL.model_copy(update={"dropout": settings.pop("dropout", 0.0)})
    log = random_log(num_items=settings.pop("num_items", 25))
    config = TrainConfig(num_negatives=4, batch_size=8, **settings)
    state = new_state(build_model(SASRec, model_config, log.num_items, seed=3, device=CPU), config)
    data = open_data(log, ProtocolConfig(), CPU)
    for _ in train(
        state, config, TrainBudget(), data.sequences, data.valid_ranker,
        max_epochs=3, seed=3, micro_batch_size=micro_batch_size, workers=workers,
    ):  # fmt: skip
        pass
    return state


def tensors_of(state: TrainState) -> dict[str, Tensor]:
    moments = {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, values in state.optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    best = {f"best.{name}": tensor for name, tensor in state.best_weights.items()}
    return {**state.model.state_dict(), **moments, **best}


def what_was_reported(state: TrainState) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in dataclasses.asdict(report).items() if not k.endswith("seconds")}
        for report in state.reports
    ]


class Broken:
    """A scorer that fails for the one user with the longest history."""

    max_len = 8
    uses_time = False

    def __init__(self, num_items: int) -> None:
        self._num_items = num_items

    def read(self, history: History) -> Tensor:
        return history.length_B

    def score(self, length_B: Tensor) -> Tensor:
        score_BN = torch.ones(len(length_B), self._num_items)
        score_BN[length_B == 8] = torch.nan
        return score_BN


def ranks(ranking: str, workers: Workers) -> dict[str, list[int]]:
    log = random_log()
    data = open_data(log, ProtocolConfig(ranking=ranking), CPU)
    scorer = ModelScorer(build_model(SASRec, SMALL, log.num_items, seed=3, device=CPU).eval())
    ranks = data.valid_ranker.rank(scorer, workers)
    return {"better": ranks.better_U.tolist(), "tied": ranks.tied_U.tolist()}


def rank_with_nan(workers: Workers) -> None:
    log = random_log()
    open_data(log, ProtocolConfig(), CPU).valid_ranker.rank(Broken(log.num_items), workers)


def work(rank: int, folder: Path) -> None:
    """All that the tests look at, by one of two workers."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=SIZE
    )
    workers = Workers(rank, SIZE)
    tensors: dict[str, Tensor] = {}
    told: dict[str, Any] = {}
    for case in GRADIENTS:
        told[case], gradients = float((outcome := joint_gradients(case, workers))[0]), outcome[1]
        tensors |= {f"{case}/{name}": gradient for name, gradient in gradients.items()}
    for case in TRAININGS:
        try:
            state = trained(case, workers)
        except FloatingPointError as error:
            told[case] = str(error)
            continue
        told[case] = what_was_reported(state)
        tensors |= {f"{case}/{name}": tensor for name, tensor in tensors_of(state).items()}
    for tokens in (ranking.TOKENS_PER_BLOCK, 40):  # in one block, which leaves a worker none, and in many
        ranking.TOKENS_PER_BLOCK = tokens
        told |= {f"{ranking}/{tokens}": ranks(ranking, workers) for ranking in RANKINGS}
    try:
        rank_with_nan(workers)
    except FloatingPointError as error:
        told["nan"] = str(error)
    told["any"] = [workers.any_of(False), workers.any_of(rank == 1)]
    try:
        workers.check_equal(rank + 4, "the number", "mend it")
    except RuntimeError as error:
        told["unequal"] = str(error)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / f"{rank}.st")
    (folder / f"{rank}.json").write_text(json.dumps(told))
    torch.distributed.destroy_process_group()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What each of the two workers came to."""

    tensors: tuple[dict[str, Tensor], ...]
    told: tuple[dict[str, Any], ...]

    def tensors_of(self, case: str, rank: int = 0) -> dict[str, Tensor]:
        start = f"{case}/"
        return {n.removeprefix(start): t for n, t in self.tensors[rank].items() if n.startswith(start)}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    folder = tmp_path_factory.mktemp("workers")
    spawn(work, (folder,), nprocs=SIZE)  # type: ignore[no-untyped-call]
    yield Outcome(
        tuple(load_file(folder / f"{rank}.st") for rank in range(SIZE)),
        tuple(json.loads((folder / f"{rank}.json").read_text()) for rank in range(SIZE)),
    )


@pytest.mark.parametrize("case", GRADIENTS)
def test_gradients_are_those_of_one_worker_with_the_joint_batch(case: str, outcome: Outcome) -> None:
    total, expected = joint_gradients(case, ALONE)
    gradients = outcome.tensors_of(case)
    assert outcome.told[0][case] == pytest.approx(float(total), rel=1e-9)
    assert gradients.keys() == expected.keys()
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-4
    for name, gradient in expected.items():
        # float32 inside: log q, and the share of a part is rounded to the loss's type
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("case", ["ce", "bce-in-twos", "bce-many-items"])
def test_without_dropout_training_is_that_of_one_worker(case: str, outcome: Outcome) -> None:
    state = trained(case, ALONE)
    for report, expected in zip(outcome.told[0][case], what_was_reported(state), strict=True):
        assert report["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert report["valid"] == pytest.approx(expected["valid"], abs=0.02)  # near scores may change places


@pytest.mark.parametrize("case", [case for case in TRAININGS if case != "diverging"])
def test_workers_stay_equal_to_the_bit(case: str, outcome: Outcome) -> None:
    first, second = (outcome.tensors_of(case, rank) for rank in range(SIZE))
    assert any(name.startswith("optimizer.") for name in first) and first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert outcome.told[0][case] == outcome.told[1][case]


def test_with_dropout_each_worker_drops_other_places_than_one_would(outcome: Outcome) -> None:
    alone = what_was_reported(trained("dropout", ALONE))
    assert outcome.told[0]["dropout"][0]["loss"] != pytest.approx(alone[0]["loss"], rel=1e-4)


@pytest.mark.parametrize("tokens", [ranking.TOKENS_PER_BLOCK, 40])
@pytest.mark.parametrize("ranking", RANKINGS)
def test_ranks_are_those_of_one_worker_in_every_worker(ranking: str, tokens: int, outcome: Outcome) -> None:
    expected = ranks(ranking, ALONE)
    assert [told[f"{ranking}/{tokens}"] for told in outcome.told] == [expected] * SIZE


def test_what_is_not_finite_fails_in_all_workers_alike(outcome: Outcome) -> None:
    with pytest.raises(FloatingPointError) as diverged:
        trained("diverging", ALONE)
    with pytest.raises(FloatingPointError) as broken:
        rank_with_nan(ALONE)
    assert [told["diverging"] for told in outcome.told] == [str(diverged.value)] * SIZE
    assert [told["nan"] for told in outcome.told] == [str(broken.value)] * SIZE


def test_what_workers_tell_each_other(outcome: Outcome) -> None:
    assert [told["any"] for told in outcome.told] == [[False, True]] * SIZE
    message = "the number must be the same in all workers, got [4, 5]: mend it"
    assert [told["unequal"] for told in outcome.told] == [message] * SIZE


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_the_shares_of_a_batch_are_the_batch(batch_size: int, size: int) -> None:
    log = random_log()
    sequences = DeviceSequences(log, CPU, leave_one_out(log.offset_U).train_end_U)
    batches = TrainBatches(sequences, max_len=8, batch_size=batch_size, window="last")
    for batch in batches.epoch(seed=1):
        shares = [batch.share(rank, size) for rank in range(size)]
        counted = [(part, positions) for part, positions, num_targets in shares if num_targets]
        assert torch.equal(torch.cat([part.user_id_B for part, _ in counted]), batch.user_id_B)
        assert torch.equal(torch.cat([part.target_id_T for part, _ in counted]), batch.target_id_T)
        num_targets = sum(num_targets for _, _, num_targets in shares)
        assert num_targets == len(batch.target_id_T)
        for part, positions, _ in shares:
            assert torch.equal(part.target_id_T, batch.target_id_T[positions])
            # A share has no more than its part of the items and one sequence.
            assert int(part.length_B.sum()) <= int(batch.length_B.sum()) / size + int(batch.length_B.max())


HPARAMS: dict[str, Hparam] = {
    "model": "sasrec", "hidden_dim": 16, "num_blocks": 1, "max_len": 8, "dropout": 0.0,
    "lr": 0.03, "batch_size": 8,
}  # fmt: skip


def write_log(path: Path) -> None:
    """Sixty users who walk around a ring of twenty items."""
    lines = [
        f"{user} {(7 * user + step) % 20} {100 * user + step}"
        for user in range(60)
        for step in range(4 + user % 8)
    ]
    path.write_text("\n".join(lines) + "\n")


def space(trial: optuna.Trial) -> dict[str, Hparam]:
    return {**HPARAMS, "lr": trial.suggest_float("lr", 1e-6, 1, log=True)}


def context_of(folder: Path) -> TrialContext:
    log = random_log()
    return TrialContext(
        folder=folder,
        manifest=log.manifest,
        shards=tuple(ray.put(shard) for shard in log.shards),
        protocol=ProtocolConfig(),
        budget=TrainBudget(),
        max_epochs=4,
        num_threads=1,
        num_gpus=0,
        num_workers=SIZE,
    )


def faulty(folder: Path) -> Callable[[Mapping[str, Any]], None]:
    """What workers do, and leave their process ids; a function within, so that they get its code.

    In trial 0 the second worker runs out of memory after the first epoch; all of trial 2 hang after it.
    """

    def work(config: Mapping[str, Any]) -> None:
        number, attempt = config["request"]["trial_number"], config["request"]["attempt"]
        rank = ray.train.get_context().get_world_rank()
        (folder / f"{number}-{attempt}-{rank}.pid").write_text(str(os.getpid()))
        epochs = 0

        def run_out(epoch_report: Any, *rest: Any) -> Any:
            nonlocal epochs
            epochs += 1
            if epochs == 2 and rank == 1 and (number, attempt) == (0, 1):
                raise MemoryError("can't allocate")
            if epochs == 2 and number == 2:
                time.sleep(600)
            return flat(epoch_report, *rest)

        flat = trial._flat
        with mock.patch.object(trial, "_flat", run_out):
            work_on_trial(config)

    return work


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(holds: Callable[[], bool], what: str) -> None:
    for _ in range(300):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError(f"not within 30 s: {what}")


def free_cpus() -> float:
    resources: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return resources.get("CPU", 0)


def test_failures_a_pruned_trial_and_one_that_hangs(
    tmp_path: Path, ray_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune_adapters, "SECONDS_TO_STOP", 0.5)
    left_overs = OrphanedPlacementGroups()
    points: list[dict[str, Hparam]] = [{"lr": 0.03}, {"lr": 1e-6}, {"lr": 0.02}]
    settings = SearchConfig(trials=3, pruner="asha", grace_epochs=2, reduction_factor=2, max_epochs=4)
    with Study.open(tmp_path, name="s", seed=1, search=settings, space=space, enqueue=points) as study:

        def step() -> None:
            if any(record.trial == 2 for record in study.epoch_records()) and 2 in study.live:
                study.pruned(2, "time_limit")
            left_overs.step((live.number, live.attempt) for live in study.live_trials())

        run_trials(
            study,
            functools.partial(run_trial_on_workers, context=context_of(tmp_path), work=faulty(tmp_path)),
            resources=Resources(1, 0, SIZE).as_dict(),
            concurrency=lambda: 1,
            folder=tmp_path,
            on_step=step,
        )
        first, pruned, hung = study.records()
        assert (first.state, first.epochs, first.attempts) == ("complete", 4, 2)
        assert study.trial(0).user_attrs["micro_batch_size"] == 4
        assert first.device == "cpu x 1, 2 workers"
        assert (pruned.state, pruned.epochs, pruned.attempts) == ("pruned", 2, 1)
        assert (hung.state, hung.epochs, hung.stopped_because) == ("pruned", 1, "time_limit")
        # The checkpoint is not ahead of what the study knows.
        reports = load_checkpoint(checkpoint_path(tmp_path, 1), CPU)["state"]["reports"]
        assert len(reports) == 2
    pids = {path.stem: int(path.read_text()) for path in tmp_path.glob("*.pid")}
    assert len(pids) == SIZE * 4
    wait_until(lambda: not any(map(is_alive, pids.values())), "all workers have ended")

    def all_is_free() -> bool:
        left_overs.step([])
        return free_cpus() == 2

    wait_until(all_is_free, "what they held is free again")


def test_a_study_on_two_workers(tmp_path: Path, ray_address: str) -> None:
    """From the command line; its trial comes out the same when one process trains it again."""
    write_log(tmp_path / "log.txt")
    flags = (
        *("--trials", "1", "--max-epochs", "3", "--finalists", "0"),
        *("--fix", "dropout=0.0", "--workers-per-trial", "2"),
    )
    done = subprocess.run(
        [sys.executable, "-m", "seqsweep", "run", "--data", "log.txt", "--address", ray_address, *flags],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 trials at a time, each on 2 workers of 1 CPUs and 0 GPUs" in done.stdout
    told: list[str] = []
    again = reproduce(tmp_path / "runs" / "log", 0, told.append)
    assert "trained by 2 workers, now by one" in again.changes
    assert len(again.rows) == 3 and again.largest_difference < 1e-4
