"""What a study of LRURec may move."""

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


def lrurec(trial: optuna.Trial) -> dict[str, Hparam]:
    return {
        "model": "lrurec",
        "hidden_dim": hidden_dim(trial),
        # Twice the width in Yue et al. 2024, 3.2: 64 to 256 for the widths above.
        "state_dim": nearest(range(64, 257, 32), log_int(trial, "state_dim", 64, 256)),
        # 2 in Yue et al. 2024; the second brought 3.4 % on ML-1M and below 1 % on Beauty.
        "num_blocks": trial.suggest_int("num_blocks", 1, 3),
        "dropout": dropout(trial),
        "max_len": max_len(trial),
        **training(trial, ["ce", "sampled_softmax"]),
    }


LRUREC_BLOCKS: dict[str, Hparam] = {"hidden_dim": 64, "state_dim": 128, "num_blocks": 2}

LRUREC_KNOWN_GOOD: list[dict[str, Hparam]] = [
    {  # Yue et al. 2024 on ML-1M: test NDCG@10 0.1930 as published
        **TRAINING_DEFAULTS,
        **LRUREC_BLOCKS,
        "weight_decay": 1e-2,
        "dropout": 0.2,
        "max_len": 200,
    },
    {  # the same on Beauty and Video, with the dropout that was best there (5.6)
        **TRAINING_DEFAULTS,
        **LRUREC_BLOCKS,
        "weight_decay": 1e-2,
        "dropout": 0.6,
        "max_len": 50,
    },
]
