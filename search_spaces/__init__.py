"""Search spaces: functions of an Optuna trial that return flat hparams; and points worth trying first."""

from __future__ import annotations

if __name__ == "search_spaces":  # two names would mean two of each class
    raise ImportError("search_spaces is a part of seqsweep: import seqsweep.search_spaces")

from collections.abc import Callable

import optuna

from seqsweep.search_spaces.bert4rec import BERT4REC_KNOWN_GOOD, bert4rec
from seqsweep.search_spaces.common_hparams import Hparam
from seqsweep.search_spaces.gru4rec import GRU4REC_KNOWN_GOOD, gru4rec
from seqsweep.search_spaces.hstu import HSTU_KNOWN_GOOD, hstu
from seqsweep.search_spaces.lrurec import LRUREC_KNOWN_GOOD, lrurec
from seqsweep.search_spaces.sasrec import SASREC_KNOWN_GOOD, sasrec
from seqsweep.search_spaces.tisasrec import TISASREC_KNOWN_GOOD, tisasrec

__all__ = ["GRACE_FACTORS", "KNOWN_GOOD", "SEARCH_SPACES", "Hparam"]

SEARCH_SPACES: dict[str, Callable[[optuna.Trial], dict[str, Hparam]]] = {
    "sasrec": sasrec,
    "tisasrec": tisasrec,
    "gru4rec": gru4rec,
    "bert4rec": bert4rec,
    "hstu": hstu,
    "lrurec": lrurec,
}

# Points to enqueue first, in the Optuna parameter names of the space.
KNOWN_GOOD: dict[str, list[dict[str, Hparam]]] = {
    "sasrec": SASREC_KNOWN_GOOD,
    "tisasrec": TISASREC_KNOWN_GOOD,
    "gru4rec": GRU4REC_KNOWN_GOOD,
    "bert4rec": BERT4REC_KNOWN_GOOD,
    "hstu": HSTU_KNOWN_GOOD,
    "lrurec": LRUREC_KNOWN_GOOD,
}

# How many times the pruner's grace_epochs a family gets before it is judged; 1 where nothing is said.
GRACE_FACTORS: dict[str, int] = {"bert4rec": 3}  # Petrov and Macdonald 2022: it is trained far too short
