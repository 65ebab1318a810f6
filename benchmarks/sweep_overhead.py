"""What a trial costs beyond its training: the slope in seconds between 20 and 120 trials of nothing.

python benchmarks/sweep_overhead.py [--few 20] [--many 120]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna

from sweep.cluster import connect
from sweep.config import HardwareConfig
from sweep.study import SearchConfig, Study
from sweep.tuner import run_trials


def trivial(config: dict[str, Any]) -> None:
    from ray import tune  # not at the top: sweep sets Ray's authentication before Ray is imported

    for epoch in (1, 2, 3):
        tune.report({"epoch": epoch, "objective": config["request"]["hparams"]["x"] * epoch})


def space(trial: optuna.Trial) -> dict[str, int | float | str | bool]:
    return {"model": "none", "x": trial.suggest_float("x", 0, 1)}


def seconds(trials: int, folder: Path) -> float:
    search = SearchConfig(trials=trials, max_epochs=3)
    with Study.open(folder / str(trials), name="overhead", seed=0, search=search, space=space) as study:
        started = time.perf_counter()
        run_trials(
            study,
            trivial,
            resources={"CPU": 1},
            concurrency=lambda: 2,
            folder=folder / str(trials),
            on_step=lambda: None,
        )
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=20)
    parser.add_argument("--many", type=int, default=120)
    arguments = parser.parse_args()
    with connect(HardwareConfig()), tempfile.TemporaryDirectory() as folder:
        few, many = (seconds(trials, Path(folder)) for trials in (arguments.few, arguments.many))
    slope = (many - few) / (arguments.many - arguments.few)
    print(json.dumps({"few_s": round(few, 2), "many_s": round(many, 2), "slope_s_a_trial": round(slope, 4)}))


if __name__ == "__main__":
    main()
