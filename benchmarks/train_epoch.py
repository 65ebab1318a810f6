"""Seconds of one training epoch of SASRec beside its floor, on real logs, or the generated one without any.

2 blocks, batches of 128, dropout .2; bce has one negative and ce the whole catalogue. An epoch before the
measured ones warms up.

python -m benchmarks.train_epoch [--cases games-bce ml-1m-bce ml-1m-ce ml-100k-ce] [--repeats 3] [--threads 2]
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import torch

from benchmarks.cases import (
    BATCH_SIZE,
    NUM_BLOCKS,
    TRAINED,
    Case,
    chosen,
    few_users,
    model_of,
    open_case,
)
from benchmarks.floor import epoch_floor, training_lengths
from benchmarks.record import Row, add_settings, measured, set_up, show, write
from seqsweep.sweep.engine.training import train
from seqsweep.sweep.settings.budgets import TrainBudget


def measure(name: str, case: Case, repeats: int, device: torch.device, cache: Path) -> Row:
    data = open_case(case, cache, device)
    state, config = model_of(case, data, device)
    max_epochs = repeats + 1
    budget = TrainBudget(patience=max_epochs, eval_schedule="every")
    reports = list(
        train(state, config, budget, data.sequences, few_users(data), max_epochs=max_epochs, seed=0)
    )
    # Where not every epoch is reported, a report's seconds are those of all epochs since the last one.
    epoch_s = [now.seconds / (now.epoch - before.epoch) for before, now in itertools.pairwise(reports)]
    floor = epoch_floor(
        data.log,
        data.split.train_end_U,
        max_len=case.max_len,
        width=case.hidden_dim,
        num_blocks=NUM_BLOCKS,
        batch_size=BATCH_SIZE,
        num_parameters=state.num_parameters,
        num_negatives=case.num_negatives,
        device=device,
    )
    seconds = measured(epoch_s)
    return {
        "case": name,
        "users": data.log.num_users,
        "items": data.log.num_items,
        "targets": int(training_lengths(data.log, data.split.train_end_U, case.max_len).sum()),
        "max_len": case.max_len,
        "width": case.hidden_dim,
        "epoch_s": seconds,
        "floor_operations_s": round(floor.operations_s, 3),
        "floor_memory_s": round(floor.memory_s, 3),
        "share_of_floor": floor.share(seconds["median"]),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="*", choices=TRAINED)
    add_settings(parser, repeats=3)
    arguments = parser.parse_args(argv)
    device = set_up(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for name, case in chosen(TRAINED, arguments.cases).items():
            rows.append(measure(name, case, arguments.repeats, device, Path(cache)))
            show(rows[-1])
    write("train_epoch", rows, arguments, device=device)


if __name__ == "__main__":
    main()
