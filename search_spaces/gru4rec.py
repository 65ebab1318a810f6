"""What a study of GRU4Rec may move."""

from __future__ import annotations

import optuna

from seqsweep.search_spaces.common_hparams import (
    TRAINING_DEFAULTS,
    Hparam,
    dropout,
    hidden_dim,
    log_int,
    max_len,
    nearest,
    training,
)


def gru4rec(trial: optuna.Trial) -> dict[str, Hparam]:
    return {
        "model": "gru4rec",
        "hidden_dim": hidden_dim(trial),
        # 100 in Hidasi et al. 2016, to 512 in the settings its authors published for larger logs.
        "gru_dim": nearest(range(64, 513, 32), log_int(trial, "gru_dim", 64, 512)),
        # One layer was best in Hidasi et al. 2016, 3.3; a second one helps some long histories.
        "num_layers": trial.suggest_int("num_layers", 1, 2),
        "dropout": dropout(trial),
        "max_len": max_len(trial),
        # bpr_max and top1_max are Hidasi and Karatzoglou's of 2018; ce what third parties found better.
        **training(trial, ["ce", "bpr_max", "top1_max", "sampled_softmax"]),
    }


GRU4REC_KNOWN_GOOD: list[dict[str, Hparam]] = [
    {  # cross-entropy over the catalogue, one layer
        **TRAINING_DEFAULTS,
        "hidden_dim": 64,
        "gru_dim": 128,
        "num_layers": 1,
        "dropout": 0.2,
        "max_len": 200,
    },
    {  # Hidasi and Karatzoglou 2018: bpr-max, negatives partly by popularity
        **TRAINING_DEFAULTS,
        "hidden_dim": 96,
        "gru_dim": 96,
        "num_layers": 1,
        "dropout": 0.2,
        "max_len": 50,
        "loss": "bpr_max",
        "num_negatives": 512,
        "popularity_power": 0.5,
        "score_penalty": 1.0,
    },
]
