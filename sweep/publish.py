"""What readers find in the study's folder while it runs: whole tables, and no files left over."""

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from results.leaderboard import (
    EPOCHS_FILE,
    LEADERBOARD_FILE,
    StudyFacts,
    build_epochs,
    build_leaderboard,
    write_table,
)
from results.schema import TrialRecord
from sweep.checkpoint import checkpoint_path
from sweep.study import Study

SECONDS_BETWEEN = 5.0  # a leaderboard of 10,000 trials takes 0.4 s to write
KEPT_CHECKPOINTS = 5  # best trials whose weights stay
PACKAGES = ("seqsweep", "torch", "ray", "optuna", "pandas", "pyarrow", "numpy")


class Publisher:
    def __init__(self, study: Study, folder: Path, facts: StudyFacts, fixed: Sequence[TrialRecord]) -> None:
        self._study = study
        self._folder = folder
        self._facts = facts
        self._fixed = list(fixed)
        self._written_at = -SECONDS_BETWEEN
        self._num_changes = -1

    def step(self) -> None:
        """Called all the time; writes when something changed and the last time is long enough ago."""
        due = time.monotonic() - self._written_at >= SECONDS_BETWEEN
        if due and self._study.num_changes != self._num_changes:
            self.write()

    def write(self, test_of_winner: TrialRecord | None = None) -> None:
        self._num_changes = self._study.num_changes
        records = self._study.records()
        if test_of_winner is not None:
            records = [test_of_winner if r.trial == test_of_winner.trial else r for r in records]
        self._drop_checkpoints(records)
        records = [self._with_checkpoint(record) for record in records]
        write_table(build_leaderboard([*records, *self._fixed]), self._folder / LEADERBOARD_FILE, self._facts)
        write_table(build_epochs(self._study.epoch_records()), self._folder / EPOCHS_FILE, self._facts)
        self._written_at = time.monotonic()

    def _with_checkpoint(self, record: TrialRecord) -> TrialRecord:
        if record.trial is None:
            return record
        path = checkpoint_path(self._folder, record.trial)
        return replace(record, checkpoint=str(path.relative_to(self._folder)) if path.exists() else None)

    def _drop_checkpoints(self, records: Sequence[TrialRecord]) -> None:
        """Trials that still run need theirs; of those that ended only the best may still be wanted."""
        ended = [r for r in records if r.state in ("complete", "pruned") and r.objective is not None]
        ended.sort(key=lambda r: (-(r.objective or 0), r.trial))
        failed = [r for r in records if r.state == "failed"]
        for record in ended[KEPT_CHECKPOINTS:] + failed:
            assert record.trial is not None
            shutil.rmtree(checkpoint_path(self._folder, record.trial).parent, ignore_errors=True)


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def write_text(path: Path, text: str) -> None:
    staging = path.with_name(f".{path.name}.staging")
    staging.write_text(text, encoding="utf-8")
    os.replace(staging, path)


def environment(**more: Any) -> str:
    """What a reader needs to judge or repeat the study, as JSON."""
    facts = {
        "versions": versions(),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        **more,
    }
    return json.dumps(facts, indent=2) + "\n"


def _git(*arguments: str) -> str | None:
    """Of the checkout this code runs from; None where it was installed without one."""
    try:
        answer = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
