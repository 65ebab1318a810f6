"""Proposing hparams: the sampler, and the space that is asked with it."""

from __future__ import annotations

import copy
import heapq
import importlib.util
import math
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.samplers.nsgaii import BLXAlphaCrossover
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from seqsweep.results.schema import Hparam
from seqsweep.search_spaces.branches import Asked, Space, condition, condition_in_words, walk
from seqsweep.sweep.errors import ConfigError
from seqsweep.sweep.settings.search import SamplerName
from seqsweep.sweep.study.pruning import StudyView, of_search

# What TPE and CMA-ES look at: of 15 parameters a proposal takes TPE some 35 ms of this many trials.
MAX_BEST_TRIALS = 100
MAX_LATEST_TRIALS = 200
# What the Gaussian process looks at: it is some 1.5 s with 250, and grows with their cube.
MAX_BEST_TRIALS_GP = 50
MAX_LATEST_TRIALS_GP = 100
# Of NSGA-II. Optuna's 50 would be all of a usual study, proposed at random. On a toy front of three families
# 60 trials cover .60 and 200 trials .75 with 8, .54 and .73 with 24, .52 and .65 at random.
POPULATION_SIZE = 8

NEEDS = {"gp": "scipy", "cmaes": "cmaes"}  # modules of the extra `samplers`

Trials = list[FrozenTrial]


def make_sampler(name: SamplerName, seed: int, latest_and_best: Trials | None = None) -> BaseSampler:
    """A new sampler for one proposal. One that lived on would repeat its random phase after every restart.

    What a sampler must remember (NSGA-II its generations, CMA-ES its distribution) it keeps in the study.
    `latest_and_best`, where the caller keeps count of them (`Outlook`), spare it going through all trials.
    None sees the trainings of finalists. All but TPE, which knows of pruning, take a pruned trial for one
    that completed with the best value it had: else they would propose its like again.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Argument ``group``|BLXAlphaCrossover is", ExperimentalWarning)
        match name:
            case "random":
                return RandomSampler(seed=seed)
            case "auto" | "tpe":
                tpe = TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
                return _ViewingSampler(tpe, cap_trials, latest_and_best)
            case "nsga2":
                # Optuna's uniform crossover combines only values that were drawn before.
                crossover = BLXAlphaCrossover()
                nsga2 = _GroupwiseNSGAII(population_size=POPULATION_SIZE, crossover=crossover, seed=seed)
                return _ViewingSampler(nsga2, _settled)
            case "gp":
                gp = GPSampler(seed=seed, warn_independent_sampling=False)
                return _ViewingSampler(gp, _few_settled, latest_and_best)
            case "cmaes":
                cmaes = CmaEsSampler(seed=seed, warn_independent_sampling=False)
                return _ViewingSampler(cmaes, _capped_and_settled, latest_and_best)


class SamplerWindow:
    """Which ended trials of a study of one objective a sampler looks at: the latest and the best."""

    def __init__(self) -> None:
        self._latest: deque[int] = deque(maxlen=MAX_LATEST_TRIALS)
        self._best: list[tuple[float, int]] = []  # a heap, the poorest first

    def enter(self, trial_number: int, value: float | None) -> None:
        """A trial that ended, in the order of ending; `value` of one that completed."""
        self._latest.append(trial_number)
        if value is not None:
            # Of equal values the earlier stays.
            push = heapq.heappush if len(self._best) < MAX_BEST_TRIALS else heapq.heappushpop
            push(self._best, (value, -trial_number))

    def numbers(self) -> set[int]:
        return {*self._latest, *(-number for _, number in self._best)}


class _ViewingSampler(BaseSampler):
    """A sampler that sees the search's trials, as `see` shows them, as they are when it is asked."""

    def __init__(
        self,
        sampler: BaseSampler,
        see: Callable[[Trials, Sequence[StudyDirection]], Trials],
        candidates: Trials | None = None,
    ) -> None:
        self._sampler = sampler
        self._see = see
        self._candidates = candidates
        self._view: optuna.Study | None = None

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        candidates = self._candidates
        if candidates is None:
            candidates = of_search(study._get_trials(deepcopy=False))
        seen = self._see(candidates, study.directions)
        self._view = StudyView(study, lambda: seen).as_study()
        self._sampler.before_trial(self._view, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(self._view_of(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(self._view_of(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(self._view_of(study), trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._sampler.reseed_rng()

    def _view_of(self, study: optuna.Study) -> optuna.Study:
        assert self._view is not None, "Optuna calls before_trial first"
        return self._view


class _GroupwiseNSGAII(NSGAIISampler):
    """NSGA-II for spaces with conditional parameters.

    Optuna's evolves the parameters that all trials have and draws the others at random: with several
    families, all but `model`. Here those that always come together are a group, and a child has each group
    from parents that have it. What the space does not ask for then is of no account.
    """

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        found: dict[str, BaseDistribution] = {}
        for parent in self._parents(study, trial):
            found.update({k: d for k, d in parent.distributions.items() if not d.single()})
        return found

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        groups: dict[frozenset[int], dict[str, BaseDistribution]] = {}
        parents = {parent.number: parent for parent in self._parents(study, trial)}
        for name, distribution in search_space.items():
            owners = frozenset(n for n, p in parents.items() if p.distributions.get(name) == distribution)
            groups.setdefault(owners, {})[name] = distribution
        params: dict[str, Any] = {}
        for owners, group in groups.items():
            if len(owners) >= 2:  # as many as a child has parents
                those = [parent for number, parent in parents.items() if number in owners]
                params |= self._child_generation_strategy(study, group, those)
        return params

    def select_parent(self, study: optuna.Study, generation: int) -> Trials:
        """Also of the trials without a generation, which were queued whole: no sampler was asked for them."""
        last = self.get_population(study, generation - 1) + self.get_parent_population(study, generation - 1)
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        queued = [trial for trial in complete if self._get_generation_key() not in trial.system_attrs]
        candidates = {trial.number: trial for trial in [*last, *queued]}
        return self._elite_population_selection_strategy(study, list(candidates.values()))

    def _parents(self, study: optuna.Study, trial: FrozenTrial) -> Trials:
        return self.get_parent_population(study, self.get_trial_generation(study, trial))


def cap_trials(
    trials: Trials,
    directions: Sequence[StudyDirection],
    num_best: int = MAX_BEST_TRIALS,
    num_latest: int = MAX_LATEST_TRIALS,
) -> Trials:
    """The running trials, the latest ended ones, and the best by each objective."""
    # Thousands are passed by at each proposal: states are compared by identity, a tenth of a method's cost.
    ended = [
        trial
        for trial in trials
        if trial.state is not TrialState.RUNNING and trial.state is not TrialState.WAITING
    ]
    if len(ended) <= num_best + num_latest:
        return trials
    kept = {trial.number for trial in ended[-num_latest:]}
    complete = [trial for trial in ended if trial.state is TrialState.COMPLETE]
    for index, direction in enumerate(directions):
        choose = heapq.nlargest if direction == StudyDirection.MAXIMIZE else heapq.nsmallest
        best = choose(
            num_best // len(directions),
            complete,
            key=lambda trial, index=index: trial.values[index],  # type: ignore[misc]
        )
        kept.update(trial.number for trial in best)
    return [
        trial
        for trial in trials
        if trial.number in kept or trial.state is TrialState.RUNNING or trial.state is TrialState.WAITING
    ]


def _settled(trials: Trials, directions: Sequence[StudyDirection]) -> Trials:
    return [_completed(trial) if trial.state == TrialState.PRUNED else trial for trial in trials]


def _capped_and_settled(trials: Trials, directions: Sequence[StudyDirection]) -> Trials:
    return _settled(cap_trials(trials, directions), directions)


def _few_settled(trials: Trials, directions: Sequence[StudyDirection]) -> Trials:
    return _settled(cap_trials(trials, directions, MAX_BEST_TRIALS_GP, MAX_LATEST_TRIALS_GP), directions)


def _completed(trial: FrozenTrial) -> FrozenTrial:
    """A pruned trial as if it had completed with the best of its values; as it is if it has none."""
    best = max(trial.intermediate_values.values(), default=-math.inf)
    if not math.isfinite(best):
        return trial
    completed = copy.copy(trial)
    completed.state, completed.value = TrialState.COMPLETE, best
    return completed


def check_sampler(name: SamplerName, space: Space, *, num_objectives: int) -> None:
    """Raises ConfigError where the sampler can't search the space: gp and cmaes are particular."""
    if name not in NEEDS:
        return
    if num_objectives > 1:
        raise ConfigError(
            f"sampler {name} takes one objective, got {num_objectives}: give --sampler nsga2, or leave the "
            "further objectives out"
        )
    if importlib.util.find_spec(NEEDS[name]) is None:
        raise ConfigError(f"sampler {name} needs {NEEDS[name]}: pip install 'seqsweep[samplers]'")
    everywhere = walk(space)
    names = list(dict.fromkeys(name for asked in everywhere for name in asked.distributions))
    _check_unconditional(name, names, everywhere)
    if name == "cmaes":
        _check_numeric(names, everywhere[0])


def _check_unconditional(name: str, names: Sequence[str], everywhere: Sequence[Asked]) -> None:
    """The same parameters with the same distributions, whatever is chosen."""
    if "model" in names:
        raise ConfigError(
            f"sampler {name} takes one family, got a space with several models: name one "
            "(--models sasrec), or give --sampler tpe"
        )
    conditional, pins = [], {}
    for parameter in names:
        present = [asked for asked in everywhere if parameter in asked.distributions]
        if len(present) == len(everywhere) and len({a.distributions[parameter] for a in present}) == 1:
            continue
        deciding = condition(present, everywhere)
        words = condition_in_words(deciding)
        conditional.append(f"{parameter} ({words})" if words else parameter)
        pins.update({choice: everywhere[0].choices[choice] for choice in deciding})
    if conditional:
        way_out = f"pin what they depend on ({_fixes(pins)}), or " if pins else ""
        raise ConfigError(
            f"sampler {name} takes no conditional parameters, got {', '.join(conditional)}: {way_out}"
            "give --sampler tpe"
        )


def _check_numeric(names: Sequence[str], asked: Asked) -> None:
    categorical = {name: choice for name, choice in asked.choices.items() if name in names}
    if categorical:
        raise ConfigError(
            f"sampler cmaes takes numbers only, got the choices {', '.join(categorical)}: pin them "
            f"({_fixes(categorical)}), or give --sampler tpe"
        )
    moving = [name for name in names if not asked.distributions[name].single()]
    if len(moving) < 2:
        raise ConfigError(
            f"sampler cmaes takes two or more parameters, got {', '.join(moving) or 'none'}: pin fewer, or "
            "give --sampler tpe"
        )


def _fixes(pins: Mapping[str, Any]) -> str:
    words = {name: str(value).lower() if isinstance(value, bool) else value for name, value in pins.items()}
    return " ".join(f"--fix {name}={value}" for name, value in words.items())


def sample_hparams(space: Space, trial: optuna.Trial) -> dict[str, Hparam]:
    """Ask the space. Raises what it raises, and TypeError or ValueError for hparams that can't be used."""
    hparams = space(trial)
    if not isinstance(hparams, Mapping):
        raise TypeError(f"a space must return a dict of hparams, got {type(hparams).__name__}")
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
