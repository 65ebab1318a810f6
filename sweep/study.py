"""The durable record of all trials of one search: an Optuna study in a journal, and nothing beside it.

Each thing that is asked, reported or settled is one transaction of the journal. A driver killed at any
moment leaves a state from which `Study.open` goes on: ended trials as they were, running ones adopted under
their own number.
"""

from __future__ import annotations

import traceback
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

import optuna
from optuna.pruners import MedianPruner
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState

from results.schema import EpochRecord, Hparam, State, TrialRecord
from sweep.journal import Journal
from sweep.pruning import RungTable, family_view
from sweep.records import STATES, epoch_attribute, epoch_records, reports_in, trial_record
from sweep.sampling import Space, make_sampler, sample_hparams
from sweep.search import (
    MIN_GRACE_EPOCHS,
    SearchConfig,
    StudyError,
    check_same_search,
    checked_point,
    create_study,
    find_study,
)
from sweep.seeds import derive_seed

__all__ = ["JOURNAL_NAME", "LiveTrial", "SearchConfig", "Study", "StudyError", "TrialRequest"]

JOURNAL_NAME = "study.journal"
NUM_FIRST_ERRORS = 3  # so many trials that all fail by errors of their code stop the study
MAX_TRACEBACK_CHARS = 20_000


@dataclass(frozen=True)
class TrialRequest:
    """What a worker is told. Plain data: it crosses the process border."""

    trial_number: int
    attempt: int  # from 1
    hparams: dict[str, Hparam]
    seed: int
    last_epoch: int  # the largest that the study knows, 0 if none


@dataclass
class LiveTrial:
    """A trial that a worker runs now."""

    trial: optuna.Trial
    family: str
    objectives: dict[int, float]  # by epoch

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def last_epoch(self) -> int:
        return max(self.objectives, default=0)


class Study:
    def __init__(self, journal: Journal, study: optuna.Study, space: Space, search: SearchConfig) -> None:
        self.name = study.study_name
        self.search = search
        self.stopped_because: str | None = None
        self._journal = journal
        self._study = study
        self._space = space
        self._seed: int = study.user_attrs["seed"]
        self._live: dict[int, LiveTrial] = {}
        self._waiting: deque[int] = deque()  # started before, run by nobody now
        self._num_started = 0
        self._ended: dict[int, tuple[TrialRecord, list[EpochRecord]]] = {}
        self._rungs = _rungs(search)
        for trial in self._trials():
            self._num_started += trial.state != TrialState.WAITING
            if trial.state == TrialState.RUNNING:
                self._waiting.append(trial.number)
            objectives = _objectives(trial.user_attrs)
            if objectives:
                self._rungs.add_all(trial.user_attrs["family"], objectives)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Study is never pickled: it lives in the driver, the journal's only writer")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        name: str,
        seed: int,
        search: SearchConfig,
        space: Space,
        enqueue: Sequence[Mapping[str, Hparam]] = (),
        attributes: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make the study in `folder`, or go on with the one that is there.

        `enqueue` and `attributes` are for a new study; one that is there keeps what it has.

        Raises:
            StudyLockedError: another process writes the study.
            StudyError: the study in `folder` has another name, seed or settings. Its numbers of trials and of
                attempts may change.
        """
        journal = Journal(folder / JOURNAL_NAME)
        try:
            storage = JournalStorage(journal)
            found = find_study(storage)
            if found is None:
                points = [checked_point(space, point) for point in enqueue]
                settings = {**(attributes or {}), "seed": seed, "search": search.model_dump()}
                with journal.transaction():
                    found = create_study(storage, name, settings, points)
            check_same_search(found, folder, name=name, seed=seed, search=search)
            return cls(journal, found, space, search)
        except BaseException:
            journal.close()
            raise

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The study as it is and as it becomes. Takes no lock: another process may be writing it."""
        path = folder / JOURNAL_NAME
        if not path.exists():
            raise StudyError(f"there is no study in {folder}: it has no {JOURNAL_NAME}")
        journal = Journal(path, read_only=True)
        found = find_study(JournalStorage(journal))
        if found is None:
            journal.close()
            raise StudyError(f"{path} holds no study yet")
        return cls(journal, found, _no_space, SearchConfig(**found.user_attrs["search"]))

    def close(self) -> None:
        self._journal.close()

    @property
    def live(self) -> frozenset[int]:
        """Numbers of the trials that a worker runs now."""
        return frozenset(self._live)

    def live_trials(self) -> list[LiveTrial]:
        return list(self._live.values())

    @property
    def has_more(self) -> bool:
        """Whether `ask` has something to give."""
        return self.stopped_because is None and (
            bool(self._waiting) or self._num_started < self.search.trials
        )

    @property
    def num_changes(self) -> int:
        """Grows with all that is recorded."""
        return self._journal.num_commits

    @property
    def attributes(self) -> dict[str, Any]:
        return self._study.user_attrs

    def set_attribute(self, key: str, value: Any) -> None:
        self._study.set_user_attr(key, value)

    def beat(self) -> None:
        """Show other processes that the driver lives."""
        self._journal.beat()

    def ask(self) -> TrialRequest | None:
        """The next trial to run: first the interrupted, then the queued, then a new proposal."""
        while self.has_more:
            if self._waiting:
                return self._hand_out(self._waiting.popleft())
            request = self._propose()
            if request is not None:
                return request
        return None

    def report(self, trial_number: int, report: Mapping[str, Any]) -> bool:
        """Record an epoch; true if the trial must stop.

        It is settled as pruned then, in the same transaction. A known epoch (the worker went on from an
        older checkpoint) changes nothing.
        """
        live = self._live[trial_number]
        epoch, objective = int(report["epoch"]), float(report["objective"])
        if epoch in live.objectives:
            return False
        with self._journal.transaction():
            live.trial.set_user_attr(epoch_attribute(epoch), dict(report))
            live.trial.report(objective, epoch)
            # A trial that ends by itself is complete, whatever the rung says.
            should_prune = self._should_prune(live, epoch, objective) and not report.get("last", False)
            live.objectives[epoch] = objective
            if should_prune:
                self._settle(live.trial, TrialState.PRUNED)
        return should_prune

    def complete(self, trial_number: int, summary: Mapping[str, Any] | None = None) -> None:
        live = self._live[trial_number]
        if not live.objectives:
            self.failed(trial_number, "error", "the trial ended without reporting an epoch", "")
            return
        with self._journal.transaction():
            if summary:
                live.trial.set_user_attr("summary", dict(summary))
            self._settle(live.trial, TrialState.COMPLETE, max(live.objectives.values()))

    def pruned(self, trial_number: int, reason: str) -> None:
        """Stop a trial, not for its values: `stopped_by_user`, `time_limit`."""
        trial = self._live[trial_number].trial
        with self._journal.transaction():
            trial.set_user_attr("stopped_because", reason)
            self._settle(trial, TrialState.PRUNED)

    def failed(self, trial_number: int, error_class: str, message: str, traceback: str) -> None:
        self._fail(self._live[trial_number].trial, error_class, message, traceback)

    def interrupted(self, trial_number: int, reason: str, *, counted: bool = True) -> None:
        """The worker died. The trial is handed out again, unless that happened too often."""
        trial = self._live[trial_number].trial
        reasons = [*trial.user_attrs.get("interruptions", []), *([reason] if counted else [])]
        if len(reasons) >= self.search.max_attempts:
            message = f"its worker died {len(reasons)} times (max_attempts={self.search.max_attempts})"
            self.failed(trial_number, "interrupted", message, reason)
            return
        trial.set_user_attr("interruptions", reasons)
        self.release(trial_number)

    def release(self, trial_number: int) -> None:
        """Nobody runs the trial any more; it stays RUNNING in the journal and is handed out again."""
        del self._live[trial_number]
        self._waiting.append(trial_number)

    def stop(self, reason: str) -> None:
        """Hand out nothing more. It only sets a field: a signal handler may call it."""
        self.stopped_because = self.stopped_because or reason

    def enqueue(self, *points: Mapping[str, Hparam]) -> None:
        """Try these hparams next. A point may name some of them: the sampler adds the rest.

        Raises StudyError for a name that the space does not ask for then, and for a value out of its range.
        """
        checked = [checked_point(self._space, point) for point in points]
        with self._journal.transaction():
            for point in checked:
                self._study.enqueue_trial(point)

    def counts(self) -> Counter[State]:
        return Counter(STATES[trial.state] for trial in self._trials())

    def records(self) -> list[TrialRecord]:
        return [self._records_of(trial)[0] for trial in self._trials()]

    def epoch_records(self) -> list[EpochRecord]:
        return [record for trial in self._trials() for record in self._records_of(trial)[1]]

    def best(self) -> TrialRecord | None:
        """Of the trials that completed or were pruned, the first with the largest objective."""
        ended = [record for record in self.records() if record.state in ("complete", "pruned")]
        scored = [(record.objective, record) for record in ended if record.objective is not None]
        return max(scored, key=lambda pair: pair[0])[1] if scored else None

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _records_of(self, trial: FrozenTrial) -> tuple[TrialRecord, list[EpochRecord]]:
        """Those of an ended trial never change; they are kept, for this is asked all the time."""
        if trial.number in self._ended:
            return self._ended[trial.number]
        records = trial_record(trial), epoch_records(trial)
        if trial.state.is_finished():
            self._ended[trial.number] = records
        return records

    def _propose(self) -> TrialRequest | None:
        """None if the space failed; the trial is settled then."""
        trials = self._trials()
        number = next((trial.number for trial in trials if trial.state == TrialState.WAITING), len(trials))
        seed = derive_seed(self._seed, "sampler", number) % 2**32  # NumPy takes no larger one
        self._study.sampler = make_sampler(self.search.sampler, seed)
        with self._journal.transaction():
            trial = self._study.ask()
            assert trial.number == number
            self._num_started += 1
            try:
                hparams = sample_hparams(self._space, trial)
            # The space is the user's code: whatever it raises fails this trial, not the driver.
            except Exception as error:
                self._fail(trial, "error", f"{type(error).__name__}: {error}", traceback.format_exc())
                return None
            trial.set_user_attr("hparams", hparams)
            trial.set_user_attr("family", str(hparams["model"]))
            return self._hand_out(number)

    def _hand_out(self, trial_number: int) -> TrialRequest:
        # Optuna discourages making a Trial of one's own; a test keeps that it goes on where it was.
        trial = optuna.Trial(self._study, self._trials()[trial_number]._trial_id)
        attributes = trial.user_attrs
        attempt = attributes.get("attempts", 0) + 1
        trial.set_user_attr("attempts", attempt)
        live = LiveTrial(trial, attributes["family"], _objectives(attributes))
        self._live[trial_number] = live
        seed = derive_seed(self._seed, "trial", trial_number)
        return TrialRequest(trial_number, attempt, attributes["hparams"], seed, live.last_epoch)

    def _should_prune(self, live: LiveTrial, epoch: int, objective: float) -> bool:
        if self.search.pruner == "none":
            return False
        if self.search.pruner == "median":
            pruner = MedianPruner(n_warmup_steps=self._rungs.grace(live.family))
            return pruner.prune(family_view(self._study, live.family), self._trials()[live.number])
        best = max([objective, *live.objectives.values()])
        return self._rungs.report(live.family, live.last_epoch, epoch, best)

    def _fail(self, trial: optuna.Trial, error_class: str, message: str, traceback: str) -> None:
        error = {"class": error_class, "message": message, "traceback": traceback[-MAX_TRACEBACK_CHARS:]}
        with self._journal.transaction():
            trial.set_user_attr("error", error)
            self._settle(trial, TrialState.FAIL)
        ended = [trial for trial in self._trials() if trial.state.is_finished()]
        classes = {trial.user_attrs.get("error", {}).get("class") for trial in ended}
        if len(ended) >= NUM_FIRST_ERRORS and classes == {"error"}:
            self.stop(f"all of the first {len(ended)} trials failed, the last with: {message}")

    def _settle(self, trial: optuna.Trial, state: TrialState, value: float | None = None) -> None:
        self._study.tell(trial, value, state=state)
        self._live.pop(trial.number, None)


def _rungs(search: SearchConfig) -> RungTable:
    grace = search.grace_epochs or MIN_GRACE_EPOCHS
    return RungTable(grace, search.reduction_factor, search.max_epochs, search.grace_factors)


def _no_space(trial: optuna.Trial) -> NoReturn:
    raise StudyError("this study was opened to read only")


def _objectives(attributes: Mapping[str, Any]) -> dict[int, float]:
    return {report["epoch"]: report["objective"] for report in reports_in(attributes)}
