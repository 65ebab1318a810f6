"""How well and how fast a single training learns: variants of its settings, over logs and seeds.

Each training is a process of one thread, as a trial of a search is; --jobs of them run at a time. Finished
trainings are kept in --trainings with their curves and not repeated, so a campaign can be interrupted and
given more variants. Settings that a variant does not name are those of `BASE` and of the log.

"Reach" is the epoch at which a training first has 95 % (99 %) of what the log's first variant has in the end.

python -m benchmarks.learning --variant base: --variant seen:exclude_seen=true [--logs ml-100k] [--seeds 0 1]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import HERE, Row, add_folder, show, write
from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.preparing.prepare import prepare
from seqsweep.data_pipeline.store import open_log
from seqsweep.results.metrics import compute_metrics
from seqsweep.sweep.cli.flags import pairs
from seqsweep.sweep.engine.hparams import known_keys, typed_configs
from seqsweep.sweep.engine.opened_log import open_data
from seqsweep.sweep.engine.ranking import ModelScorer, Ranker
from seqsweep.sweep.engine.state import build_model, new_state
from seqsweep.sweep.engine.training import train
from seqsweep.sweep.settings.budgets import TrainBudget
from seqsweep.sweep.settings.protocol import ProtocolConfig

TRAININGS = HERE / "records" / "learning.jsonl"
Hparams = dict[str, Any]


@dataclass(frozen=True)
class Log:
    """A log, or a part of one that trains in minutes, and the setting the literature has for its kind."""

    path: str
    hparams: Hparams
    read: Hparams = field(default_factory=dict)


DENSE: Hparams = {"dropout": 0.1, "max_len": 200, "batch_size": 32}
SPARSE: Hparams = {"dropout": 0.4, "max_len": 50, "batch_size": 64}
LOGS = {
    "demo": Log("demo", {**DENSE, "max_len": 50}),
    "ml-100k": Log("ml-100k/u.data", {**DENSE, "dropout": 0.2}),
    "lastfm": Log("lastfm/LastFM.txt.gz", {**SPARSE, "batch_size": 32}, {"format": "sequences"}),
    "beauty-6k": Log("beauty/beauty.txt", SPARSE, {"max_users": 6000}),
    "ml-1m-1.5k": Log("ml-1m/ml-1m.txt.gz", DENSE, {"max_users": 1500}),
    "games": Log("games/Video.txt", {**SPARSE, "batch_size": 128}),
    "beauty": Log("beauty/beauty.txt", {**SPARSE, "batch_size": 128}),
    "ml-1m": Log("ml-1m/ml-1m.txt.gz", {**DENSE, "batch_size": 128}),
}
SHORT = ("ml-100k", "lastfm", "beauty-6k", "ml-1m-1.5k")
BASE: Hparams = {
    "model": "sasrec",
    "norm": "original",
    "num_heads": 1,
    "num_blocks": 2,
    "loss": "ce",
    "lr": 1e-3,
}


def train_one(task: Hparams, arguments: argparse.Namespace) -> Row:
    """Train in this process; return the test metrics of the best epoch by validation, and the curve."""
    torch.set_num_threads(1)
    log, seed, device, protocol = LOGS[task["log"]], task["seed"], torch.device("cpu"), ProtocolConfig()
    folder = Path(os.environ.get("SEQSWEEP_DATA", "../shared/data"))
    path = log.path if log.path == "demo" else str(folder / log.path)
    with tempfile.TemporaryDirectory() as cache:
        data = open_data(open_log(prepare(DataConfig(path=path, **log.read), Path(cache))), protocol, device)
        model_class, model_config, config = typed_configs(task["hparams"])
        model = build_model(model_class, model_config, data.log.num_items, seed=seed, device=device)
        state = new_state(model, config)
        for report in train(
            state,
            config,
            TrainBudget(patience=arguments.patience),
            data.sequences,
            data.valid_ranker,
            max_epochs=arguments.max_epochs,
            seed=seed,
        ):
            print(f"{task['log']} {seed} {report.epoch} {report.objective:.4f}", file=sys.stderr, flush=True)
        state.model.load_state_dict(state.best_weights)
        state.model.eval()
        ranker = Ranker(data.log, data.sequences, data.split.test, protocol, "test")
        test = compute_metrics(ranker.rank(ModelScorer(state.model)))
    return {
        "best_epoch": state.best.epoch,
        "epochs": state.epoch,
        "valid": round(state.best.objective, 5),
        "test": round(test["ndcg@10"], 5),
        "test_hr": round(test["hr@10"], 5),
        "seconds": round(sum(r.seconds + r.eval_seconds for r in state.reports), 1),
        "epoch_s": round(sum(r.seconds for r in state.reports) / state.epoch, 3),
        "curve": [[r.epoch, round(r.loss, 4), round(r.objective, 5)] for r in state.reports],
    }


def _hparams(log: str, own: Hparams) -> Hparams:
    """Complete a variant's settings by those of the log and of `BASE` that its family has."""
    usual = {**BASE, **LOGS[log].hparams}
    known = known_keys(str(own.get("model", BASE["model"])))
    return {"model": BASE["model"], **{key: usual[key] for key in usual if key in known}, **own}


def in_process(task: Hparams, arguments: argparse.Namespace) -> None:
    """Run `train_one` in a process of its own, and keep what it returns."""
    command = [sys.executable, "-m", "benchmarks.learning", "--task", json.dumps(task)]
    command += ["--patience", str(arguments.patience), "--max-epochs", str(arguments.max_epochs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{task} ended with {done.returncode}: {done.stderr[-1500:]}", flush=True)
        return
    result = {**task, **json.loads(done.stdout.strip().splitlines()[-1])}
    with arguments.trainings.open("a") as file:
        file.write(json.dumps(result) + "\n")
    show({key: result[key] for key in ("log", "variant", "seed", "valid", "test", "best_epoch", "seconds")})


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def summary(trainings: list[Row]) -> list[Row]:
    """Means over the seeds; gains over the log's first variant on the seeds that both have."""
    by_log: defaultdict[str, defaultdict[str, dict[int, Row]]] = defaultdict(lambda: defaultdict(dict))
    for training in trainings:
        by_log[training["log"]][training["variant"]][training["seed"]] = training
    rows = []
    for log, variants in by_log.items():
        first = next(iter(variants.values()))
        level = _mean(training["valid"] for training in first.values())
        for variant, by_seed in variants.items():
            both = sorted(first.keys() & by_seed.keys())
            rows.append(
                {
                    "log": log,
                    "variant": variant,
                    "seeds": len(by_seed),
                    **{part: _spread(t[part] for t in by_seed.values()) for part in ("valid", "test")},
                    **{f"{part}_gain": _gain(first, by_seed, both, part) for part in ("valid", "test")},
                    "best_epoch": round(_mean(t["best_epoch"] for t in by_seed.values())),
                    **{
                        f"reach_{share}_%": _reach(by_seed.values(), level * share / 100)
                        for share in (95, 99)
                    },
                    "epoch_s": round(statistics.median(t["epoch_s"] for t in by_seed.values()), 2),
                }
            )
    return rows


def _gain(first: dict[int, Row], other: dict[int, Row], seeds: list[int], part: str) -> str | None:
    if first is other or not seeds:
        return None
    return f"{_mean(other[s][part] for s in seeds) / _mean(first[s][part] for s in seeds) - 1:+.1%}"


def _reach(trainings: Iterable[Row], level: float) -> int | None:
    """Average the epochs at which the level is reached; None if a training never reaches it."""
    epochs = [next((point[0] for point in t["curve"] if point[2] >= level), None) for t in trainings]
    reached = [epoch for epoch in epochs if epoch is not None]
    return round(_mean(reached)) if len(reached) == len(epochs) else None


def _mean(values: Iterable[float]) -> float:
    return statistics.mean(values)


def _spread(values: Iterable[float]) -> str:
    numbers = list(values)
    return f"{_mean(numbers):.4f}" + (f" ± {statistics.stdev(numbers):.4f}" if len(numbers) > 1 else "")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", action="append", default=[], metavar="NAME:HPARAM=VALUE,..")
    parser.add_argument("--logs", nargs="*", default=list(SHORT), choices=LOGS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--max-epochs", type=int, default=100)
    parser.add_argument("--patience", type=int, default=10)
    parser.add_argument("--trainings", type=Path, default=TRAININGS)
    add_folder(parser)
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.task is not None:
        print(json.dumps(train_one(arguments.task, arguments)))
        return
    done = {(t["log"], t["variant"], t["seed"]) for t in read(arguments.trainings)}
    tasks = []
    for seed in arguments.seeds:
        for text in arguments.variant:
            variant, _, words = text.partition(":")
            own = pairs([word for word in words.split(",") if word], "--variant")
            for log in arguments.logs:
                if (log, variant, seed) not in done:
                    tasks.append(
                        {"log": log, "variant": variant, "seed": seed, "hparams": _hparams(log, own)}
                    )
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda task: in_process(task, arguments), tasks))
    rows = summary(read(arguments.trainings))
    for row in rows:
        show(row)
    variants = {t["variant"]: t["hparams"] for t in read(arguments.trainings)}
    arguments.task = arguments.variant = None
    write("learning", rows, arguments, variants={name: str(hparams) for name, hparams in variants.items()})


if __name__ == "__main__":
    main()
