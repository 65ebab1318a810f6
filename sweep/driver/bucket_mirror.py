"""The study's own files, copied up beside its trials' in an object store: a fresh head goes on from there.

The driver writes in its folder and reads there. The journal is copied up whenever a trial was started or has
ended, the tables with it; epochs that were reported since are in the trials' checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from seqsweep.results.files import replace_file
from seqsweep.sweep.storage.bucket import BucketPath, StorageError, StudyPath
from seqsweep.sweep.storage.study_folder import FETCHED, JOURNAL_NAME
from seqsweep.sweep.study.study import Study

SHARE_OF_TIME = 0.05  # at most so much of the driver's time goes into copying
SECONDS_TO_TRY_AGAIN = 30.0
BEST = "best"
SUFFIXES = (".parquet", ".toml", ".json", ".html")
COMPLETE = "config.json"  # of best/: copied last


class OtherDriverError(StorageError):
    """The copy is written by another driver too."""


class Mirror:
    """Does nothing where the trials' files lie in a folder: then the study's own lie there too."""

    def __init__(self, folder: Path, trial_files: StudyPath, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._bucket = trial_files if isinstance(trial_files, BucketPath) else None
        self._say = say
        self._size = 0  # of the journal as it was copied last
        self._copied: dict[Path, float] = {}  # other files: when they were changed
        self._num_turns = -1
        self._not_before = 0.0

    def fetch(self) -> None:
        """Go on from what lies there, if it is more than what is here.

        Raises StorageError if the journals here and there are of two histories.
        """
        if self._bucket is None:
            return
        there = self._bucket / JOURNAL_NAME
        try:
            copy = there.read_bytes()
        except FileNotFoundError:
            return
        path = self._folder / JOURNAL_NAME
        here = path.read_bytes() if path.exists() else b""
        if not here.startswith(copy):
            if not copy.startswith(here):
                raise StorageError(
                    f"{path} and {there} are two histories of one study: drivers went on from both. "
                    "Move the one you don't want away, then start the same command again"
                )
            self._folder.mkdir(parents=True, exist_ok=True)
            replace_file(path, lambda staging: staging.write_bytes(copy))
            self._say(f"going on from the copy in {self._bucket}")
        self._size = len(copy)

    def step(self, study: Study) -> None:
        """Called all the time. A store that fails is tried again; another driver there stops the study."""
        if study.num_turns == self._num_turns or time.monotonic() < self._not_before:
            return
        num_turns, began = study.num_turns, time.monotonic()
        try:
            self.copy()
        except OtherDriverError as error:
            study.stop(str(error))
            return
        except StorageError as error:
            self._say(f"{error}. Trying again in {SECONDS_TO_TRY_AGAIN:.0f} s")
            self._not_before = time.monotonic() + SECONDS_TO_TRY_AGAIN
            return
        self._num_turns = num_turns
        self._not_before = time.monotonic() + (time.monotonic() - began) / SHARE_OF_TIME

    def copy(self) -> None:
        """Raises StorageError."""
        if self._bucket is None:
            return
        there = self._bucket / JOURNAL_NAME
        size = there.size() or 0
        if size != self._size and not self._is_ours(there):
            raise OtherDriverError(
                f"{there} has {size:,} bytes, not the {self._size:,} that were copied there: another driver "
                "writes this study. Stop one of the two, then start the other again"
            )
        journal = (self._folder / JOURNAL_NAME).read_bytes()
        there.write_bytes(journal)
        self._size = len(journal)
        changed = {path: path.stat().st_mtime for path in self._other_files()}
        changed = {path: time for path, time in changed.items() if self._copied.get(path) != time}
        if any(path.parent.name == BEST for path in changed):
            with suppress(FileNotFoundError):  # until all of it is there again
                (self._bucket / BEST / COMPLETE).unlink()
            changed |= {path: path.stat().st_mtime for path in self._best()}
        for path, time_s in changed.items():
            (self._bucket / path.relative_to(self._folder).as_posix()).write_bytes(path.read_bytes())
            self._copied[path] = time_s

    def _is_ours(self, there: BucketPath) -> bool:
        """A copy may have come through although the store's answer was lost."""
        try:
            return (self._folder / JOURNAL_NAME).read_bytes().startswith(there.read_bytes())
        except FileNotFoundError:
            return True  # somebody took it away: it is put again

    def _other_files(self) -> list[Path]:
        own = [path for path in self._folder.iterdir() if path.suffix in SUFFIXES and path.is_file()]
        return [path for path in own if not path.name.startswith(".") and path.name != FETCHED] + self._best()

    def _best(self) -> list[Path]:
        best = [path for path in (self._folder / BEST).glob("*") if path.is_file()]
        return sorted(best, key=lambda path: path.name == COMPLETE)
