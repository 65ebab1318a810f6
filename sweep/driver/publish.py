"""What readers find in the study's folder while it runs: whole tables, and no files left over."""

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from seqsweep.results.leaderboard import (
    EPOCHS_FILE,
    FINALISTS_FILE,
    LEADERBOARD_FILE,
    StudyFacts,
    build_epochs,
    build_finalists,
    build_leaderboard,
    write_table,
)
from seqsweep.results.metrics import Ranks, compute_metrics
from seqsweep.results.schema import TrialRecord
from seqsweep.sweep.driver.report_page import ReportWriter
from seqsweep.sweep.storage.bucket import StorageError, StudyPath
from seqsweep.sweep.storage.trial_files import (
    checkpoint_path,
    ranks_path,
    read_ranks,
    remove_trial_files,
    trials_with_checkpoint,
)
from seqsweep.sweep.study.finalists import FinalistRun, mean_objective, spread_columns, spreads
from seqsweep.sweep.study.study import Study

SECONDS_BETWEEN = 5.0  # a leaderboard of 10,000 trials takes 0.4 s to write
KEPT_CHECKPOINTS = 5  # best trials whose weights stay


class Publisher:
    def __init__(
        self,
        study: Study,
        folder: Path,
        facts: StudyFacts,
        fixed: Sequence[TrialRecord],
        trial_files: StudyPath | None = None,
        report: ReportWriter | None = None,
    ) -> None:
        """`trial_files`: where the trials keep theirs, if not in `folder`."""
        self._study = study
        self._folder = folder
        self._trial_files = folder if trial_files is None else trial_files
        self._with_weights: set[int] = set()  # trials that have a checkpoint
        self._facts = facts
        self._report = report
        self._fixed = list(fixed)
        self._written_at = -SECONDS_BETWEEN
        self._num_changes = -1
        self._dropped: set[int] = set()  # trials without files: ended, and not to be looked for again
        self._ranks_of: dict[int, dict[str, Ranks]] = {}
        self._spreads: dict[tuple[int | None, ...], dict[str, float | None]] = {}
        self._test_means: dict[tuple[int | None, ...], dict[str, float]] = {}

    def step(self) -> None:
        """Called all the time; writes when something changed and the last time is long enough ago.

        What can't be written as an object store does not answer is written the next time.
        """
        due = time.monotonic() - self._written_at >= SECONDS_BETWEEN
        if due and self._study.num_changes != self._num_changes:
            try:
                self._write_tables()
            except StorageError:
                self._written_at = time.monotonic()
                return
            if self._report is not None:
                self._report.step()

    def write(self, exported: TrialRecord | None = None) -> None:
        """`exported`: the trial, of the search or a finalist's, whose weights are in `best/`."""
        self._write_tables(exported)
        if self._report is not None:
            self._report.write()

    def _write_tables(self, exported: TrialRecord | None = None) -> None:
        self._with_weights = trials_with_checkpoint(self._trial_files)
        records = self._study.records()
        runs = [self._with_test(run) for run in self._study.finalist_runs()]
        if exported is not None:
            records = [exported if r.trial == exported.trial else r for r in records]
        self._drop_checkpoints(records, runs)
        by_finalist: defaultdict[int, list[FinalistRun]] = defaultdict(list)
        for run in runs:
            by_finalist[run.finalist_of].append(run)
        front = self._study.front()
        records = [
            self._with_finalist(
                replace(
                    self._with_checkpoint(record), on_front=None if front is None else record.trial in front
                ),
                by_finalist.get(-1 if record.trial is None else record.trial, []),
            )
            for record in records
        ]
        leaderboard = build_leaderboard([*records, *self._fixed], self._facts.objective)
        write_table(leaderboard, self._folder / LEADERBOARD_FILE, self._facts)
        write_table(build_epochs(self._study.epoch_records()), self._folder / EPOCHS_FILE, self._facts)
        if runs:
            rows = [self._finalist_row(run, exported) for run in _best_first(by_finalist)]
            write_table(build_finalists(rows), self._folder / FINALISTS_FILE, self._facts)
        self._written_at, self._num_changes = time.monotonic(), self._study.num_changes

    def finalist(self, trial_number: int) -> TrialRecord:
        """A trial that was trained again, with the spreads over its trainings."""
        runs = [self._with_test(r) for r in self._study.finalist_runs() if r.finalist_of == trial_number]
        return self._with_finalist(self._study.record(trial_number), runs)

    def _with_test(self, run: FinalistRun) -> FinalistRun:
        """Its test metrics are in no report: they are computed from the ranks that it left."""
        assert run.record.trial is not None
        ranks = self._ranks(run)
        test = {} if ranks is None else compute_metrics(ranks["test"])
        return replace(run, record=replace(self._with_checkpoint(run.record), test=test))

    def _ranks(self, run: FinalistRun) -> dict[str, Ranks] | None:
        assert run.record.trial is not None
        if run.record.state != "complete":
            return None
        if run.record.trial not in self._ranks_of:
            self._ranks_of[run.record.trial] = read_ranks(ranks_path(self._trial_files, run.record.trial))
        return self._ranks_of[run.record.trial]

    def _with_finalist(self, record: TrialRecord, runs: Sequence[FinalistRun]) -> TrialRecord:
        complete = [run for run in runs if run.record.state == "complete"]
        if record.trial is None or not complete:
            return record
        key = tuple(run.record.trial for run in complete)
        if key not in self._spreads:
            parts = [ranks for run in complete if (ranks := self._ranks(run)) is not None]
            valid, test = (
                spreads([ranks[part] for ranks in parts], record.trial) for part in ("valid", "test")
            )
            self._spreads[key] = spread_columns(valid, test)
            self._test_means[key] = {name: spread.mean for name, spread in test.items()}
        return replace(record, seeds=len(complete), spread=self._spreads[key], test=self._test_means[key])

    def _finalist_row(self, run: FinalistRun, exported: TrialRecord | None) -> dict[str, object]:
        record = run.record
        return {
            "finalist_of": run.finalist_of,
            "seed_index": run.seed_index,
            "exported": exported is not None and exported.trial == record.trial,
            **{
                name: getattr(record, name)
                for name in (
                    "trial",
                    "state",
                    "objective",
                    "best_epoch",
                    "epochs",
                    "seconds",
                    "device_seconds",
                    "stopped_because",
                    "checkpoint",
                )
            },
            **{f"valid.{name}": value for name, value in record.valid.items()},
            **{f"test.{name}": value for name, value in record.test.items()},
        }

    def _with_checkpoint(self, record: TrialRecord) -> TrialRecord:
        if record.trial not in self._with_weights:
            return record
        path = checkpoint_path(self._folder, record.trial)
        return replace(record, checkpoint=str(path.relative_to(self._folder)))

    def _drop_checkpoints(self, records: Sequence[TrialRecord], runs: Sequence[FinalistRun]) -> None:
        """Trials that still run need theirs; of those that ended only the best may still be wanted."""
        ended = [r for r in records if r.state in ("complete", "pruned") and r.objective is not None]
        ended.sort(key=lambda r: (-(r.objective or 0), r.trial))
        failed = [r for r in records if r.state == "failed"]
        lost = [run.record for run in runs if run.record.state in ("pruned", "failed")]
        for record in ended[KEPT_CHECKPOINTS:] + failed + lost:
            if record.trial is None or record.trial in self._dropped:
                continue
            remove_trial_files(self._trial_files, record.trial)
            self._dropped.add(record.trial)
            self._with_weights.discard(record.trial)


def _best_first(by_finalist: Mapping[int, Sequence[FinalistRun]]) -> list[FinalistRun]:
    def order(finalist_of: int) -> tuple[float, int]:
        complete = [run.record for run in by_finalist[finalist_of] if run.record.state == "complete"]
        return (-mean_objective(complete) if complete else math.inf, finalist_of)

    return [run for finalist_of in sorted(by_finalist, key=order) for run in by_finalist[finalist_of]]
