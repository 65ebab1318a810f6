"""Which hyperparameters decided whether a trial was among the best: Optuna's PED-ANOVA."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

MIN_TRIALS = 20
BEST_QUANTILE = 0.1
MIN_BEST = 5  # what Optuna's documentation asks for


@dataclass(frozen=True)
class Importance:
    shares: dict[str, float]  # add up to 1, largest first; none where there are too few trials
    num_trials: int
    num_best: int = 0


def importance(trials: Sequence[FrozenTrial], objective: Mapping[int, float]) -> Importance:
    """`objective`: the best value of each trial that counts, by its number, larger is better.

    A pruned trial counts with the best that it reached: with successive halving most are.
    """
    counted = [trial for trial in trials if trial.number in objective and trial.params]
    if len(counted) < MIN_TRIALS or len({objective[trial.number] for trial in counted}) < 2:
        return Importance({}, len(counted))
    quantile = max(BEST_QUANTILE, MIN_BEST / len(counted))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    study.add_trials([_complete(trial, objective[trial.number]) for trial in counted])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # experimental; few trials, which the page says
        shares = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=quantile))
    return Importance(shares, len(counted), round(quantile * len(counted)))


def _complete(trial: FrozenTrial, value: float) -> FrozenTrial:
    return create_trial(
        state=TrialState.COMPLETE, params=trial.params, distributions=trial.distributions, value=value
    )
