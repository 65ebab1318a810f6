"""Stopping poor trials early, always compared with trials of the same family, which is the model."""

from __future__ import annotations

import bisect
import copy
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, cast

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, MedianPruner, NopPruner, PatientPruner
from optuna.trial import FrozenTrial, TrialState

from seqsweep.sweep.errors import ConfigError
from seqsweep.sweep.settings.search import PrunerName
from seqsweep.sweep.study.attributes import trial_attributes
from seqsweep.sweep.study.trial_request import LiveTrial


class RungTable:
    """Asynchronous successive halving (Li et al. 2020), stopping trials instead of promoting them.

    Rungs are the epochs grace_epochs * reduction_factor ** k below max_epochs. At a rung a trial enters the
    best objective it has had so far. It goes on if that is among the best 1 / reduction_factor of the
    values entered there until now, its own included. It is judged once a rung, and not called back when
    better ones come.

    * Whoever ties with the last that goes on goes on.
    * Among fewer than reduction_factor values nobody is stopped, so never the first at a rung. (Optuna and
      Ray stop the second if it is worse than the first, which is little to go by.)
    * A trial that ended before a rung by itself is not counted there.
    * A model that starts slowly has `grace_factors` times the grace_epochs.
    """

    def __init__(
        self,
        grace_epochs: int,
        reduction_factor: int,
        max_epochs: int,
        grace_factors: Mapping[str, int] | None = None,
    ) -> None:
        self.grace_epochs = grace_epochs
        self.reduction_factor = reduction_factor
        self.max_epochs = max_epochs
        self.grace_factors = grace_factors or {}
        self._values: defaultdict[tuple[str, int], list[float]] = defaultdict(list)  # each list ascends

    def report(self, family: str, last_epoch: int, epoch: int, best: float) -> bool:
        """Enter a trial that is at `epoch`, with its best objective until now; true if it must stop.

        `last_epoch` is that of its report before: one that skips epochs is judged at every rung it passed.
        """
        passed = [rung for rung in self.rungs(family) if last_epoch < rung <= epoch]
        for rung in passed:
            bisect.insort(self._values[family, rung], best)
        return any(self._is_poor(family, rung, best) for rung in passed)

    def grace(self, family: str) -> int:
        return self.grace_epochs * self.grace_factors.get(family, 1)

    def rungs(self, family: str) -> list[int]:
        """Epochs at which a family is judged."""
        rungs = []
        rung = self.grace(family)
        while rung < self.max_epochs:
            rungs.append(rung)
            rung *= self.reduction_factor
        return rungs

    def add_all(self, family: str, objectives: Mapping[int, float]) -> None:
        """Enter all of a trial's epochs. The order in which trials are entered makes no difference later."""
        last_epoch, best = 0, -math.inf
        for epoch in sorted(objectives):
            best = max(best, objectives[epoch])
            self.report(family, last_epoch, epoch, best)
            last_epoch = epoch

    def _is_poor(self, family: str, rung: int, value: float) -> bool:
        values = self._values[family, rung]
        num_kept = len(values) // self.reduction_factor
        return num_kept > 0 and value < values[-num_kept]


def make_pruner(name: PrunerName, grace_epochs: int, num_recent: int | None = None) -> BasePruner:
    """For a study seen through `family_view`. `asha` is `RungTable`'s instead.

    `num_recent` is how many reports the trial made in the grace_epochs epochs before this one, where that is
    not one an epoch: Optuna's `patient` counts reports.

    * `median`: from grace_epochs on a trial stops whose best value is below the median of what the completed
      trials of its family had at that epoch. Until five of them are completed nobody stops.
    * `patient`: the same, but only of a trial that has not become better for grace_epochs epochs.
    """
    if name == "none":
        return NopPruner()
    if name == "asha":
        raise ValueError("asha is no pruner of Optuna's: RungTable judges by it")
    median = MedianPruner(n_warmup_steps=grace_epochs)
    if name == "median":
        return median
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "PatientPruner is experimental", ExperimentalWarning)
        return PatientPruner(median, patience=grace_epochs if num_recent is None else num_recent)


def check_pruner(name: PrunerName, num_objectives: int) -> None:
    """Raises ConfigError where nothing can be compared while trials run."""
    if num_objectives > 1 and name != "none":
        raise ConfigError(
            f"trials are stopped early by one objective, got {num_objectives} objectives and pruner={name}: "
            "give --pruner none, or leave the further objectives out"
        )


class StudyView:
    """An Optuna study of which a sampler or a pruner sees other trials than it has."""

    def __init__(self, study: optuna.Study, trials: Callable[[], list[FrozenTrial]]) -> None:
        self._study = study
        self._seen_trials = trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = [trial for trial in self._seen_trials() if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return self.get_trials(deepcopy, states)  # what Optuna's samplers call

    def as_study(self) -> optuna.Study:
        """Optuna takes anything that answers like a study, but says `Study`."""
        return cast("optuna.Study", self)


def of_search(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Without the trainings of finalists, which say the same hparams again."""
    return [trial for trial in trials if "finalist_of" not in trial_attributes(trial)]


def family_view(study: optuna.Study, family: str) -> optuna.Study:
    """A view for Optuna's pruners: only the search's trials of one family."""

    def trials() -> list[FrozenTrial]:
        found = of_search(study.get_trials(deepcopy=False))
        return [trial for trial in found if trial_attributes(trial).get("family") == family]

    return StudyView(study, trials).as_study()


class Judge:
    """Judges whether a trial of the search must stop, compared with what its family had before."""

    def __init__(self, study: optuna.Study, name: PrunerName, rungs: RungTable) -> None:
        self._study = study
        self._name = name
        self._rungs = rungs

    def enter(self, family: str, objectives: Mapping[int, float]) -> None:
        """Enter a trial of an earlier start with its objectives by epoch."""
        self._rungs.add_all(family, objectives)

    def must_stop(self, live: LiveTrial, epoch: int, objective: float) -> bool:
        """Judge a report that is new; those before it are in `live`."""
        if self._name == "none":
            return False
        if self._name == "asha":
            best = max([objective, *live.objectives.values()])
            return self._rungs.report(live.family, live.last_epoch, epoch, best)
        grace = self._rungs.grace(live.family)
        num_recent = sum(epoch - grace <= earlier < epoch for earlier in live.objectives)
        pruner = make_pruner(self._name, grace, num_recent)
        trial = self._study.get_trials(deepcopy=False)[live.number]
        return pruner.prune(family_view(self._study, live.family), trial)
