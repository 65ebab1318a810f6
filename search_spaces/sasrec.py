"""What a study of SASRec may move: plain, with gated residuals, or with hyper-connections."""

from __future__ import annotations

import optuna

from search_spaces.shared import (
    TRAINING_DEFAULTS,
    Hparam,
    dropout,
    hidden_dim,
    max_len,
    num_heads,
    position_std,
    residual,
    training,
)

# bce is the paper's, with one negative a position (more are gbce with t = 0); gbce gSASRec's,
# sampled_softmax eSASRec's; ce is best up to some 10,000 items.
SASREC_LOSSES = ["ce", "sampled_softmax", "gbce", "bce"]


def sasrec(trial: optuna.Trial) -> dict[str, Hparam]:
    return {
        "model": "sasrec",
        "hidden_dim": hidden_dim(trial),
        "num_heads": num_heads(trial),
        "dropout": dropout(trial),
        "max_len": max_len(trial),
        "position_std": position_std(trial),
        **residual(trial),
        **training(trial, SASREC_LOSSES),
    }


SASREC_KNOWN_GOOD: list[dict[str, Hparam]] = [
    {  # SASRec with cross-entropy over the catalogue, ML-1M
        **TRAINING_DEFAULTS,
        "hidden_dim": 64,
        "num_blocks": 2,
        "num_heads": 2,
        "position_std": 0.15,
        "dropout": 0.1,
        "residual": "plain",
        "norm": "pre",
        "max_len": 200,
    },
    {  # the same with hyper-connections
        **TRAINING_DEFAULTS,
        "hidden_dim": 64,
        "num_blocks": 2,
        "num_heads": 2,
        "position_std": 0.15,
        "dropout": 0.1,
        "residual": "mhc",
        "num_streams": 4,
        "max_len": 200,
    },
    {  # gSASRec, ML-1M
        **TRAINING_DEFAULTS,
        "hidden_dim": 128,
        "num_blocks": 3,
        "num_heads": 1,
        "position_std": 0.15,
        "dropout": 0.5,
        "residual": "plain",
        "norm": "original",
        "max_len": 200,
        "loss": "gbce",
        "num_negatives": 256,
        "gbce_t": 0.75,
    },
    {  # sparse Amazon data, where dropouts of .2 to .6 are in use; lr and negatives as measured on Games
        **TRAINING_DEFAULTS,
        "lr": 3e-3,
        "hidden_dim": 64,
        "num_blocks": 1,
        "num_heads": 1,
        "position_std": 0.15,
        "dropout": 0.4,
        "residual": "plain",
        "norm": "pre",
        "max_len": 50,
        "loss": "sampled_softmax",
        "num_negatives": 512,
        "popularity_power": 0.5,
    },
]
