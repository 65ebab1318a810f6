"""How an epoch, a ranking of all users and memory grow: users x 10, items x 10, length x 4, width x 4.

Generated logs and SASRec with 2 blocks, each case in a process of its own. Cases take turns, so that a busy
hour slows all; ratios are those of the medians to the base case. Memory is the peak above what the process
held with its log open.

python -m benchmarks.growth [--losses bce ce] [--repeats 3] [--users 2000] [--threads 2]
"""

import argparse
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.floor import epoch_floor, ranking_floor
from benchmarks.generated import prepared_log
from benchmarks.record import (
    Row,
    add_settings,
    choose_device,
    held_bytes,
    in_child,
    measured,
    peak_bytes,
    prepare_process,
    show,
    write,
)
from seqsweep.data_pipeline.store import open_log
from seqsweep.models.sasrec import SASRec, SASRecConfig
from seqsweep.sweep.engine.hparams import TrainConfig
from seqsweep.sweep.engine.opened_log import open_data
from seqsweep.sweep.engine.state import build_model, new_state
from seqsweep.sweep.engine.training import train
from seqsweep.sweep.settings.budgets import TrainBudget
from seqsweep.sweep.settings.protocol import ProtocolConfig

NUM_BLOCKS = 2
MEASURES = ("epoch_s", "rank_s", "peak_mb")


@dataclass(frozen=True)
class Size:
    users: int
    items: int
    length: int
    width: int


def cases(base: Size) -> dict[str, Size]:
    return {
        "base": base,
        "users x 10": replace(base, users=10 * base.users),
        "items x 10": replace(base, items=10 * base.items),
        "length x 4": replace(base, length=4 * base.length),
        "width x 4": replace(base, width=4 * base.width),
    }


def measure(size: Size, loss: str, prepared: Path, device: torch.device, threads: int) -> dict[str, float]:
    """In a process of its own: an epoch warms up, the next one counts."""
    prepare_process(device, threads)
    log = open_log(prepared)
    data = open_data(log, ProtocolConfig(), device)
    before = held_bytes(device)
    model_config = SASRecConfig(
        hidden_dim=size.width, num_blocks=NUM_BLOCKS, max_len=size.length, dropout=0.2
    )
    config = TrainConfig(loss=loss, num_negatives=1, batch_size=128)
    state = new_state(build_model(SASRec, model_config, log.num_items, seed=0, device=device), config)
    budget = TrainBudget(patience=2)
    reports = train(state, config, budget, data.sequences, data.valid_ranker, max_epochs=2, seed=0)
    last = list(reports)[-1]
    peak = peak_bytes(device) - before  # before the floors, which take memory of their own
    shape: dict[str, Any] = {"width": size.width, "num_blocks": NUM_BLOCKS, "device": device}
    training = epoch_floor(
        log,
        data.split.train_end_U,
        max_len=size.length,
        batch_size=config.batch_size,
        num_parameters=state.num_parameters,
        num_negatives=None if loss == "ce" else config.num_negatives,
        **shape,
    )
    history_U = np.full(len(data.valid_ranker.user_id_U), size.length - 2)
    ranking = ranking_floor(history_U, num_items=log.num_items, **shape)
    return {
        "epoch_s": last.seconds,
        "rank_s": last.eval_seconds,
        "peak_mb": peak / 1e6,
        "epoch_floor": training.seconds / last.seconds,
        "rank_floor": ranking.seconds / last.eval_seconds,
    }


def grown(
    logs: dict[str, Path], sizes: dict[str, Size], loss: str, repeats: int, *settings: Any
) -> list[Row]:
    names = list(logs)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            runs[name].append(in_child(measure, sizes[name], loss, logs[name], *settings))
    rows = []
    base = {key: statistics.median(run[key] for run in runs["base"]) for key in MEASURES}
    for name in names:
        row: Row = {"loss": loss, "case": name, **vars(sizes[name])}
        for key in MEASURES:
            row[key] = measured((run[key] for run in runs[name]), digits=2)
        for key in MEASURES:
            ratio = statistics.median(run[key] for run in runs[name]) / base[key]
            row[f"{key.rpartition('_')[0]}_ratio"] = round(ratio, 2)
        for key in ("epoch_floor", "rank_floor"):
            share = statistics.median(run[key] for run in runs[name])
            row[f"{key.partition('_')[0]}_share_of_floor"] = f"{100 * share:.3g} %"
        rows.append(row)
        show(row)
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("users", 2000), ("items", 2000), ("length", 50), ("width", 32)):
        parser.add_argument(f"--{name}", type=int, default=default, help="of the base case")
    parser.add_argument("--losses", nargs="*", choices=("bce", "ce"), default=["bce", "ce"])
    parser.add_argument("--cases", nargs="*", choices=list(cases(Size(1, 1, 1, 1)))[1:], help="else all")
    add_settings(parser, repeats=3)
    arguments = parser.parse_args(argv)
    sizes = cases(Size(arguments.users, arguments.items, arguments.length, arguments.width))
    names = ["base", *(arguments.cases if arguments.cases else list(sizes)[1:])]
    device = choose_device(arguments.device)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        logs = {
            name: in_child(
                prepared_log, Path(folder), sizes[name].users, sizes[name].items, sizes[name].length
            )
            for name in names
        }
        for loss in arguments.losses:
            rows += grown(logs, sizes, loss, arguments.repeats, device, arguments.threads)
    write("growth", rows, arguments, device=device)


if __name__ == "__main__":
    main()
