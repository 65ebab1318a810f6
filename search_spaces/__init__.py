"""Search spaces: functions of an Optuna trial that return flat hparams; and points worth trying first."""

from __future__ import annotations

from collections.abc import Callable

import optuna

from search_spaces.sasrec import SASREC_KNOWN_GOOD, Hparam, sasrec

__all__ = ["SEARCH_SPACES", "Hparam", "known_good"]

SEARCH_SPACES: dict[str, Callable[[optuna.Trial], dict[str, Hparam]]] = {"sasrec": sasrec}

# Points to enqueue first, in the Optuna parameter names of the space.
known_good: dict[str, list[dict[str, Hparam]]] = {"sasrec": SASREC_KNOWN_GOOD}
