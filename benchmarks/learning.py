"""How well and how fast a single training learns: variants of its settings, over logs and seeds.

Each training is a process of one thread, as a trial of a search is; several run at a time. What is done is
kept and not done again: a campaign can be stopped and given more variants.

python -m benchmarks.learning --variants base seen --seeds 3 [--logs ml-100k lastfm] [--jobs 2]
python -m benchmarks.learning --show
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.record import HERE

RESULTS = HERE / "records" / "learning.jsonl"
SHARES = (0.95, 0.99)  # of the best value of the first variant: epochs until a training reaches them
Hparams = dict[str, Any]

# A part of each log that trains in minutes, and the setting that the literature has for logs of its kind.
DENSE: Hparams = {"dropout": 0.1, "max_len": 200, "batch_size": 32}
SPARSE: Hparams = {"dropout": 0.4, "max_len": 50, "batch_size": 64}
LOGS: dict[str, tuple[str, Hparams, Hparams]] = {  # path, how it is read, hparams
    "ml-100k": ("ml-100k/u.data", {}, {**DENSE, "dropout": 0.2}),
    "lastfm": ("lastfm/LastFM.txt.gz", {"format": "sequences"}, {**SPARSE, "batch_size": 32}),
    "beauty-6k": ("beauty/beauty.txt", {"max_users": 6000}, SPARSE),
    "ml-1m-1.5k": ("ml-1m/ml-1m.txt.gz", {"max_users": 1500}, DENSE),
    "games": ("games/Video.txt", {}, {**SPARSE, "batch_size": 128}),
    "beauty": ("beauty/beauty.txt", {}, {**SPARSE, "batch_size": 128}),
    "ml-1m": ("ml-1m/ml-1m.txt.gz", {}, {**DENSE, "batch_size": 128}),
}
HEADING = f"{'variant':<26}seeds {'valid':>14} {'test':>14}  +valid   +test  best  95%  99% s/epoch"
SHORT = ("ml-100k", "lastfm", "beauty-6k", "ml-1m-1.5k")
BASE: Hparams = {
    "model": "sasrec",
    "norm": "original",
    "num_heads": 1,
    "num_blocks": 2,
    "loss": "ce",
    "lr": 1e-3,
}


def log_path(name: str) -> Path:
    return Path(os.environ.get("SEQSWEEP_DATA", "../shared/data")) / LOGS[name][0]


def train_one(task: Hparams, arguments: argparse.Namespace) -> Hparams:
    """In this process. Test metrics of the best epoch by validation, and the whole curve."""
    import torch

    from data_pipeline.config import DataConfig
    from data_pipeline.prepare import prepare
    from data_pipeline.store import open_log
    from results.metrics import compute_metrics
    from sweep.evaluation import ModelScorer, ProtocolConfig, Ranker
    from sweep.hparams import typed_configs
    from sweep.training import TrainBudget, build_model, new_state, train
    from sweep.trial import open_data

    torch.set_num_threads(1)
    log, seed = task["log"], task["seed"]
    device = torch.device("cpu")
    protocol = ProtocolConfig()
    prepared = prepare(DataConfig(path=str(log_path(log)), **LOGS[log][1]), arguments.cache)
    data = open_data(open_log(prepared), protocol, device)
    model_class, model_config, config = typed_configs(task["hparams"])
    model = build_model(model_class, model_config, data.log.num_items, seed=seed, device=device)
    state = new_state(model, config)
    budget = TrainBudget(patience=arguments.patience)
    for report in train(
        state, config, budget, data.sequences, data.valid_ranker, max_epochs=arguments.max_epochs, seed=seed
    ):
        print(f"{log} {seed} {report.epoch} {report.loss:.4f} {report.objective:.4f}", file=sys.stderr)
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


def in_process(task: Hparams, arguments: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "benchmarks.learning", "--task", json.dumps(task)]
    command += ["--cache", str(arguments.cache), "--patience", str(arguments.patience)]
    command += ["--max-epochs", str(arguments.max_epochs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        print(f"{task} ended with {done.returncode}: {done.stderr[-1500:]}", flush=True)
        return
    result = json.loads(done.stdout.strip().splitlines()[-1])
    with arguments.results.open("a") as file:
        file.write(json.dumps({**task, **result}) + "\n")
    print(
        f"{time.strftime('%H:%M:%S')} {task['log']:<11} {task['variant']:<22} seed {task['seed']}: "
        f"valid {result['valid']:.4f} test {result['test']:.4f} epoch {result['best_epoch']}, "
        f"{result['seconds']} s",
        flush=True,
    )


def read(path: Path) -> list[Hparams]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def show(rows: list[Hparams]) -> None:
    """Means over the seeds, relative to the first variant of the log on the seeds that both have."""
    by_log: defaultdict[str, defaultdict[str, dict[int, Hparams]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        by_log[row["log"]][row["variant"]][row["seed"]] = row
    for log, variants in by_log.items():
        base = next(iter(variants.values()))
        best = statistics.mean(row["valid"] for row in base.values())
        print(f"\n{log}\n{HEADING}")
        for name, by_seed in variants.items():
            common = [seed for seed in by_seed if seed in base]
            gain = {
                part: _mean(by_seed[s][part] for s in common) / _mean(base[s][part] for s in common) - 1
                for part in ("valid", "test")
            }
            reached = [
                _mean(_epochs_to(row["curve"], share * best) for row in by_seed.values()) for share in SHARES
            ]
            print(
                f"{name:<26}{len(by_seed):>5} {_spread(by_seed, 'valid'):>14} {_spread(by_seed, 'test'):>14} "
                f"{gain['valid']:>+7.1%} {gain['test']:>+7.1%} "
                f"{_mean(row['best_epoch'] for row in by_seed.values()):>5.0f} "
                + " ".join(f"{value:>4.0f}" for value in reached)
                + f" {statistics.median(row['epoch_s'] for row in by_seed.values()):>7.2f}"
            )


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return statistics.mean(listed) if listed else float("nan")


def _epochs_to(curve: list[list[float]], level: float) -> float:
    return next((point[0] for point in curve if point[2] >= level), float("nan"))


def _spread(by_seed: dict[int, Hparams], part: str) -> str:
    values = [row[part] for row in by_seed.values()]
    return f"{statistics.mean(values):.4f}" + (f" ±{statistics.stdev(values):.4f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", action="append", default=[], metavar="NAME:HPARAM=VALUE,..")
    parser.add_argument("--logs", nargs="*", default=list(SHORT), choices=LOGS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--max-epochs", type=int, default=100)
    parser.add_argument("--patience", type=int, default=10)
    parser.add_argument("--cache", type=Path, default=Path("/tmp/seqsweep-learning"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task is not None:
        print(json.dumps(train_one(arguments.task, arguments)))
        return
    if arguments.show:
        show(read(arguments.results))
        return
    from sweep.arguments import pairs

    done = {(row["log"], row["variant"], row["seed"]) for row in read(arguments.results)}
    tasks = []
    for seed in arguments.seeds:
        for text in arguments.variant:
            name, _, words = text.partition(":")
            own = pairs([word for word in words.split(",") if word], "--variant")
            for log in arguments.logs:
                if (log, name, seed) not in done:
                    hparams = {**BASE, **LOGS[log][2], **own}
                    tasks.append({"log": log, "variant": name, "seed": seed, "hparams": hparams})
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda task: in_process(task, arguments), tasks))
    show(read(arguments.results))


if __name__ == "__main__":
    main()
