"""What a trial costs beyond its training: the slope in seconds between 20 and 120 trials of nothing.

The floor is zero: all of it is overhead.

python -m benchmarks.sweep_overhead [--few 20] [--many 120] [--repeats 3]
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna

from benchmarks.record import add_folder, measured, show, write
from seqsweep.sweep.cluster.connect import connect
from seqsweep.sweep.cluster.tune_run import run_trials
from seqsweep.sweep.settings.search import SearchConfig
from seqsweep.sweep.settings.study_config import HardwareConfig
from seqsweep.sweep.study.study import Study


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


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--few", type=int, default=20)
    parser.add_argument("--many", type=int, default=120)
    parser.add_argument("--repeats", type=int, default=3)
    add_folder(parser)
    arguments = parser.parse_args(argv)
    pairs = []
    with connect(HardwareConfig(), print), tempfile.TemporaryDirectory() as folder:
        for repeat in range(arguments.repeats):
            of_repeat = Path(folder) / str(repeat)
            few, many = (seconds(trials, of_repeat) for trials in (arguments.few, arguments.many))
            pairs.append((few, many))
    row = {
        "few_trials": arguments.few,
        "few_s": measured((few for few, _ in pairs), digits=2),
        "many_trials": arguments.many,
        "many_s": measured((many for _, many in pairs), digits=2),
        "seconds_a_trial": measured(
            ((many - few) / (arguments.many - arguments.few) for few, many in pairs), digits=4
        ),
    }
    show(row)
    write("sweep_overhead", [row], arguments)


if __name__ == "__main__":
    main()
