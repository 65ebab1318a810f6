"""What a study of BERT4Rec may move. It needs several times the epochs of SASRec (`GRACE_FACTORS`)."""

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


def bert4rec(trial: optuna.Trial) -> dict[str, Hparam]:
    return {
        "model": "bert4rec",
        "hidden_dim": hidden_dim(trial),
        # 2 in Sun et al. 2019, 1 to 3 around it.
        "num_blocks": trial.suggest_int("num_blocks", 1, 3),
        "num_heads": num_heads(trial),
        "dropout": dropout(trial),
        "max_len": max_len(trial),
        "position_std": position_std(trial),
        # Sun et al. 2019, 4.5: .2 on ML-1M, .4 on Steam, .6 on Beauty.
        "mask_probability": trial.suggest_float("mask_probability", 0.1, 0.6),
        # 0 trains on random masks alone; Sun et al. add sequences with the last item masked.
        "mask_last_share": trial.suggest_float("mask_last_share", 0.0, 0.5),
        # With few sampled negatives it collapses: the whole catalogue, or many.
        **training(trial, ["ce", "sampled_softmax"]),
    }


BERT4REC_KNOWN_GOOD: list[dict[str, Hparam]] = [
    {  # Sun et al. 2019 on ML-1M: width 64, 2 blocks, 2 heads, one item in five masked
        **TRAINING_DEFAULTS,
        "hidden_dim": 64,
        "num_blocks": 2,
        "num_heads": 2,
        "position_std": 0.15,
        "dropout": 0.1,
        "max_len": 200,
        "mask_probability": 0.2,
        "mask_last_share": 0.1,
    },
]
