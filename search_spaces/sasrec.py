"""What a study of SASRec may move.

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


def sasrec(trial: optuna.Trial) -> dict[str, Hparam]:
    hparams: dict[str, Hparam] = {
        "model": "sasrec",
        # 50 in Kang and McAuley 2018, 64 in RecBole and LRURec, 128 in gSASRec. Multiples of 8: tensor cores
        # want them, and 1, 2 and 4 heads divide every one of them, whatever else is drawn.
        "hidden_dim": _nearest(range(32, 129, 8), _log_int(trial, "hidden_dim", 32, 128)),
        # 2 in Kang and McAuley 2018, 2 and 3 in gSASRec; 1 suffices on sparse Amazon data.
        "num_blocks": trial.suggest_int("num_blocks", 1, 3),
        # 1 in Kang and McAuley 2018 (2 were no better at width 50), 2 in RecBole and LRURec, 4 in gSASRec.
        "num_heads": _nearest((1, 2, 4), _log_int(trial, "num_heads", 1, 4)),
        # .2 on ML-1M, .5 on sparse data (Kang and McAuley 2018), to .6 on Amazon (LRURec, eSASRec).
        "dropout": trial.suggest_float("dropout", 0.0, 0.6),
        # `original` is that of Kang and McAuley 2018, `post` the Transformer paper's, `pre` later work's.
        "norm": trial.suggest_categorical("norm", ["pre", "post", "original"]),
        # 200 on ML-1M, 50 elsewhere (Kang and McAuley 2018, LRURec); 100 between them.
        "max_len": _nearest((50, 100, 200), _log_int(trial, "max_len", 50, 200)),
        # 1e-3 is every reference's default; 4e-3 with a one-cycle schedule did well on the generated log.
        "lr": trial.suggest_float("lr", 3e-4, 1e-2, log=True),
        # 0 in Kang and McAuley 2018 (1e-6 is as good as none), 1e-2 in LRURec; ten times that as the end.
        "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
        # 128 in Kang and McAuley 2018, gSASRec and LRURec; a factor of 2 to either side.
        "batch_size": _nearest((64, 128, 256), _log_int(trial, "batch_size", 64, 256)),
        # The references train on the last window: 66 % of ML-1M's pairs at 200, 40 % of ML-100K's at 50.
        "window": trial.suggest_categorical("window", ["last", "random"]),
        # bce is the paper's, gbce gSASRec's, sampled_softmax eSASRec's; ce is best up to some 10,000 items.
        "loss": trial.suggest_categorical("loss", ["ce", "sampled_softmax", "gbce", "bce"]),
    }
    # bce keeps the one negative a position of Kang and McAuley 2018; more are gbce with t = 0.
    if hparams["loss"] in ("gbce", "sampled_softmax"):
        # 256 in gSASRec and eSASRec, a factor of 2 and more to either side. Shared by the batch: then they
        # are one matrix product instead of a gather a position: some 30 times faster (docs/decisions.md).
        hparams["negatives"] = "batch"
        hparams["num_negatives"] = _log_int(trial, "num_negatives", 32, 512)
    if hparams["loss"] == "gbce":
        # 0 is plain bce, 1 fully calibrated (Petrov and Macdonald 2023); .75 is their default.
        hparams["gbce_t"] = trial.suggest_float("gbce_t", 0.0, 1.0)
    return hparams


def _log_int(trial: optuna.Trial, name: str, low: int, high: int) -> int:
    return trial.suggest_int(name, low, high, log=True)


def _nearest(allowed: Iterable[int], drawn: int) -> int:
    return min(allowed, key=lambda value: abs(math.log(value / drawn)))


# What a source leaves open has the references' common value: lr 1e-3, hardly any weight decay, 128 sequences
# a batch, the last window.
SASREC_KNOWN_GOOD: list[dict[str, Hparam]] = [
    {  # SASRec with cross-entropy over the catalogue, ML-1M
        "hidden_dim": 64,
        "num_blocks": 2,
        "num_heads": 2,
        "dropout": 0.1,
        "norm": "pre",
        "max_len": 200,
        "lr": 1e-3,
        "weight_decay": 1e-6,
        "batch_size": 128,
        "window": "last",
        "loss": "ce",
    },
    {  # gSASRec, ML-1M
        "hidden_dim": 128,
        "num_blocks": 3,
        "num_heads": 1,
        "dropout": 0.5,
        "norm": "original",
        "max_len": 200,
        "lr": 1e-3,
        "weight_decay": 1e-6,
        "batch_size": 128,
        "window": "last",
        "loss": "gbce",
        "num_negatives": 256,
        "gbce_t": 0.75,
    },
    {  # sparse Amazon data, where dropouts of .2 to .6 are in use
        "hidden_dim": 64,
        "num_blocks": 1,
        "num_heads": 1,
        "dropout": 0.4,
        "norm": "pre",
        "max_len": 50,
        "lr": 1e-3,
        "weight_decay": 1e-6,
        "batch_size": 128,
        "window": "last",
        "loss": "sampled_softmax",
        "num_negatives": 256,
    },
]
