"""The same trials with and without pruning: epochs, device seconds and wall time spent, best value found.

Each is a `seqsweep run` with the same seed, in turns. The sampler learns from what was pruned, so that after
the first trials the two go different ways; --sampler random makes all trials the same ones.

python -m benchmarks.pruning [--data demo] [--trials 40] [--models sasrec] [--repeats 1]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.record import add_folder, write
from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.preparing.prepare import prepare
from seqsweep.results.leaderboard import EPOCHS_FILE, LEADERBOARD_FILE

PRUNERS = ("none", "asha")


def measure(pruner: str, folder: Path, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    settings = {
        "name": pruner,
        "data": arguments.data,
        "models": arguments.models,
        "trials": arguments.trials,
        "max-epochs": arguments.max_epochs,
        "patience": arguments.patience,
        "sampler": arguments.sampler,
        "pruner": pruner,
        "finalists": 0,
        "seed": seed,
        "runs": folder,
        "cache": folder.parent / "cache",
    }
    command = [sys.executable, "-m", "seqsweep", "run"]
    command += [f"--{name}={value}" for name, value in settings.items()]
    command += [f"--fix={pin}" for pin in arguments.fix]
    started = time.perf_counter()
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wall_s = time.perf_counter() - started
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {run.returncode}: {run.stdout}")
    epochs = pd.read_parquet(folder / pruner / EPOCHS_FILE)
    leaderboard = pd.read_parquet(folder / pruner / LEADERBOARD_FILE)
    trials = leaderboard[leaderboard.trial.notna()].sort_values("objective", ascending=False)
    return {
        "epochs": int(epochs.groupby("trial").epoch.max().sum()),
        "device_s": round(float(trials.device_seconds.sum()), 1),
        "wall_s": round(wall_s, 1),
        "best": round(float(trials.objective.max()), 4),
        "best_trial": int(trials.trial.iloc[0]),
        "states": trials.state.value_counts().to_dict(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="demo")
    parser.add_argument("--models", default="sasrec")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--max-epochs", type=int, default=100)
    parser.add_argument("--patience", type=int, default=10)
    parser.add_argument("--sampler", default="auto")
    parser.add_argument("--fix", action="append", default=[], metavar="HPARAM=VALUE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=1)
    add_folder(parser)
    arguments = parser.parse_args()
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        prepare(DataConfig(path=arguments.data), Path(folder) / "cache")
        for repeat in range(arguments.repeats):
            order = PRUNERS[:: 1 if repeat % 2 == 0 else -1]
            of_repeat = Path(folder) / str(repeat)
            pairs.append(
                {name: measure(name, of_repeat, arguments.seed + repeat, arguments) for name in order}
            )
            print(json.dumps(pairs[-1]), flush=True)
    ratios = {
        key: round(statistics.median(pair["asha"][key] / pair["none"][key] for pair in pairs), 3)
        for key in ("epochs", "device_s", "wall_s", "best")
    }
    rows = [
        {"repeat": number, "pruner": name, **pair[name]}
        for number, pair in enumerate(pairs)
        for name in PRUNERS
    ]
    write("pruning", rows, arguments, asha_to_none=ratios)


if __name__ == "__main__":
    main()
