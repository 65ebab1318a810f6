"""The study's file: Optuna's journal, one JSON object a line, written by one process at a time.

Optuna's own file backend is not safe enough for a driver that may be killed at any moment: killed inside
its lock it blocks the next start for 30 s, and a torn line followed by another write makes every later open
fail. Here the lock is `flock` on the file itself, which dies with its process; a torn end is cut at open; a
write that fails is truncated away. Optuna's backend and optuna-dashboard read the file as it stands.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self

from optuna.storages.journal import BaseJournalBackend

from seqsweep.results.files import replace_text
from seqsweep.sweep.errors import UserError

Log = dict[str, Any]

# Marks each line of a transaction but its last. Optuna ignores fields that it does not know.
CONTINUES = "continues"

NUM_LOCK_TRIES = 10
LOCK_TRY_S = 0.05


class JournalError(UserError, RuntimeError):
    """The journal can't be read or written as it is."""


class StudyLockedError(UserError, RuntimeError):
    """Another process writes this study."""


@dataclass(frozen=True)
class Holder:
    """The process that writes a journal."""

    host: str
    pid: int
    since: str
    heartbeat_age_s: float

    def __str__(self) -> str:
        seen = f"last seen {self.heartbeat_age_s:.0f} s ago"
        return f"process {self.pid} on {self.host} since {self.since}, {seen}"


class Journal(BaseJournalBackend):
    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path.absolute()
        self._read_only = read_only
        self._unread: list[
            Log
        ] = []  # what the storage has not asked for yet; the rest need not stay in memory
        self._num_read = 0
        self._size = 0  # bytes of the file up to the end of the last whole transaction
        self._depth = 0
        self._transaction: list[Log] = []
        self._failure: BaseException | None = None
        self.num_commits = 0
        self._last_beat = -math.inf
        if not read_only:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "rb" if read_only else "ab+", buffering=0)  # noqa: SIM115
        try:
            if not read_only:
                self._lock()
            self._read_new_lines()
            if not read_only:
                self._cut_torn_end()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        if not self._read_only and not self._file.closed:
            _holder_path(self.path).unlink(missing_ok=True)
        self._file.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is appended inside becomes durable together, by one write, or not at all.

        `read_logs` shows it at once, so Optuna's state in memory runs ahead of the file until the end. If
        the end is not reached, memory can't be taken back: the journal then refuses every later write, and
        opening it anew shows the state before the transaction.
        """
        self._depth += 1
        try:
            yield
        except BaseException as error:
            self._failure = self._failure or error
            raise
        finally:
            self._depth -= 1
        if self._depth == 0:
            self._commit()

    def read_logs(self, log_number_from: int) -> Iterable[Log]:
        if log_number_from < self._num_read:
            self._unread, self._num_read, self._size = [], 0, 0
            self._read_new_lines()
        elif self._read_only:
            self._read_new_lines()
        del self._unread[: log_number_from - self._num_read]
        self._num_read = log_number_from
        return list(self._unread)

    def append_logs(self, logs: list[Log]) -> None:
        if self._read_only:
            raise JournalError(f"{self.path} was opened to read only")
        self._check_usable()
        # Through JSON, so that what is seen now is what the next open sees (tuples, integer keys, enums).
        copies = [json.loads(json.dumps(log)) for log in logs]
        self._transaction += copies
        self._unread += copies
        if self._depth == 0:
            self._commit()

    def beat(self) -> None:
        """Show that the holder lives; at most once a second."""
        if time.monotonic() - self._last_beat > 1:
            self._last_beat = time.monotonic()
            os.utime(_holder_path(self.path))

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise JournalError(f"{self.path} takes no more writes after: {self._failure}") from self._failure

    def _commit(self) -> None:
        self._check_usable()
        logs, self._transaction = self._transaction, []
        if not logs:
            return
        lines = [{**log, CONTINUES: True} for log in logs[:-1]] + logs[-1:]
        data = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)
        try:
            self._write(data)
        except OSError as error:
            self._failure = error
            # If this fails too, the next open cuts the torn end.
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), self._size)
            raise JournalError(
                f"writing {self.path} failed: {error}. What was recorded before is safe: "
                "mend that (free some space?) and start the same study again"
            ) from error
        self._size += len(data)
        self.num_commits += 1

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._file.fileno(), rest) :]
        os.fsync(self._file.fileno())

    def _read_new_lines(self) -> None:
        """Take up the whole transactions behind those that are known."""
        self._file.seek(self._size)
        lines = self._file.read().splitlines(keepends=True)
        logs: list[Log] = []
        size = 0
        for index, line in enumerate(lines):
            log = _parse(line)
            if log is None and index < len(lines) - 1:
                raise JournalError(
                    f"{self.path} is damaged at byte {self._size + size}, with more lines behind. "
                    "Put a copy of it in its place, or cut it there and lose what follows"
                )
            if log is None:
                break
            logs.append(log)
            size += len(line)
            if not log.pop(CONTINUES, False):
                self._unread += logs
                self._size += size
                logs, size = [], 0

    def _cut_torn_end(self) -> None:
        self._file.seek(self._size)
        torn = self._file.read()
        if torn:
            self.path.with_name(f"{self.path.name}.torn-{time.time_ns()}").write_bytes(torn)
            os.ftruncate(self._file.fileno(), self._size)
            os.fsync(self._file.fileno())

    def _lock(self) -> None:
        # More than once: `read_holder` in another process takes the lock for a moment, to see if it is free.
        for _ in range(NUM_LOCK_TRIES):
            if _try_lock(self._file, fcntl.LOCK_EX):
                break
            time.sleep(LOCK_TRY_S)
        else:
            holder = read_holder(self.path) or "another process"
            raise StudyLockedError(f"{self.path} is written by {holder}. Wait for it, or stop it first")
        path = _holder_path(self.path)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        replace_text(path, json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since}))


def read_holder(path: Path) -> Holder | None:
    """Who writes the journal at `path` now; None if nobody does."""
    with open(path, "rb") as file:
        if _try_lock(file, fcntl.LOCK_SH):
            return None
    try:
        text = _holder_path(path).read_text()
        heartbeat_age_s = max(0.0, time.time() - _holder_path(path).stat().st_mtime)
    except FileNotFoundError:
        return None
    return Holder(**json.loads(text), heartbeat_age_s=heartbeat_age_s)


def _try_lock(file: IO[bytes], operation: int) -> bool:
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise JournalError(
            f"{file.name} can't be locked ({error}). Put the study on a file system that has flock"
        ) from error
    return True


def _holder_path(path: Path) -> Path:
    # Not `.lock`: Optuna's own backend takes a file of that name for its lock.
    return path.with_name(path.name + ".holder")


def _parse(line: bytes) -> Log | None:
    if not line.endswith(b"\n"):
        return None
    try:
        log = json.loads(line)
    except ValueError:
        return None
    return log if isinstance(log, dict) else None
