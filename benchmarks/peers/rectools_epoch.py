"""RecTools' SASRec on one log: an epoch, and the top 10 of every user. See benchmarks/bench_peers.py.

Runs in an environment of its own (`make bench-peers` makes it), where this project is not installed.
The setting is that of benchmarks/cases.py, and so are the sequences: without the last two interactions.
"""

import argparse
import json
import statistics
import time
import warnings
from typing import Any, ClassVar

import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

warnings.simplefilter("ignore")


class EpochTimes(Callback):
    seconds: ClassVar[list[float]] = []  # of the class: RecTools trains with a copy of the trainer

    def on_train_epoch_start(self, *_: Any) -> None:
        self._began = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self._began)


def training_part(path: str) -> pd.DataFrame:
    """Without each user's last two interactions, where there are three or more."""
    rows = pd.read_csv(path, sep=" ", header=None, usecols=[0, 1], names=[Columns.User, Columns.Item])
    order = rows.groupby(Columns.User).cumcount()
    length = rows.groupby(Columns.User)[Columns.Item].transform("size")
    rows[Columns.Weight] = 1
    rows[Columns.Datetime] = pd.to_datetime(order, unit="s")
    return rows[(order < length - 2) | (length < 3)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--max-len", type=int, required=True)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, times = training_part(arguments.path), EpochTimes()

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=arguments.epochs + 1,  # the first one warms up
            accelerator="gpu" if arguments.device == "cuda" else "cpu",
            devices=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            enable_checkpointing=False,
            callbacks=[times],
        )

    model = SASRecModel(
        n_blocks=2,
        n_heads=1,
        n_factors=50,
        dropout_rate=0.2,
        session_max_len=arguments.max_len,
        loss="BCE",
        n_negatives=1,
        batch_size=128,
        recommend_torch_device=arguments.device,
        get_trainer_func=trainer,
    )
    dataset = Dataset.construct(rows)
    model.fit(dataset)
    users = rows[Columns.User].unique()
    began = time.perf_counter()
    ranked = model.recommend(
        users=users, dataset=dataset, k=10, filter_viewed=True, on_unsupported_targets="ignore"
    )
    seconds = time.perf_counter() - began
    num_users = int(ranked[Columns.User].nunique())
    print(
        json.dumps(
            {
                "epoch_s": round(statistics.median(times.seconds[1:]), 3),
                "rank_ms_a_user": round(1e3 * seconds / num_users, 4),
            }
        )
    )


if __name__ == "__main__":
    main()
