"""What a study of SASRec may move: plain, with gated residuals, or with hyper-connections."""

from __future__ import annotations

import optuna

from seqsweep.search_spaces.common_hparams import (
    TRAINING_DEFAULTS,
    Hparam,
    dropout,
    feed_forward,
    hidden_dim,
    max_len,
    num_heads,
    position_std,
    residual,
    training,
)

# gbce is gSASRec's, sampled_softmax eSASRec's; ce is best where it can be afforded. bce, the papers' with one
# negative a position, can be pinned: it was best nowhere (more negatives are gbce with t = 0).
SASREC_LOSSES = ["ce", "sampled_softmax", "gbce"]


def sasrec(trial: optuna.Trial) -> dict[str, Hparam]:
    return {
        "model": "sasrec",
        "hidden_dim": hidden_dim(trial),
        "num_heads": num_heads(trial),
        "dropout": dropout(trial),
        "max_len": max_len(trial),
        "position_std": position_std(trial),
        # Xavier was better on ML-100K (+10 % valid) and Beauty (+4 %), normal on LastFM (+10 %).
        "init": trial.suggest_categorical("init", ["normal", "xavier"]),
        **residual(trial),
        **feed_forward(trial),
        **training(trial, SASREC_LOSSES),
    }


SASREC_BLOCKS: dict[str, Hparam] = {
    "hidden_dim": 64,
    "num_blocks": 2,
    "num_heads": 1,
    "position_std": 0.02,
    "init": "xavier",
    "residual": "plain",
    "norm": "original",
    "ffn_multiplier": 1,
    "activation": "relu",
}

SASREC_KNOWN_GOOD: list[dict[str, Hparam]] = [
    {  # Klenitskiy and Vasilev 2023, but without seen items, over all windows and with Kang and McAuley's
        # dropout: 0.1 was worse on ML-100K (docs/decisions.md)
        **TRAINING_DEFAULTS,
        **SASREC_BLOCKS,
        "dropout": 0.2,
        "max_len": 200,
        "window": "all",
        "exclude_seen": True,
    },
    {  # the same with the dropout that sparse logs are given (LRURec, eSASRec)
        **TRAINING_DEFAULTS,
        **SASREC_BLOCKS,
        "dropout": 0.4,
        "max_len": 50,
    },
    {  # with hyper-connections
        **TRAINING_DEFAULTS,
        **{key: value for key, value in SASREC_BLOCKS.items() if key != "norm"},
        "dropout": 0.1,
        "init": "normal",
        "residual": "mhc",
        "num_streams": 4,
        "max_len": 200,
        "window": "all",
        "exclude_seen": True,
    },
    {  # eSASRec's block: gated, SwiGLU, wide
        **TRAINING_DEFAULTS,
        **{key: value for key, value in SASREC_BLOCKS.items() if key != "norm"},
        "dropout": 0.3,
        "residual": "gated",
        "ffn_multiplier": 4,
        "activation": "swiglu",
        "max_len": 50,
    },
    {  # gSASRec, ML-1M
        **TRAINING_DEFAULTS,
        **SASREC_BLOCKS,
        "hidden_dim": 128,
        "num_blocks": 3,
        "dropout": 0.5,
        "max_len": 200,
        "loss": "gbce",
        "num_negatives": 256,
        "gbce_t": 0.75,
    },
    {  # sparse data with many items: lr and negatives as measured on Games
        **TRAINING_DEFAULTS,
        **SASREC_BLOCKS,
        "lr": 3e-3,
        "dropout": 0.4,
        "max_len": 50,
        "loss": "sampled_softmax",
        "num_negatives": 2048,
        "popularity_power": 0.5,
    },
]
