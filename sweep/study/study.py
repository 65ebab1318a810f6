"""The durable record of all trials of one search: an Optuna study in a journal, and nothing beside it.

Each thing that is asked, reported or settled is one transaction of the journal. A driver killed at any
moment leaves a state from which `Study.open` goes on: ended trials as they were, running ones adopted under
their own number.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn, Self, Unpack

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState

from seqsweep.results.schema import Hparam
from seqsweep.search_spaces.branches import Space
from seqsweep.sweep.errors import StudyError
from seqsweep.sweep.seeds import derive_seed, trial_seed
from seqsweep.sweep.settings.budgets import FinalistConfig
from seqsweep.sweep.settings.search import OBJECTIVE_DIRECTIONS, SearchConfig
from seqsweep.sweep.storage.study_folder import FETCHED, JOURNAL_NAME
from seqsweep.sweep.study.attributes import (
    StudyAttributes,
    TrialAttributes,
    set_study_attributes,
    set_trial_attributes,
    study_attributes,
    trial_attributes,
)
from seqsweep.sweep.study.failure import Failure
from seqsweep.sweep.study.journal import Journal
from seqsweep.sweep.study.optuna_study import (
    USUAL_BATCH_SIZE,
    check_same_search,
    checked_point,
    create_study,
    find_study,
    rung_table,
)
from seqsweep.sweep.study.pruning import Judge
from seqsweep.sweep.study.reader import StudyReader, is_finalist, open_journal
from seqsweep.sweep.study.sampling import SamplerWindow, make_sampler, sample_hparams
from seqsweep.sweep.study.trial_records import STATES, epoch_attribute, objective_values, reports_in
from seqsweep.sweep.study.trial_request import LiveTrial, TrialRequest

NUM_FIRST_ERRORS = 3  # so many trials that all fail by errors of their code stop the study
MAX_TRACEBACK_CHARS = 20_000


class Study(StudyReader):
    def __init__(self, journal: Journal, study: optuna.Study, space: Space, search: SearchConfig) -> None:
        super().__init__(journal, study, search)
        self.stopped_because: str | None = None
        self.stopped_by_budget = False
        self.on_report: Callable[[LiveTrial, Mapping[str, Any]], None] | None = None  # for each that is new
        self.device_seconds = 0.0  # of all trials until now
        self.num_turns = 0  # grows when a trial is started and when one has ended
        self._space = space
        self._seed = study_attributes(study)["seed"]
        self._environment: int | None = None
        self._live: dict[int, LiveTrial] = {}
        self._waiting: deque[int] = deque()  # started before, run by nobody now
        self._outlook = SamplerWindow()
        self._num_started = 0
        self._any_other_end = False  # than by an error of the code
        self._judge = Judge(study, search.pruner, rung_table(search))
        for trial in self._trials():
            reports = reports_in(trial.user_attrs)
            self.device_seconds += _device_seconds(reports)
            if trial.state == TrialState.RUNNING:
                self._waiting.append(trial.number)
            if is_finalist(trial):
                continue
            self._num_started += trial.state != TrialState.WAITING
            if trial.state.is_finished():
                self._outlook.enter(trial.number, _value(trial.state, trial.values))
            if reports:
                self._judge.enter(trial_attributes(trial)["family"], _objectives(reports))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Study is never pickled: it lives in the driver, the journal's only writer")

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        name: str,
        seed: int,
        search: SearchConfig,
        space: Space,
        finalists: FinalistConfig | None = None,
        enqueue: Sequence[Mapping[str, Hparam]] = (),
        attributes: StudyAttributes | None = None,
    ) -> Self:
        """Make the study in `folder`, or go on with the one that is there.

        `enqueue` and `attributes` are for a new study; one that is there keeps what it has. `finalists` may
        change; None leaves them as they were, which in a new study is without any.

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
                settings: StudyAttributes = {
                    **(attributes or {}),
                    "seed": seed,
                    "search": search.model_dump(mode="json"),
                }
                directions = ["maximize", *(OBJECTIVE_DIRECTIONS[name] for name in search.objectives)]
                with journal.transaction():
                    found = create_study(storage, name, settings, points, directions)
            check_same_search(found, folder, name=name, seed=seed, search=search)
            (folder / FETCHED).unlink(missing_ok=True)  # no mere copy from now on
            begun = study_attributes(found)
            if begun["search"] != search.model_dump(mode="json"):
                set_study_attributes(found, search=search.model_dump(mode="json"))
            if finalists is not None and begun.get("finalists") != finalists.model_dump():
                set_study_attributes(found, finalists=finalists.model_dump())
            return cls(journal, found, space, search)
        except BaseException:
            journal.close()
            raise

    @classmethod
    def reopen(cls, folder: Path, make_space: Callable[[StudyAttributes], Space] | None = None) -> Self:
        """The study in `folder` with the settings it has, to change it. `make_space` gets its attributes.

        Raises StudyLockedError and StudyError.
        """
        journal, found = open_journal(folder)
        try:
            (folder / FETCHED).unlink(missing_ok=True)
            attributes = study_attributes(found)
            space = make_space(attributes) if make_space is not None else _no_space
            return cls(journal, found, space, SearchConfig(**attributes["search"]))
        except BaseException:
            journal.close()
            raise

    @property
    def live(self) -> frozenset[int]:
        """Numbers of the trials that a worker runs now."""
        return frozenset(self._live)

    def runs(self, request: TrialRequest) -> bool:
        """Tell whether a worker runs this attempt of the trial now; reports of an earlier one are ignored."""
        live = self._live.get(request.trial_number)
        return live is not None and live.attempt == request.attempt

    def live_trials(self) -> list[LiveTrial]:
        return list(self._live.values())

    @property
    def has_more(self) -> bool:
        """Whether `ask` has something to give, or to settle."""
        return self.stopped_because is None and (
            self._next_waiting() is not None
            or self._num_started < self.num_trials
            or bool(self._finalists_to_start())
            or bool(self._waiting and not self._live)
        )

    @property
    def num_changes(self) -> int:
        """Grows with all that is recorded."""
        return self._journal.num_commits

    def set_attributes(self, **attributes: Unpack[StudyAttributes]) -> None:
        set_study_attributes(self._study, **attributes)

    def answer(self, key: str, answer: Mapping[str, Any]) -> None:
        """Record what became of a command."""
        self._study.set_user_attr(key, dict(answer))

    def record_environment(self, facts: Mapping[str, Any]) -> None:
        """What trials that start from now on are run with: versions, commit, machine."""
        known = self.attributes.get("environments", [])
        if dict(facts) not in known:
            known = [*known, dict(facts)]
            self.set_attributes(environments=known)
        self._environment = known.index(dict(facts))

    def transaction(self) -> AbstractContextManager[None]:
        """All that is recorded inside becomes durable together, or not at all."""
        return self._journal.transaction()

    def beat(self) -> None:
        """Show other processes that the driver lives."""
        self._journal.beat()

    def ask(self) -> TrialRequest | None:
        """The next trial to run: the interrupted, then the queued, then a new proposal; finalists last."""
        while self.has_more:
            waiting = self._next_waiting()
            if waiting is not None:
                self._waiting.remove(waiting)
                return self._hand_out_again(waiting)
            if self._num_started < self.num_trials:
                request = self._propose()
                if request is not None:
                    return request
            elif to_start := self._finalists_to_start():
                return self._start_finalist(*to_start[0])
            else:
                self._end_race()
        return None

    def report(self, trial_number: int, report: Mapping[str, Any]) -> bool:
        """Record an epoch; true if the trial must stop.

        It is settled as pruned then, in the same transaction. A finalist's training is released instead: it
        resumes if the race is reversed, and is settled once nothing runs that could do that. A known epoch
        (the worker went on from an older checkpoint) changes nothing.
        """
        live = self._live[trial_number]
        epoch, objective = int(report["epoch"]), float(report["objective"])
        if epoch in live.objectives:
            return False
        with self._journal.transaction():
            live.trial.set_user_attr(epoch_attribute(epoch), dict(report))
            if not self.search.objectives:  # Optuna takes values on the way only with one objective
                live.trial.report(objective, epoch)
            # A trial that ends by itself is complete, whatever the rung says.
            should_prune = self._should_prune(live, epoch, objective) and not report.get("last", False)
            live.objectives[epoch] = objective
            self.device_seconds += _device_seconds([report])
            if should_prune and live.finalist_of is None:
                self._settle(live.trial, TrialState.PRUNED)
        if should_prune and live.finalist_of is not None:
            self.release(trial_number)
        if self.on_report is not None:
            self.on_report(live, report)
        return should_prune

    def settle(self, trial_number: int, failure: Failure, *, is_stopping: bool = False) -> None:
        """Decide what becomes of a trial whose attempt ended with this: it has failed, or is tried again.

        While the study is stopping a worker that dies was ended on purpose.
        """
        if failure.error_class == "cannot_write":
            self.release(trial_number)
            self.stop(f"trial {trial_number} could not be saved: {failure.message}")
        elif failure.error_class == "out_of_memory":
            self.out_of_memory(trial_number, failure.message, failure.traceback)
        elif not failure.is_interruption:
            self.failed(trial_number, failure.error_class, failure.message, failure.traceback)
        elif is_stopping:
            self.release(trial_number)
        else:
            counted = failure.error_class != "node_lost"
            self.interrupted(trial_number, failure.message, counted=counted)

    def complete(self, trial_number: int) -> None:
        live = self._live[trial_number]
        if not live.objectives:
            self.failed(trial_number, "error", "the trial ended without reporting an epoch", "")
            return
        with self._journal.transaction():
            values = objective_values(reports_in(live.trial.user_attrs), self.search.objectives)
            self._settle(live.trial, TrialState.COMPLETE, values)

    def pruned(self, trial_number: int, reason: str) -> None:
        """Stop a trial, not for its values: `stopped_by_user`, `time_limit`."""
        trial = self._live[trial_number].trial
        with self._journal.transaction():
            set_trial_attributes(trial, stopped_because=reason)
            self._settle(trial, TrialState.PRUNED)

    def failed(self, trial_number: int, error_class: str, message: str, traceback: str) -> None:
        self._fail(self._live[trial_number].trial, error_class, message, traceback)

    def out_of_memory(self, trial_number: int, message: str, traceback: str) -> None:
        """Once, the trial goes on from its checkpoint with half the micro-batch; then it has failed."""
        trial = self._live[trial_number].trial
        attributes = trial_attributes(trial)
        batch_size = int(attributes["hparams"].get("batch_size", USUAL_BATCH_SIZE))
        if "micro_batch_size" in attributes or batch_size == 1:
            self.failed(trial_number, "out_of_memory", message, traceback)
            return
        set_trial_attributes(trial, micro_batch_size=batch_size // 2)
        self.release(trial_number)

    def interrupted(self, trial_number: int, reason: str, *, counted: bool = True) -> None:
        """The worker died. The trial is handed out again, unless that happened too often."""
        trial = self._live[trial_number].trial
        reasons = [*trial_attributes(trial).get("interruptions", []), *([reason] if counted else [])]
        if len(reasons) >= self.search.max_attempts:
            message = f"its worker died {len(reasons)} times (max_attempts={self.search.max_attempts})"
            self.failed(trial_number, "interrupted", message, reason)
            return
        set_trial_attributes(trial, interruptions=reasons)
        self.release(trial_number)

    def release(self, trial_number: int) -> None:
        """Nobody runs the trial any more; it stays RUNNING in the journal and is handed out again."""
        del self._live[trial_number]
        self._waiting.append(trial_number)

    def stop(self, reason: str, *, by_budget: bool = False) -> None:
        """Hand out nothing more. It only sets fields: a signal handler may call it."""
        if self.stopped_because is None:
            self.stopped_because, self.stopped_by_budget = reason, by_budget

    def enqueue(self, *points: Mapping[str, Hparam]) -> None:
        """Try these hparams next. A point may name some of them: the sampler adds the rest.

        Raises StudyError for a name that the space does not ask for then, and for a value out of its range.
        """
        checked = [checked_point(self._space, point) for point in points]
        with self._journal.transaction():
            self.extend(len(checked))
            for point in checked:
                self._study.enqueue_trial(point)

    def extend(self, num_trials: int) -> None:
        """So many trials more than the budget had."""
        extra = self.attributes.get("extra_trials", 0) + num_trials
        if self.search.trials + extra < 1:
            raise StudyError(f"the budget must keep a trial, got {self.search.trials} {num_trials:+d}")
        self.set_attributes(extra_trials=extra)

    def retry(self, *trial_numbers: int) -> list[int]:
        """Queue the same hparams again, under new numbers, which are returned. Without numbers: all failed.

        One that was queued again already is left out. Raises StudyError for a trial that has not failed.
        """
        trials = self._trials()
        retried = {trial_attributes(trial).get("retry_of") for trial in trials}
        numbers = trial_numbers or tuple(
            t.number for t in trials if t.state == TrialState.FAIL and not is_finalist(t)
        )
        for number in numbers:
            state = STATES[self.trial(number).state]
            if state != "failed":
                raise StudyError(f"only failed trials can be tried again, trial {number} is {state}")
        chosen = [
            number
            for number in numbers
            if number not in retried and "hparams" in trial_attributes(trials[number])
        ]
        with self._journal.transaction():
            if chosen:
                self.extend(len(chosen))
            return [self._copy(trials[n], TrialState.WAITING, retry_of=n) for n in chosen]

    def stop_trial(self, trial_number: int) -> None:
        """Settle it as pruned, `stopped_by_user`, run or not. Raises StudyError if it has ended."""
        trial = self.trial(trial_number)
        if trial_number in self._live:
            self.pruned(trial_number, "stopped_by_user")
            return
        if trial.state.is_finished():
            raise StudyError(f"trial {trial_number} has ended, it is {STATES[trial.state]}")
        with self._journal.transaction():
            self._study._storage.set_trial_user_attr(trial._trial_id, "stopped_because", "stopped_by_user")
            self._settle_unheld(trial)
        if trial_number in self._waiting:
            self._waiting.remove(trial_number)
        else:
            self._num_started += 1

    def _finalists_to_start(self) -> list[tuple[int, int]]:
        """List (trial, index of the seed); empty until all trials of the search have ended."""
        return self.race().to_train() if self.search_has_ended else []

    def _next_waiting(self) -> int | None:
        """Find an interrupted trial to resume, skipping finalists' trainings that have lost."""
        if not self._waiting:
            return None
        race = self.race()
        for number in self._waiting:
            finalist_of = self.finalist_of(number)
            if finalist_of is None or not race.is_lost(finalist_of):
                return number
        return None

    def _end_race(self) -> None:
        """Settle what waits: nothing runs that could reverse the race."""
        with self._journal.transaction():
            for number in self._waiting:
                self._settle_unheld(self._trials()[number])
        self._waiting.clear()

    def _propose(self) -> TrialRequest | None:
        """None if the space failed; the trial is settled then."""
        trials = self._trials()
        number = next((trial.number for trial in trials if trial.state is TrialState.WAITING), len(trials))
        seed = derive_seed(self._seed, "sampler", number) % 2**32  # NumPy takes no larger one
        self._study.sampler = make_sampler(self.search.sampler, seed, self._latest_and_best(trials))
        with self._journal.transaction():
            trial = self._study.ask()
            assert trial.number == number
            self._num_started += 1
            if "hparams" not in trial_attributes(trial):  # a trial that is tried again has them
                try:
                    hparams = sample_hparams(self._space, trial)
                # The space is the user's code: whatever it raises fails this trial, not the driver.
                except Exception as error:
                    self._fail(trial, "error", f"{type(error).__name__}: {error}", traceback.format_exc())
                    return None
                set_trial_attributes(trial, hparams=hparams, family=str(hparams["model"]))
            return self._hand_out(trial)

    def _latest_and_best(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial] | None:
        """With one objective: those, and all that run."""
        if self.search.objectives:
            return None
        running = [n for n in (*self._live, *self._waiting) if not is_finalist(trials[n])]
        return [trials[number] for number in sorted({*self._outlook.numbers(), *running})]

    def _start_finalist(self, finalist_of: int, seed_index: int) -> TrialRequest:
        with self._journal.transaction():
            number = self._copy(
                self.trial(finalist_of), TrialState.RUNNING, finalist_of=finalist_of, seed_index=seed_index
            )
            return self._hand_out_again(number)

    def _copy(self, trial: FrozenTrial, state: TrialState, **own: Unpack[TrialAttributes]) -> int:
        """A new trial with the same hparams; its number."""
        number = len(self._trials())
        kept = trial_attributes(trial)
        attributes: TrialAttributes = {"hparams": kept["hparams"], "family": kept["family"], **own}
        self._study.add_trial(
            optuna.trial.create_trial(
                state=state,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={**attributes},
            )
        )
        return number

    def _hand_out_again(self, trial_number: int) -> TrialRequest:
        # Optuna discourages making a Trial of one's own; a test keeps that it goes on where it was.
        self._study.sampler = RandomSampler()  # asked for nothing: the trial has its hparams
        return self._hand_out(optuna.Trial(self._study, self._trials()[trial_number]._trial_id))

    def _hand_out(self, trial: optuna.Trial) -> TrialRequest:
        self.num_turns += 1
        attributes = trial_attributes(trial)
        attempt = attributes.get("attempts", 0) + 1
        with self._journal.transaction():
            set_trial_attributes(trial, attempts=attempt)
            if self._environment is not None:
                set_trial_attributes(trial, environment=self._environment)
        reports = reports_in(trial.user_attrs)
        live = LiveTrial(
            trial,
            attributes["hparams"],
            _objectives(reports),
            attributes.get("finalist_of"),
            _seconds(reports),
            attempt,
        )
        self._live[trial.number] = live
        return TrialRequest(
            trial_number=trial.number,
            attempt=attempt,
            hparams=attributes["hparams"],
            seed=trial_seed(self._seed, trial.number),
            last_epoch=live.last_epoch,
            micro_batch_size=attributes.get("micro_batch_size"),
            is_finalist=live.finalist_of is not None,
        )

    def _should_prune(self, live: LiveTrial, epoch: int, objective: float) -> bool:
        if live.finalist_of is not None:
            return self.race().is_lost(live.finalist_of)
        return self._judge.must_stop(live, epoch, objective)

    def _fail(self, trial: optuna.Trial, error_class: str, message: str, traceback: str) -> None:
        shown = traceback[-MAX_TRACEBACK_CHARS:]
        with self._journal.transaction():
            set_trial_attributes(trial, error={"class": error_class, "message": message, "traceback": shown})
            self._settle(trial, TrialState.FAIL)
        if error_class == "error" and not self._any_other_end:
            ended = [trial for trial in self._trials() if trial.state.is_finished()]
            classes = {error["class"] if (error := trial_attributes(t).get("error")) else None for t in ended}
            self._any_other_end = classes != {"error"}
            if not self._any_other_end and len(ended) >= NUM_FIRST_ERRORS:
                self.stop(f"all of the first {len(ended)} trials failed, the last with: {message}")

    def _settle(self, trial: optuna.Trial, state: TrialState, values: Sequence[float] | None = None) -> None:
        self.num_turns += 1
        self._study.tell(trial, values, state=state)
        if "finalist_of" not in trial_attributes(trial):
            self._outlook.enter(trial.number, _value(state, values))
        self._live.pop(trial.number, None)

    def _settle_unheld(self, trial: FrozenTrial) -> None:
        """Settle a trial that nobody runs as pruned."""
        self.num_turns += 1
        self._study._storage.set_trial_state_values(trial._trial_id, TrialState.PRUNED)


def _value(state: TrialState, values: Sequence[float] | None) -> float | None:
    return values[0] if state == TrialState.COMPLETE and values else None


def _objectives(reports: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    return {report["epoch"]: report["objective"] for report in reports}


def _seconds(reports: Sequence[Mapping[str, Any]]) -> float:
    """Of the clock, whatever the number of workers."""
    return sum((report.get("seconds") or 0.0) + (report.get("eval_seconds") or 0.0) for report in reports)


def _device_seconds(reports: Sequence[Mapping[str, Any]]) -> float:
    return sum(report.get("device_seconds") or 0.0 for report in reports)


def _no_space(trial: optuna.Trial) -> NoReturn:
    raise StudyError("this study was opened without its space")
