"""RecTools' training of SASRec, validated after every epoch; see benchmarks/time_to_quality.py.

Runs in an environment of its own (`make bench-peers` makes it), where this project is not installed. The log,
the lines that are printed and the metric are those of textbook_quality.py. Of the model the sizes are given;
all else is RecTools' default: cross-entropy over the catalogue (its "softmax"), batches of 128, Adam at 1e-3,
Xavier-normal weights.

RecTools knows the items that occur in the windows it trains on. Others are left out of the histories and
never stand above a target; a target among them gains nothing.
"""

import argparse
import warnings

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from textbook_quality import (
    Epochs,
    HeldOut,
    Validation,
    add_settings,
    held_out,
    read_sequences,
    training_part,
)

warnings.simplefilter("ignore")


class Validate(Callback):
    """After every epoch. RecTools trains with a copy of the trainer, and so of this: it holds no model."""

    def __init__(self, users: HeldOut, num_items: int, max_len: int, epochs: Epochs) -> None:
        self._users, self._num_items, self._max_len, self._epochs = users, num_items, max_len, epochs

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        column_of = np.zeros(self._num_items + 1, np.int64)  # of an item in RecTools' scores; 0 is padding
        known = module.data_preparator.get_known_item_ids().astype(np.int64)
        column_of[known] = np.arange(1, len(known) + 1)
        users = [(column_of[history], int(column_of[target])) for history, target in self._users]
        users = [(history[history > 0], target) for history, target in users]
        self._validation = Validation(users, self._max_len, module.device)
        self._epochs.begin()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        trainer.should_stop = self._epochs.end(lambda: self._ndcg(module))

    def _ndcg(self, module: LightningModule) -> float:
        """By the scores that `recommend` ranks by."""
        model, similarity = module.torch_model, module.torch_model.similarity_module
        model.eval()
        with torch.inference_mode():
            item_VD = model.item_model.get_all_embeddings()

        def score(item_BL: torch.Tensor) -> torch.Tensor:
            state_BD = model.encode_sessions({"x": item_BL}, item_VD)[:, -1]
            return similarity.session_tower_forward(state_BD) @ similarity.item_tower_forward(item_VD).T

        ndcg = self._validation.ndcg(score)
        model.train()
        return ndcg


def interactions(sequences: list[np.ndarray]) -> pd.DataFrame:
    """As RecTools takes them; the time is the place in the sequence."""
    lengths = [len(sequence) for sequence in sequences]
    place = np.concatenate([np.arange(length) for length in lengths])
    return pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(sequences)), lengths),
            Columns.Item: np.concatenate(sequences),
            Columns.Weight: 1,
            Columns.Datetime: pd.to_datetime(place, unit="s"),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_settings(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    seed_everything(arguments.seed, verbose=False)
    sequences = read_sequences(arguments.path)
    num_items = int(max(sequence.max() for sequence in sequences))
    epochs = Epochs(arguments.max_epochs, arguments.patience, torch.device(arguments.device))

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=arguments.max_epochs,
            accelerator="gpu" if arguments.device == "cuda" else "cpu",
            devices=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            enable_checkpointing=False,
            callbacks=[Validate(held_out(sequences), num_items, arguments.max_len, epochs)],
        )

    model = SASRecModel(
        n_blocks=arguments.num_blocks,
        n_heads=arguments.num_heads,
        n_factors=arguments.hidden_dim,
        dropout_rate=arguments.dropout,
        session_max_len=arguments.max_len,
        get_trainer_func=trainer,
    )
    model.fit(Dataset.construct(interactions(training_part(sequences))))


if __name__ == "__main__":
    main()
