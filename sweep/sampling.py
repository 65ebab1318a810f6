"""Proposing hparams: the sampler, and the space that is asked with it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from results.schema import Hparam
from sweep.pruning import StudyView

SamplerName = Literal["auto", "tpe", "random"]
Space = Callable[[optuna.Trial], Mapping[str, Hparam]]

# What TPE looks at. A proposal takes 0.11 s with 5,000 trials behind it, and grows with them.
MAX_BEST_TRIALS = 1000
MAX_LATEST_TRIALS = 2000


def make_sampler(name: SamplerName, seed: int) -> BaseSampler:
    """A new sampler for one proposal. One that lived on would repeat its random phase after every restart."""
    if name == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Argument ``group``", ExperimentalWarning)
        return _CappedTPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


class _CappedTPESampler(TPESampler):
    """TPE that sees the running trials, the best and the latest ended ones."""

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return super().infer_relative_search_space(_capped(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return super().sample_relative(_capped(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return super().sample_independent(_capped(study), trial, param_name, param_distribution)


def _capped(study: optuna.Study) -> optuna.Study:
    return StudyView(study, cap_trials).as_study()


def cap_trials(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    ended = [trial for trial in trials if trial.state.is_finished()]
    if len(ended) <= MAX_BEST_TRIALS + MAX_LATEST_TRIALS:
        return trials
    kept = {trial.number for trial in ended[-MAX_LATEST_TRIALS:]}
    kept.update(trial.number for trial in sorted(ended, key=_value, reverse=True)[:MAX_BEST_TRIALS])
    return [trial for trial in trials if trial.number in kept or not trial.state.is_finished()]


def _value(trial: FrozenTrial) -> float:
    if trial.state != TrialState.COMPLETE or trial.value is None:
        return -math.inf
    return trial.value


def sample_hparams(space: Space, trial: optuna.Trial) -> dict[str, Hparam]:
    """Ask the space. Raises what it raises, and TypeError or ValueError for hparams that can't be used."""
    hparams = space(trial)
    if "model" not in hparams:
        raise ValueError(f"hparams must name a model, got {dict(hparams)}")
    for key, value in hparams.items():
        if not isinstance(value, int | float | str | bool):
            raise TypeError(f"hparams must be int, float, str or bool, got {key}={value!r}")
    return dict(hparams)


def check_point(space: Space, point: Mapping[str, Hparam]) -> None:
    """Raises ValueError for a name the space would not ask for, or a value out of its range.

    Optuna drops the one and accepts the other, both silently.
    """
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    study.enqueue_trial(dict(point))
    trial = study.ask()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Fixed parameter", UserWarning)  # told below, as an error
        hparams = sample_hparams(space, trial)
    for name, value in point.items():
        distribution = trial.distributions.get(name)
        if distribution is None and hparams.get(name) != value:
            raise ValueError(
                f"hparam {name!r} is not sampled together with the others of {dict(point)}; sampled are "
                f"{', '.join(trial.distributions)}"
            )
        if distribution is not None and not distribution._contains(distribution.to_internal_repr(value)):
            raise ValueError(f"hparam {name} must be within {distribution}, got {value!r}")
