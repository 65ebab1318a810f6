"""What several families move, asked in one way; and how counts are drawn.

Each Optuna parameter bears the name of its hparam, so that points to enqueue, pinned values and the hparams
of another study's leaderboard can be given as people read them. Ordered counts are drawn on a log-integer
scale and set to the nearest allowed value: TPE then knows that 100 lies between 50 and 200, which it would
not know of three categories, and the few shapes that remain are compiled once. Optuna records the value
drawn, the returned hparams hold the value used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import optuna

Hparam = int | float | str | bool


def log_int(trial: optuna.Trial, name: str, low: int, high: int) -> int:
    return trial.suggest_int(name, low, high, log=True)


def nearest(allowed: Iterable[int], drawn: int) -> int:
    return min(allowed, key=lambda value: abs(math.log(value / drawn)))


def hidden_dim(trial: optuna.Trial) -> int:
    # 50 in Kang and McAuley 2018, 64 in RecBole and LRURec, 128 in gSASRec. Multiples of 8: tensor cores
    # want them, and 1, 2 and 4 heads divide every one of them, whatever else is drawn.
    return nearest(range(32, 129, 8), log_int(trial, "hidden_dim", 32, 128))


def num_heads(trial: optuna.Trial) -> int:
    # 1 in Kang and McAuley 2018 (2 were no better at width 50), 2 in RecBole and LRURec, 4 in gSASRec.
    return nearest((1, 2, 4), log_int(trial, "num_heads", 1, 4))


def max_len(trial: optuna.Trial) -> int:
    # 200 on ML-1M, 50 elsewhere (Kang and McAuley 2018, LRURec); 100 between them.
    return nearest((50, 100, 200), log_int(trial, "max_len", 50, 200))


def dropout(trial: optuna.Trial) -> float:
    # .2 on ML-1M, .5 on sparse data (Kang and McAuley 2018), to .6 on Amazon (LRURec, eSASRec).
    return trial.suggest_float("dropout", 0.0, 0.6)


def position_std(trial: optuna.Trial) -> float:
    # .02 in RecBole and BERT4Rec, .5 best on the generated log, where the order of the last two items is all.
    # Item inputs begin at .02 √D, .16 at width 64.
    return trial.suggest_float("position_std", 0.02, 1.0, log=True)


def residual(trial: optuna.Trial) -> dict[str, Hparam]:
    """How sub-layers join, with what depends on it: blocks, place of the norm, streams."""
    hparams: dict[str, Hparam] = {
        # mhc: DeepSeek-AI 2025; gated: LiGR (Borisyuk et al. 2024), as in eSASRec.
        "residual": trial.suggest_categorical("residual", ["plain", "gated", "mhc"]),
        # 2 in Kang and McAuley 2018, 2 and 3 in gSASRec; 1 suffices on sparse Amazon data.
        "num_blocks": trial.suggest_int("num_blocks", 1, 3),
    }
    if hparams["residual"] == "plain":
        # `original` is that of Kang and McAuley 2018, `post` the Transformer paper's, `pre` later work's.
        hparams["norm"] = trial.suggest_categorical("norm", ["pre", "post", "original"])
    if hparams["residual"] == "mhc":
        # In one block no mixing of streams can act (design of the connection: copied in, summed out).
        hparams["num_blocks"] = max(2, int(hparams["num_blocks"]))
        # 4 in the paper; 2 costs less. The Sinkhorn iterations are precision, not capacity: not moved.
        hparams["num_streams"] = nearest((2, 4), log_int(trial, "num_streams", 2, 4))
    return hparams


def feed_forward(trial: optuna.Trial) -> dict[str, Hparam]:
    # 1 and ReLU in Kang and McAuley 2018; 4 in RecBole, with SwiGLU in eSASRec.
    return {
        "ffn_multiplier": nearest((1, 2, 4), log_int(trial, "ffn_multiplier", 1, 4)),
        "activation": trial.suggest_categorical("activation", ["relu", "swiglu"]),
    }


def training(trial: optuna.Trial, losses: list[str]) -> dict[str, Hparam]:
    """Optimiser, batches, and the loss with what depends on it."""
    hparams: dict[str, Hparam] = {
        # 1e-3 is every reference's default; no study had its best above 4e-3.
        "lr": trial.suggest_float("lr", 3e-4, 4e-3, log=True),
        # 0 in Kang and McAuley 2018 (1e-6 is as good as none), 1e-2 in LRURec; three times that as the end.
        "weight_decay": trial.suggest_float("weight_decay", 1e-6, 3e-2, log=True),
        # 128 in Kang and McAuley 2018, gSASRec and LRURec; 32 where a log has few users: ML-100K has 8
        # batches of 128, and a trial of 100 epochs would end after 800 steps.
        "batch_size": nearest((32, 64, 128, 256), log_int(trial, "batch_size", 32, 256)),
        # The references train on the last window: 66 % of ML-1M's pairs at 200, 40 % of ML-100K's at 50. All
        # windows brought 5 % on ML-100K at 200 (docs/decisions.md).
        "window": trial.suggest_categorical("window", ["last", "random", "all"]),
        "loss": trial.suggest_categorical("loss", losses),
        # On ML-100K +12 % valid and +7 % test with ce, on sparse logs a loss (docs/decisions.md).
        "exclude_seen": trial.suggest_categorical("exclude_seen", [False, True]),
    }
    loss = hparams["loss"]
    if loss in ("gbce", "sampled_softmax", "bpr_max", "top1_max"):
        # 256 in gSASRec and eSASRec, 2,048 in GRU4Rec, 3,000 in Klenitskiy and Vasilev 2023. Shared by the
        # batch: one matrix product, 30 times faster than a gather a position (docs/decisions.md).
        hparams["negatives"] = "batch"
        hparams["num_negatives"] = log_int(trial, "num_negatives", 64, 4096)
    if loss == "gbce":
        # 0 is plain bce, 1 fully calibrated (Petrov and Macdonald 2023); .75 is their default.
        hparams["gbce_t"] = trial.suggest_float("gbce_t", 0.0, 1.0)
    if loss in ("sampled_softmax", "bpr_max", "top1_max"):
        # Hidasi and Karatzoglou 2018 found .5 to 1 best where popularity matters, 0 (uniform) elsewhere.
        hparams["popularity_power"] = trial.suggest_float("popularity_power", 0.0, 1.0)
    if loss == "bpr_max":
        # 0 to 2 in the space of GRU4Rec's own code, 1 its default.
        hparams["score_penalty"] = trial.suggest_float("score_penalty", 1e-2, 2.0, log=True)
    return hparams


# What a source leaves open has the references' common value, or our default.
TRAINING_DEFAULTS: dict[str, Hparam] = {
    "lr": 1e-3,
    "weight_decay": 1e-6,
    "batch_size": 128,
    "window": "last",
    "loss": "ce",
    "exclude_seen": False,
}
