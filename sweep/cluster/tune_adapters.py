"""The four objects that Tune is given for a fit: they tell the study what happens, and Tune what it says."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import ray
from ray.tune.callback import Callback
from ray.tune.experiment import Trial
from ray.tune.result import AUTO_RESULT_KEYS
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from seqsweep.sweep.cluster.failures import read_failure
from seqsweep.sweep.errors import StudyError
from seqsweep.sweep.study.study import Study
from seqsweep.sweep.study.trial_request import TrialRequest

# Tune goes through all trials of an experiment again and again: a long study is run as several.
TRIALS_PER_EXPERIMENT = 500

SECONDS_TO_STOP = 4.0  # for a trial that was settled from outside: then its worker is ended

_TUNES_OWN_KEYS = {*AUTO_RESULT_KEYS, "trial_id", "done", "should_checkpoint"}


@dataclass
class Experiment:
    """What the adapters of one fit share."""

    study: Study
    concurrency: Callable[[], int]
    on_step: Callable[[], None]
    requests: dict[str, TrialRequest] = field(
        default_factory=dict
    )  # by Tune's id, of those that Tune must bring back
    tune_trials: dict[str, Trial] = field(default_factory=dict)  # the same
    controller: Any = None  # Tune's, once a trial is there
    num_suggested: int = 0
    error: BaseException | None = None
    _settled_at: dict[str, float] = field(default_factory=dict)  # by Tune's id

    @property
    def is_stopping(self) -> bool:
        return self.error is not None or self.study.stopped_because is not None

    def step(self) -> None:
        self.study.beat()
        self.on_step()
        self._end_settled()

    def _end_settled(self) -> None:
        """End the workers of trials that the study has settled and that did not stop at a report since."""
        for trial_id, request in self.requests.items():
            if self.study.runs(request) or trial_id not in self.tune_trials:
                self._settled_at.pop(trial_id, None)
                continue
            settled_at = self._settled_at.setdefault(trial_id, time.monotonic())
            if time.monotonic() - settled_at > SECONDS_TO_STOP:
                self._kill_worker(self.tune_trials[trial_id])

    def _kill_worker(self, trial: Trial) -> None:
        # Not public; Tune's own way of stopping a trial waits for its next report.
        controller = self.controller._tune_controller
        workers = controller._actor_manager._live_actors_to_ray_actors_resources
        worker = workers.get(controller._trial_to_actor.get(trial))
        if worker is not None:
            ray.kill(worker[0])

    def kill_all_workers(self) -> None:
        """Those that start, run, or wait to be used again."""
        if self.controller is None:
            return
        manager = self.controller._tune_controller._actor_manager
        for worker, _ in list(manager._live_actors_to_ray_actors_resources.values()):
            ray.kill(worker)

    def take(self, trial_id: str) -> int | None:
        """The number of a trial that Tune gives back; None if the study has settled or released it."""
        self.tune_trials.pop(trial_id, None)
        request = self.requests.pop(trial_id, None)
        return request.trial_number if request is not None and self.study.runs(request) else None

    def settle_failed(self, trial: Trial) -> None:
        trial_number = self.take(trial.trial_id)
        if trial_number is not None:
            self.study.settle(trial_number, read_failure(trial), is_stopping=self.is_stopping)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """An exception in an adapter ends the fit in order, and is kept to be raised then.

        Raised within Tune it would come out as a TuneError around a text.
        """
        try:
            yield
        except Exception as error:
            self.error = self.error or error


def nothing_started(study: Study) -> StudyError:
    """Instead of a loop that would never end."""
    return StudyError(
        f"study {study.name!r} has more to train, but nothing of it was started: this is a fault of "
        "seqsweep. All results are kept; please report it with the study's journal"
    )


class _Adapter:
    def __init__(self, experiment: Experiment) -> None:
        super().__init__()
        self._experiment = experiment

    # Tune pickles what it is given when a fit begins. Loading that must not touch the study.
    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, ("the study lives in the driver",)


class StudySearcher(_Adapter, Searcher):
    # Ray's annotation forgets FINISHED, a str.
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        with self._experiment.guard():
            return self._suggest(trial_id)
        return Searcher.FINISHED

    def _suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        experiment, study = self._experiment, self._experiment.study
        if experiment.is_stopping or experiment.num_suggested >= TRIALS_PER_EXPERIMENT:
            return Searcher.FINISHED
        may_start = len(experiment.requests) < experiment.concurrency()
        if may_start:
            request = study.ask()
            if request is not None:
                experiment.num_suggested += 1
                experiment.requests[trial_id] = request
                return {"request": asdict(request)}
        if experiment.requests:
            return None  # one of them may come back to be tried again
        if not study.has_more:
            return Searcher.FINISHED
        if may_start:
            raise nothing_started(study)
        experiment.step()  # with nothing alive Tune asks once a second, all within one of its own steps
        return None

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Only of trials that came to their own end is one left to take here."""
        with self._experiment.guard():
            trial_number = self._experiment.take(trial_id)
            if trial_number is not None and self._experiment.error is None:
                self._experiment.study.complete(trial_number)

    # Tune saves its state to go on from. Ours is the journal.
    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class StudyScheduler(_Adapter, FIFOScheduler):
    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self._experiment.controller = tune_controller
        self._experiment.tune_trials[trial.trial_id] = trial

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        with self._experiment.guard():
            return self._on_trial_result(trial.trial_id, result)
        return TrialScheduler.STOP

    def _on_trial_result(self, trial_id: str, result: dict[str, Any]) -> str:
        experiment, study = self._experiment, self._experiment.study
        request = experiment.requests.get(trial_id)
        if request is None or not study.runs(request):
            experiment.take(trial_id)
            return TrialScheduler.STOP
        trial_number = request.trial_number
        try:
            report = report_in(result)
        except ValueError as error:
            study.failed(trial_number, "error", str(error), "")
            return TrialScheduler.STOP
        if not math.isfinite(report["objective"]):
            message = f"objective is {report['objective']} at epoch {report['epoch']}"
            study.failed(trial_number, "diverged", message, "")
            return TrialScheduler.STOP
        return TrialScheduler.STOP if study.report(trial_number, report) else TrialScheduler.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        with self._experiment.guard():
            self._experiment.settle_failed(trial)


class StudyCallback(_Adapter, Callback):
    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        with self._experiment.guard():
            self._settle_errored()
            self._experiment.step()

    def _settle_errored(self) -> None:
        """Tune tells nobody of a trial whose reused worker could not be reset."""
        for trial in list(self._experiment.tune_trials.values()):
            if trial.status == Trial.ERROR:
                self._experiment.settle_failed(trial)


class StudyStopper(_Adapter, Stopper):
    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self._experiment.is_stopping:
            # Tune would wait for each worker's epoch to end. What they reported is in the journal.
            self._experiment.kill_all_workers()
        return self._experiment.is_stopping


def report_in(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the trial reported, without what Tune added. `{"valid": {"mrr": ..}}` comes as `valid.mrr`."""
    own = {
        key.replace("/", "."): _scalar(key, value)
        for key, value in result.items()
        if key not in _TUNES_OWN_KEYS and not key.startswith("config/")
    }
    for key in ("epoch", "objective"):
        if not isinstance(own.get(key), int | float):
            raise ValueError(f"a report must have a number as {key}, got {own}")
    return own


def _scalar(key: str, value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value  # a NumPy scalar
    if value is not None and not isinstance(value, int | float | str | bool):
        raise ValueError(f"a report must hold plain numbers, text or booleans, got {key}={value!r}")
    return value
