"""What validating fewer epochs costs and saves: curves of every epoch, on which each schedule is replayed.

A trial's weights do not depend on when it is validated (tests/sweep/engine/test_training.py), so a replay is
what training with the schedule would have come to. For each schedule: epochs, validations and seconds, also
where a third of the trials goes on at each rung (`pruned_s`); the objective it finds and the test metric at
the epoch it chooses, less those of every epoch; and for how many pairs of trainings the same one stands
higher at a rung as with every epoch (`orders_kept`), and as at the end of the curves (`orders_final`).

python -m benchmarks.evaluation_schedule [--logs ml-100k games] [--seeds 3] [--curves curves.json] [--replay]

With --curves what is there already is not trained again. --replay trains nothing.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import Row, add_folder, prepare_process, show, write
from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.preparing.prepare import prepare
from seqsweep.data_pipeline.store import open_log
from seqsweep.results.metrics import compute_metrics
from seqsweep.sweep.engine.eval_schedule import GROWTH, next_evaluation
from seqsweep.sweep.engine.hparams import typed_configs
from seqsweep.sweep.engine.opened_log import TrialData, open_data
from seqsweep.sweep.engine.ranking import ModelScorer, Ranker
from seqsweep.sweep.engine.state import build_model, new_state
from seqsweep.sweep.engine.training import train
from seqsweep.sweep.settings.budgets import EvalSchedule, TrainBudget
from seqsweep.sweep.settings.protocol import ProtocolConfig
from seqsweep.sweep.study.optuna_study import suggest_grace
from seqsweep.sweep.study.pruning import RungTable

DATA = Path(os.environ.get("SEQSWEEP_DATA", "../shared/data"))
METRIC = "ndcg@10"
MAX_EPOCHS = 100  # of the study that the rungs belong to
PATIENCE = 10
REDUCTION_FACTOR = 3

SASREC = {"model": "sasrec", "hidden_dim": 32, "num_blocks": 2, "num_heads": 1, "dropout": 0.2}
GRU4REC = {"model": "gru4rec", "hidden_dim": 32, "gru_dim": 64, "num_layers": 1, "dropout": 0.2}


@dataclass(frozen=True)
class Setting:
    path: str
    num_epochs: int
    with_test: bool
    trainings: dict[str, dict[str, Any]]


SMALL_LOG = {"batch_size": 32, "max_len": 50, "lr": 3e-3}
SPARSE_LOG = {"batch_size": 128, "max_len": 20, "lr": 3e-3}
SETTINGS = {
    "demo": Setting("demo", 25, True, {"sasrec-bce": {**SASREC, **SPARSE_LOG, "loss": "bce"}}),
    "ml-100k": Setting(
        str(DATA / "ml-100k/u.data"),
        60,
        True,
        {
            "sasrec-ce": {**SASREC, **SMALL_LOG, "loss": "ce"},
            "sasrec-bce": {**SASREC, **SMALL_LOG, "loss": "bce", "num_negatives": 1},
            "gru4rec-ce": {**GRU4REC, **SMALL_LOG, "loss": "ce"},
        },
    ),
    "games": Setting(
        str(DATA / "games/Video.txt"),
        25,
        False,
        {
            "sasrec-bce": {**SASREC, **SPARSE_LOG, "loss": "bce", "num_negatives": 1},
            "sasrec-softmax": {
                **SASREC,
                **SPARSE_LOG,
                **{"loss": "sampled_softmax", "num_negatives": 256, "negatives": "batch"},
            },
            "gru4rec-bce": {**GRU4REC, **SPARSE_LOG, "loss": "bce", "num_negatives": 1},
        },
    ),
}

Curve = dict[str, Any]  # log, training, seed, and by epoch: objective, test, train_s, rank_s


def record_curve(data: TrialData, setting: Setting, hparams: dict[str, Any], seed: int) -> Curve:
    """A training without an end before `num_epochs`, validated after each."""
    device = data.sequences.device
    model_class, model_config, config = typed_configs(hparams)
    model = build_model(model_class, model_config, data.log.num_items, seed=seed, device=device)
    state = new_state(model, config)
    test_ranker = Ranker(data.log, data.sequences, data.split.test, ProtocolConfig(), "test")
    budget = TrainBudget(patience=setting.num_epochs, objective=METRIC, eval_schedule="every")
    curve: Curve = {"objective": [], "test": [], "train_s": [], "rank_s": []}
    training = train(
        state, config, budget, data.sequences, data.valid_ranker, max_epochs=MAX_EPOCHS, seed=seed
    )
    for report in itertools.islice(training, setting.num_epochs):
        curve["objective"].append(report.objective)
        curve["train_s"].append(round(report.seconds, 3))
        curve["rank_s"].append(round(report.eval_seconds, 3))
        if setting.with_test:
            curve["test"].append(compute_metrics(test_ranker.rank(ModelScorer(state.model)))[METRIC])
    return curve


def record_curves(
    names: list[str], num_seeds: int, cache: Path, curves: list[Curve], path: Path | None
) -> None:
    """Add what `curves` lacks; each is kept in `path` at once."""
    there = {(curve["log"], curve["training"], curve["seed"]) for curve in curves}
    for name in names:
        setting = SETTINGS[name]
        log = open_log(prepare(DataConfig(path=setting.path), cache))
        data = open_data(log, ProtocolConfig(), torch.device("cpu"))
        for seed, (training, hparams) in itertools.product(range(num_seeds), setting.trainings.items()):
            if (name, training, seed) in there:
                continue
            started = time.perf_counter()
            facts = {"log": name, "training": training, "seed": seed, "num_users": log.num_users}
            curves.append({**facts, **record_curve(data, setting, hparams, seed)})
            print(f"{name} {training} seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
            if path is not None:
                staging = path.with_name(path.name + ".staging")
                staging.write_text(json.dumps(curves))
                os.replace(staging, path)


@dataclass(frozen=True)
class Schedule:
    name: EvalSchedule
    growth: int = GROWTH
    from_rung: bool = True

    def __str__(self) -> str:
        if self.name == "every":
            return self.name
        return f"from {'the first rung' if self.from_rung else 'epoch 1'}, epoch // {self.growth}"


EVERY = Schedule("every")
SCHEDULES = (
    EVERY,
    *(Schedule("sparse", growth, from_rung=False) for growth in (20, 10, 5)),
    *(Schedule("sparse", growth) for growth in (20, 10, 5)),
)


@dataclass(frozen=True)
class Replay:
    """What a training comes to under a schedule."""

    objectives: dict[int, float]  # by validated epoch
    best_epoch: int
    last_epoch: int


def replay(curve: Curve, schedule: Schedule, rungs: list[int]) -> Replay:
    """Until patience is used up, or the curve ends."""
    objective, num_epochs = curve["objective"], len(curve["objective"])
    rungs = rungs if schedule.from_rung else [1, *rungs]
    seen: dict[int, float] = {}
    epoch = best_epoch = 0
    while epoch < num_epochs and (epoch == 0 or epoch - best_epoch < PATIENCE):
        last_epoch = min(num_epochs, best_epoch + PATIENCE if best_epoch else num_epochs)
        epoch = next_evaluation(
            epoch, schedule.name, rungs=rungs, last_epoch=last_epoch, growth=schedule.growth
        )
        seen[epoch] = objective[epoch - 1]
        if seen[epoch] > seen.get(best_epoch, -1.0):
            best_epoch = epoch
    return Replay(seen, best_epoch, epoch)


def rungs_of(num_users: int) -> list[int]:
    grace = suggest_grace(num_users, MAX_EPOCHS)
    return RungTable(grace, REDUCTION_FACTOR, MAX_EPOCHS).rungs("")


def best_at(replayed: Replay, rung: int) -> float | None:
    """What the trial enters at the rung; None if it had ended before."""
    values = [value for epoch, value in replayed.objectives.items() if epoch <= rung]
    return max(values) if rung <= replayed.last_epoch else None


def orders(replays: list[Replay], rungs: list[int]) -> Iterator[tuple[int, int, int, int]]:
    """(rung, two trainings, which of them stands higher there)."""
    for rung, (i, j) in itertools.product(rungs, itertools.combinations(range(len(replays)), 2)):
        one, other = best_at(replays[i], rung), best_at(replays[j], rung)
        if one is not None and other is not None:
            yield rung, i, j, (one > other) - (one < other)


def seconds(curve: Curve, replayed: Replay, rungs: list[int]) -> float:
    """Of training and validation, where at each of `rungs` one in REDUCTION_FACTOR trials goes on."""
    rank_s = statistics.median(curve["rank_s"])
    total = 0.0
    for epoch, train_s in enumerate(curve["train_s"][: replayed.last_epoch], 1):
        share = REDUCTION_FACTOR ** -sum(rung < epoch for rung in rungs)
        total += share * (train_s + (rank_s if epoch in replayed.objectives else 0.0))
    return total


def measure(curves: list[Curve], schedule: Schedule) -> dict[str, Any]:
    """Of one log's curves, beside the schedule `every`."""
    rungs = rungs_of(curves[0]["num_users"])
    replays = [replay(curve, schedule, rungs) for curve in curves]
    every = [replay(curve, EVERY, rungs) for curve in curves]
    before = {(rung, i, j): sign for rung, i, j, sign in orders(every, rungs)}
    now = {(rung, i, j): sign for rung, i, j, sign in orders(replays, rungs)}
    common = before.keys() & now.keys()
    final = [max(curve["objective"]) for curve in curves]

    def objective(curve: Curve, replayed: Replay) -> float:
        return float(curve["objective"][replayed.best_epoch - 1])

    def mean_of(values: Iterator[float]) -> float:
        return statistics.mean(values)

    pairs = list(zip(curves, replays, every, strict=True))
    result = {
        "schedule": str(schedule),
        "trainings": len(curves),
        "rungs": rungs,
        "epochs": sum(r.last_epoch for r in replays),
        "validations": sum(len(r.objectives) for r in replays),
        "seconds": round(sum(seconds(c, r, []) for c, r, _ in pairs), 1),
        "pruned_s": round(sum(seconds(c, r, rungs) for c, r, _ in pairs), 1),
        "objective": round(mean_of(objective(c, r) for c, r, _ in pairs), 5),
        "objective_change": round(mean_of(objective(c, r) - objective(c, e) for c, r, e in pairs), 5),
        "largest_loss": round(max(objective(c, e) - objective(c, r) for c, r, e in pairs), 5),
        "same_best_epoch": sum(r.best_epoch == e.best_epoch for _, r, e in pairs),
        "orders": len(common),
        "orders_kept": sum(before[key] == now[key] for key in common),
        "orders_final": sum((final[i] > final[j]) == (now[rung, i, j] > 0) for rung, i, j in common),
    }
    if curves[0]["test"]:
        changes = [c["test"][r.best_epoch - 1] - c["test"][e.best_epoch - 1] for c, r, e in pairs]
        result["test_change"] = round(statistics.mean(changes), 5)
        error = statistics.stdev(changes) / len(changes) ** 0.5 if len(changes) > 1 else 0.0
        result["test_error"] = round(error, 5)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--logs", nargs="+", choices=list(SETTINGS), default=["demo"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--curves", type=Path, help="JSON file to keep the curves in")
    parser.add_argument("--replay", action="store_true", help="only of the curves that are there")
    add_folder(parser)
    arguments = parser.parse_args()
    prepare_process(torch.device("cpu"), arguments.threads)
    path: Path | None = arguments.curves
    curves: list[Curve] = json.loads(path.read_text()) if path is not None and path.exists() else []
    if not arguments.replay:
        with tempfile.TemporaryDirectory() as cache:
            record_curves(arguments.logs, arguments.seeds, Path(cache), curves, path)
    rows: list[Row] = []
    for name in arguments.logs:
        of_log = [curve for curve in curves if curve["log"] == name]
        for schedule in SCHEDULES:
            rows.append({"log": name, **measure(of_log, schedule)})
            show(rows[-1])
    write("evaluation_schedule", rows, arguments)


if __name__ == "__main__":
    main()
