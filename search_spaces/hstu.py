"""What a study of HSTU may move. `target_time` is left out: it tells the model when the answer happens."""

from __future__ import annotations

import optuna

from seqsweep.search_spaces.common_hparams import (
    TRAINING_DEFAULTS,
    Hparam,
    dropout,
    hidden_dim,
    max_len,
    num_heads,
    position_std,
    training,
)


def hstu(trial: optuna.Trial) -> dict[str, Hparam]:
    return {
        "model": "hstu",
        "hidden_dim": hidden_dim(trial),
        # 2 in Zhai et al. 2024 on ML-1M, 8 in its large variant: too much for the logs at hand.
        "num_blocks": trial.suggest_int("num_blocks", 1, 4),
        "num_heads": num_heads(trial),
        "dropout": dropout(trial),
        "max_len": max_len(trial),
        "position_std": position_std(trial),
        **training(trial, ["ce", "sampled_softmax"]),
    }


HSTU_KNOWN_GOOD: list[dict[str, Hparam]] = [
    {  # Zhai et al. 2024 on ML-1M (width 50, 2 blocks, 1 head), with cross-entropy over the catalogue
        **TRAINING_DEFAULTS,
        "hidden_dim": 48,
        "num_blocks": 2,
        "num_heads": 1,
        "position_std": 0.02,
        "dropout": 0.2,
        "max_len": 200,
    },
]
