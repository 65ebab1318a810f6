"""The study as it can be read: its trials as records, while it runs or later."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Self

import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial

from seqsweep.results.schema import EpochRecord, State, TrialRecord
from seqsweep.sweep.errors import StudyError
from seqsweep.sweep.settings.budgets import FinalistConfig
from seqsweep.sweep.settings.search import SearchConfig
from seqsweep.sweep.storage.study_folder import JOURNAL_NAME
from seqsweep.sweep.study.attributes import StudyAttributes, study_attributes, trial_attributes
from seqsweep.sweep.study.finalists import FinalistRun, Race, ranked
from seqsweep.sweep.study.journal import Journal
from seqsweep.sweep.study.optuna_study import find_study
from seqsweep.sweep.study.trial_records import STATES, epoch_records, trial_record


class StudyReader:
    def __init__(self, journal: Journal, study: optuna.Study, search: SearchConfig) -> None:
        self.name = study.study_name
        self.search = search
        self._journal = journal
        self._study = study
        self._ended: dict[int, tuple[TrialRecord, list[EpochRecord]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @staticmethod
    def read(folder: Path) -> StudyReader:
        """The study as it is and as it becomes. Takes no lock: another process may be writing it."""
        journal, found = open_journal(folder, read_only=True)
        return StudyReader(journal, found, SearchConfig(**study_attributes(found)["search"]))

    def close(self) -> None:
        self._journal.close()

    @property
    def num_trials(self) -> int:
        """The budget: what was set, and what was asked for since. Finalists' trainings do not count."""
        return self.search.trials + self.attributes.get("extra_trials", 0)

    @property
    def attributes(self) -> StudyAttributes:
        return study_attributes(self._study)

    def answer_to(self, key: str) -> dict[str, Any] | None:
        """What became of a command; None while it waits."""
        return self._study.user_attrs.get(key)

    def counts(self) -> Counter[State]:
        """Of the search's trials."""
        return Counter(STATES[trial.state] for trial in self.searched())

    def trial(self, trial_number: int) -> FrozenTrial:
        trials = self._trials()
        if not 0 <= trial_number < len(trials):
            raise StudyError(f"study {self.name!r} has trials 0 to {len(trials) - 1}, got {trial_number}")
        return trials[trial_number]

    def records(self) -> list[TrialRecord]:
        """Of the search's trials."""
        return [self._records_of(trial)[0] for trial in self.searched()]

    def searched(self) -> list[FrozenTrial]:
        """The search's trials as Optuna has them."""
        return [trial for trial in self._trials() if not is_finalist(trial)]

    def record(self, trial_number: int) -> TrialRecord:
        return self._records_of(self.trial(trial_number))[0]

    def epochs_of(self, trial_number: int) -> list[EpochRecord]:
        return self._records_of(self.trial(trial_number))[1]

    def finalist_runs(self) -> list[FinalistRun]:
        return [
            FinalistRun(kept["finalist_of"], kept["seed_index"], self._records_of(trial)[0])
            for trial in self._trials()
            if "finalist_of" in (kept := trial_attributes(trial))
        ]

    @property
    def search_has_ended(self) -> bool:
        """Tell whether all trials have ended: only then are the finalists known."""
        counts = self.counts()
        num_ended = counts["complete"] + counts["pruned"] + counts["failed"]
        return num_ended >= self.num_trials and not counts["running"]

    def race(self) -> Race:
        """Return the finalists' race as it stands; studies of older versions have no finalists to choose."""
        config = FinalistConfig(**self.attributes.get("finalists", {"count": 0}))
        return Race(self.records(), self.finalist_runs(), config)

    def finalist_of(self, trial_number: int) -> int | None:
        """Whose hparams a finalist's training has; None for a trial of the search."""
        return trial_attributes(self.trial(trial_number)).get("finalist_of")

    def epoch_records(self) -> list[EpochRecord]:
        """Of all trials, finalists too."""
        return [record for trial in self._trials() for record in self._records_of(trial)[1]]

    def best(self) -> TrialRecord | None:
        """Of the search's trials that completed or were pruned, the first with the largest objective."""
        return next(iter(ranked(self.records())), None)

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

    def front(self) -> frozenset[int] | None:
        """Numbers of the trials that no other is better than in all objectives; None with one objective."""
        if not self.search.objectives:
            return None
        return frozenset(t.number for t in self._study.best_trials if not is_finalist(t))


def open_journal(folder: Path, *, read_only: bool = False) -> tuple[Journal, optuna.Study]:
    """Of the study in `folder`. Raises StudyError if there is none, StudyLockedError."""
    path = folder / JOURNAL_NAME
    if not path.exists():
        raise StudyError(f"there is no study in {folder}: it has no {JOURNAL_NAME}")
    journal = Journal(path, read_only=read_only)
    try:
        found = find_study(JournalStorage(journal))
        if found is None:
            raise StudyError(f"{path} holds no study yet")
    except BaseException:
        journal.close()
        raise
    return journal, found


def is_finalist(trial: FrozenTrial) -> bool:
    return "finalist_of" in trial_attributes(trial)
