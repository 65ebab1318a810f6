"""Curves of many configurations on several logs: the record that searches are replayed on.

Two steps, as the machine that trains need not have Optuna or Ray. `draw` proposes configurations and writes
a task a line; `train` works through them, appends a line for each finished training, and passes over those
that are there: it may be interrupted, and run on several machines whose files are joined later. `pack` makes
the Parquet tables of it.

Every epoch is validated, and none is stopped by patience: a replay decides itself when a trial would have
ended. From `CUT_FROM` of the length on a curve that lies below `CUT_BELOW` of the best one there ends; such
curves are marked. `cpu_s` is the processor time of a training's epochs and `eval_cpu_s` of its rankings, of
one thread: seconds of the clock would say more about who else was at work.

python -m benchmarks.search_quality.record draw [--logs ml-100k lastfm ..] > tasks.jsonl
python -m benchmarks.search_quality.record train tasks.jsonl --out curves.jsonl [--jobs 2]
python -m benchmarks.search_quality.record pack curves.jsonl --out benchmarks/records/search_quality
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.preparing.prepare import prepare, prepare_table
from seqsweep.data_pipeline.store import SequenceLog, open_log
from seqsweep.results.metrics import compute_metrics
from seqsweep.sweep.engine.hparams import typed_configs
from seqsweep.sweep.engine.opened_log import TrialData, open_data
from seqsweep.sweep.engine.ranking import ModelScorer, Ranker
from seqsweep.sweep.engine.state import EpochReport, TrainState, build_model, new_state
from seqsweep.sweep.engine.training import train
from seqsweep.sweep.settings.budgets import TrainBudget
from seqsweep.sweep.settings.protocol import ProtocolConfig

CUT_FROM, CUT_BELOW = 0.4, 0.5
MIN_HISTORY = 5
CACHE = Path(".cache/prepared")
Task = dict[str, Any]


@dataclass(frozen=True)
class Log:
    """A log of the record, cut to a sample of users that trains in minutes.

    Items that then have fewer than `min_item_users` are left out, and users with fewer than `MIN_HISTORY`:
    of 4,000 users of Beauty 1,747 stay.
    """

    path: str
    domain: str  # logs of one domain are held out together
    epochs: int
    read: dict[str, Any] = field(default_factory=dict)
    min_item_users: int = 1


LOGS = {
    "ml-100k": Log("ml-100k/u.data", "movielens", 60),
    "ml-1m-1k": Log("ml-1m/ml-1m.txt.gz", "movielens", 40, {"max_users": 1000}, 5),
    "lastfm": Log("lastfm/LastFM.txt.gz", "lastfm", 60, {"format": "sequences"}),
    "beauty-4k": Log("beauty/beauty.txt", "amazon", 45, {"max_users": 4000}, 3),
    "yelp-4k": Log("yelp/Yelp.txt.gz", "yelp", 45, {"format": "sequences", "max_users": 4000}, 3),
    "demo": Log("demo", "generated", 60),
    "games-4k": Log("games/Video.txt", "amazon", 45, {"max_users": 4000}, 3),
    "grocery-4k": Log("grocery/train.csv.gz", "grocery", 45, {"max_users": 4000}, 3),
}
CHOSEN_ON = ("ml-100k", "lastfm", "ml-1m-1k", "beauty-4k", "yelp-4k", "demo")  # the others only check

# Where the settings of published winners lie: the other half of the draws.
NARROWED = {
    "lr": "5e-4:2e-3",
    "weight_decay": "1e-6:1e-3",
    "hidden_dim": "48:128",
    "dropout": "0.1:0.5",
    "batch_size": "64:256",
    "position_std": "0.02:0.1",
}


@cache
def opened(name: str) -> TrialData:
    """The log of this process, kept for its next training."""
    log = LOGS[name]
    folder = Path(os.environ.get("SEQSWEEP_DATA", "../shared/data"))
    path = log.path if log.path == "demo" else str(folder / log.path)
    prepared = open_log(prepare(DataConfig(path=path, **log.read), CACHE))
    if log.min_item_users > 1:  # users were cut alone, which leaves three pairs an item
        config = DataConfig(
            path=name, min_item_interactions=log.min_item_users, min_user_interactions=MIN_HISTORY
        )
        prepared = open_log(prepare_table(interactions(prepared), config, CACHE))
    return open_data(prepared, ProtocolConfig(), torch.device("cpu"))


def interactions(log: SequenceLog) -> pa.Table:
    """Back from sequences to rows; the place in the sequence is the time where the log has none."""
    user_id = np.repeat(np.arange(log.num_users), np.diff(log.offset_U))
    item_id = np.concatenate(log.item_chunks())
    place = np.arange(len(item_id)) - log.offset_U[user_id]
    return pa.Table.from_pandas(pd.DataFrame({"user": user_id, "item": item_id, "timestamp": place}))


def draw(names: Iterable[str], num_wide: int, num_narrowed: int) -> Iterator[Task]:
    """Configurations of SASRec, the same for all logs: known-good points, then draws from the whole space and
    from a narrower one.
    """
    import optuna

    from seqsweep.search_spaces import KNOWN_GOOD, SEARCH_SPACES
    from seqsweep.search_spaces.compose import compose, draws

    spaces = {"sasrec": SEARCH_SPACES["sasrec"]}
    fix: dict[str, dict[str, int | float | str | bool]] = {"sasrec": {}}
    whole, narrower = compose(spaces, fix), compose(spaces, fix, {"sasrec": NARROWED})
    points = [
        dict(whole(cast(optuna.Trial, optuna.trial.FixedTrial(point)))) for point in KNOWN_GOOD["sasrec"]
    ]
    found = {
        "point": points,
        "wide": draws(whole, num_wide),
        "narrowed": draws(narrower, num_wide + num_narrowed)[num_wide:],  # draws begin alike in all spaces
    }
    configs = [(source, hparams) for source, several in found.items() for hparams in several]
    for config, (source, hparams) in enumerate(configs):
        for name in names:
            yield {"log": name, "config": config, "source": source, "seed": 0, "hparams": hparams}


def key_of(task: Task) -> tuple[str, int, int]:
    return task["log"], task["config"], task["seed"]


def train_task(task: Task, best: float) -> Task:
    """The task with its curve; `best` is the best value that any curve of the log has had by `CUT_FROM`."""
    torch.set_num_threads(1)
    log, data = LOGS[task["log"]], opened(task["log"])
    model_class, model_config, config = typed_configs(task["hparams"])
    device = data.sequences.device
    model = build_model(model_class, model_config, data.log.num_items, seed=task["seed"], device=device)
    state = new_state(model, config)
    budget = TrainBudget(patience=log.epochs, eval_schedule="every")
    reports = train(
        state, config, budget, data.sequences, data.valid_ranker, max_epochs=log.epochs, seed=task["seed"]
    )
    epochs: list[dict[str, float]] = []
    error, is_cut = None, False
    try:
        for epoch in with_cpu_seconds(reports):
            epochs.append(epoch)
            is_cut = epoch["epoch"] >= CUT_FROM * log.epochs and epoch["objective"] < CUT_BELOW * best
            if is_cut:
                break
    except FloatingPointError as diverged:
        error = str(diverged)
    return {
        **task,
        "num_users": data.log.num_users,
        "num_items": data.log.num_items,
        "num_interactions": data.log.manifest.num_interactions,
        "num_parameters": state.num_parameters,
        "test": test_ndcg(state, data) if epochs and not is_cut else None,
        "is_cut": is_cut,
        "error": error,
        "epochs": epochs,
    }


def with_cpu_seconds(reports: Iterable[EpochReport]) -> Iterator[dict[str, float]]:
    """Rows of the table of epochs; training and ranking share the processor's time as they do the clock's."""
    before = time.process_time()
    for report in reports:
        cpu_s = time.process_time() - before
        share = report.seconds / (report.seconds + report.eval_seconds)
        yield {
            "epoch": report.epoch,
            "loss": round(report.loss, 5),
            "objective": round(report.objective, 6),
            "cpu_s": round(cpu_s * share, 3),
            "eval_cpu_s": round(cpu_s * (1 - share), 3),
        }
        before = time.process_time()


def test_ndcg(state: TrainState, data: TrialData) -> float:
    """Of the best epoch's weights."""
    state.model.load_state_dict(state.best_weights)
    state.model.eval()
    ranker = Ranker(data.log, data.sequences, data.split.test, ProtocolConfig(), "test")
    return round(compute_metrics(ranker.rank(ModelScorer(state.model)))["ndcg@10"], 6)


def best_at_cut(trainings: Iterable[Task], name: str) -> float:
    at = round(CUT_FROM * LOGS[name].epochs)
    values = [
        max(e["objective"] for e in training["epochs"][:at])
        for training in trainings
        if training["log"] == name and len(training["epochs"]) >= at
    ]
    return max(values, default=0.0)


def train_all(tasks: list[Task], out: Path, jobs: int, max_hours: float) -> None:
    """Train what is not there yet; nothing new is begun after `max_hours`."""
    done = read(out)
    there = {key_of(training) for training in done}
    waiting = [task for task in tasks if key_of(task) not in there]
    ends_at = time.monotonic() + 3600 * max_hours
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs) as pool, out.open("a", encoding="utf-8") as file:
        running: list[Any] = []
        while running or (waiting and time.monotonic() < ends_at):
            while waiting and len(running) < jobs and time.monotonic() < ends_at:
                task = waiting.pop(0)
                running.append(pool.apply_async(train_task, (task, best_at_cut(done, task["log"]))))
            time.sleep(0.2)
            for result in [one for one in running if one.ready()]:
                running.remove(result)
                training = result.get()
                done.append(training)
                file.write(json.dumps(training) + "\n")
                file.flush()
                best = max((e["objective"] for e in training["epochs"]), default=0.0)
                print(
                    *key_of(training), training["source"], len(training["epochs"]), f"{best:.4f}", flush=True
                )


def read(path: Path) -> list[Task]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def pack(trainings: list[Task], folder: Path) -> None:
    """Two tables: a row a training, a row an epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            **{k: v for k, v in one.items() if k not in ("epochs", "hparams")},
            "hparams": json.dumps(one["hparams"]),
        }
        for one in trainings
    ]
    key = ("log", "config", "seed")
    epochs = [{**{k: one[k] for k in key}, **epoch} for one in trainings for epoch in one["epochs"]]
    for name, table in (("trainings", rows), ("epochs", epochs)):
        pq.write_table(pa.Table.from_pylist(table), folder / f"{name}.parquet", compression="zstd")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    drawing = steps.add_parser("draw")
    drawing.add_argument("--logs", nargs="*", choices=LOGS, default=list(CHOSEN_ON))
    drawing.add_argument("--wide", type=int, default=24)
    drawing.add_argument("--narrowed", type=int, default=36)
    training = steps.add_parser("train")
    training.add_argument("tasks", type=Path)
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--jobs", type=int, default=2)
    training.add_argument("--max-hours", type=float, default=1000.0)
    packing = steps.add_parser("pack")
    packing.add_argument("curves", type=Path, nargs="+")
    packing.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    if arguments.step == "draw":
        for task in draw(arguments.logs, arguments.wide, arguments.narrowed):
            print(json.dumps(task))
    elif arguments.step == "train":
        train_all(read(arguments.tasks), arguments.out, arguments.jobs, arguments.max_hours)
    else:
        pack([one for path in arguments.curves for one in read(path)], arguments.out)


if __name__ == "__main__":
    main()
