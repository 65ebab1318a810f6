"""What a study of TiSASRec may move: SASRec's space and the span of its intervals."""

from __future__ import annotations

import optuna

from seqsweep.search_spaces.common_hparams import (
    TRAINING_DEFAULTS,
    Hparam,
    dropout,
    feed_forward,
    hidden_dim,
    log_int,
    max_len,
    nearest,
    num_heads,
    residual,
    training,
)
from seqsweep.search_spaces.sasrec import SASREC_LOSSES


def tisasrec(trial: optuna.Trial) -> dict[str, Hparam]:
    return {
        "model": "tisasrec",
        "hidden_dim": hidden_dim(trial),
        "num_heads": num_heads(trial),
        "dropout": dropout(trial),
        "max_len": max_len(trial),
        # Li et al. 2020, 4.5: 256 on ML-1M, 512 on Beauty and Games, best values between 64 and 2,048.
        "time_span": nearest((64, 128, 256, 512), log_int(trial, "time_span", 64, 512)),
        **residual(trial),
        **feed_forward(trial),
        **training(trial, SASREC_LOSSES),
    }


TISASREC_KNOWN_GOOD: list[dict[str, Hparam]] = [
    {  # Li et al. 2020 on ML-1M (width 50, L2 5e-5), with cross-entropy over the catalogue
        **TRAINING_DEFAULTS,
        "hidden_dim": 48,
        "num_blocks": 2,
        "num_heads": 1,
        "dropout": 0.2,
        "residual": "plain",
        "norm": "pre",
        "max_len": 50,
        "time_span": 256,
        "ffn_multiplier": 1,
        "activation": "relu",
    },
    {  # the same with hyper-connections
        **TRAINING_DEFAULTS,
        "hidden_dim": 48,
        "num_blocks": 2,
        "num_heads": 1,
        "dropout": 0.2,
        "residual": "mhc",
        "num_streams": 4,
        "max_len": 50,
        "time_span": 256,
        "ffn_multiplier": 1,
        "activation": "relu",
    },
]
