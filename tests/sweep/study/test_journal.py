import errno
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from seqsweep.sweep.study.journal import Journal, JournalError, StudyLockedError, read_holder


def log(number: int) -> dict[str, Any]:
    return {"number": number}


def numbers(journal: Journal, since: int = 0) -> list[int]:
    return [entry["number"] for entry in journal.read_logs(since)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.journal"


def fill(path: Path, count: int = 3) -> None:
    with Journal(path) as journal:
        for number in range(count):
            journal.append_logs([log(number)])


def torn_copies(path: Path) -> list[bytes]:
    return [copy.read_bytes() for copy in path.parent.glob("study.journal.torn-*")]


def test_what_is_appended_is_there_after_opening_again(path: Path) -> None:
    fill(path, 3)
    with Journal(path) as journal:
        journal.append_logs([log(3)])
        assert numbers(journal) == [0, 1, 2, 3]
        assert numbers(journal, 2) == [2, 3]
        assert numbers(journal, 0) == [0, 1, 2, 3]  # again from the start, after it was forgotten
        assert numbers(journal, 4) == []


def test_a_path_is_kept_when_the_working_directory_changes(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(path.parent)
    with Journal(Path("study.journal")) as journal:
        monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
        journal.beat()
        journal.append_logs([log(0)])
    assert path.exists()


@pytest.mark.parametrize("size", range(1, 32))
def test_a_torn_end_is_cut_and_kept(path: Path, size: int) -> None:
    fill(path, 2)
    tail = b'{"number":2,"text":"twelve bytes"}'[:size]
    with path.open("ab") as file:
        file.write(tail)
    with Journal(path) as journal:
        assert numbers(journal) == [0, 1]
        journal.append_logs([log(7)])
    with Journal(path) as journal:
        assert numbers(journal) == [0, 1, 7]
    assert torn_copies(path) == [tail]


@pytest.mark.parametrize(
    "tail", [b"\0" * 64, b"\0" * 64 + b"\n", b"17\n"], ids=["zeros", "zeros, newline", "no object"]
)
def test_a_last_line_that_is_no_record_is_cut(path: Path, tail: bytes) -> None:
    fill(path, 2)
    with path.open("ab") as file:
        file.write(tail)
    with Journal(path) as journal:
        assert numbers(journal) == [0, 1]
    assert torn_copies(path) == [tail]


def test_damage_before_the_end_is_an_error_and_nothing_is_cut(path: Path) -> None:
    fill(path, 3)
    damaged = path.read_bytes().replace(b'"number":1', b'"number"=1')
    path.write_bytes(damaged)
    with pytest.raises(JournalError, match="damaged at byte 13"):
        Journal(path)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("num_bytes", range(0, 45, 4))
def test_a_transaction_is_there_whole_or_not_at_all(path: Path, num_bytes: int) -> None:
    fill(path, 1)
    begin = path.stat().st_size
    with Journal(path) as journal, journal.transaction():
        journal.append_logs([log(1)])
        journal.append_logs([log(2), log(3)])
        assert numbers(journal) == [0, 1, 2, 3]  # seen at once
        assert path.stat().st_size == begin  # written at the end
    whole = path.read_bytes()
    path.write_bytes(whole[: begin + num_bytes])  # as if the power went
    with Journal(path) as journal:
        expected = [0, 1, 2, 3] if begin + num_bytes >= len(whole) else [0]
        assert numbers(journal) == expected


def test_a_transaction_that_raises_leaves_nothing_and_ends_the_writing(path: Path) -> None:
    with Journal(path) as journal:
        journal.append_logs([log(0)])
        with pytest.raises(ZeroDivisionError), journal.transaction():
            journal.append_logs([log(1)])
            raise ZeroDivisionError("in between")
        with pytest.raises(JournalError, match="no more writes after: in between"):
            journal.append_logs([log(2)])
    with Journal(path) as journal:
        assert numbers(journal) == [0]


def test_nested_transactions_are_one(path: Path) -> None:
    with Journal(path) as journal:
        with journal.transaction():
            journal.append_logs([log(0)])
            with journal.transaction():
                journal.append_logs([log(1)])
            assert path.stat().st_size == 0
        assert journal.num_commits == 1
        with journal.transaction():
            pass
        assert journal.num_commits == 1


def test_a_transaction_whose_inner_one_raised_writes_nothing(path: Path) -> None:
    with Journal(path) as journal:
        with pytest.raises(JournalError, match="no more writes"), journal.transaction():
            journal.append_logs([log(0)])
            with suppress(ZeroDivisionError), journal.transaction():
                raise ZeroDivisionError
        assert path.read_bytes() == b""


@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_full_disk_loses_nothing_that_was_there(
    path: Path, monkeypatch: pytest.MonkeyPatch, in_transaction: bool
) -> None:
    journal = Journal(path)
    journal.append_logs([log(0)])
    write = os.write

    def write_half(file: int, data: bytes) -> int:
        if len(data) < 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", write_half)
    with pytest.raises(JournalError, match="No space left"):
        if in_transaction:
            with journal.transaction():
                journal.append_logs([log(1)])
                journal.append_logs([log(2)])
        else:
            journal.append_logs([log(1)])
    monkeypatch.undo()
    assert path.read_bytes() == b'{"number":0}\n'
    with pytest.raises(JournalError, match="no more writes"):
        journal.append_logs([log(3)])
    journal.close()
    with Journal(path) as again:
        assert numbers(again) == [0]
    assert not torn_copies(path)


def test_a_short_write_is_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:3]))
    fill(path, 2)
    monkeypatch.undo()
    assert path.read_bytes() == b'{"number":0}\n{"number":1}\n'


def test_a_failed_sync_is_a_failed_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with Journal(path) as journal:
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(JournalError, match="Input/output error"):
            journal.append_logs([log(0)])
    assert path.read_bytes() == b""


def test_a_second_writer_is_told_who_writes(path: Path) -> None:
    with Journal(path):
        holder = read_holder(path)
        assert holder is not None and holder.pid == os.getpid() and holder.heartbeat_age_s < 60
        with pytest.raises(StudyLockedError, match=f"process {os.getpid()} on .*since"):
            Journal(path)
    assert read_holder(path) is None


def test_the_lock_dies_with_its_process(path: Path) -> None:
    fill(path, 1)
    code = (
        "import sys, time; from pathlib import Path; from seqsweep.sweep.study.journal import Journal\n"
        f"journal = Journal(Path({str(path)!r})); print('open', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as output:
        assert output.readline() == b"open\n"
        with pytest.raises(StudyLockedError, match=f"process {process.pid}"):
            Journal(path)
        process.kill()
        process.wait()
    assert read_holder(path) is None
    fill(path, 1)


def test_a_file_system_without_locks_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with pytest.raises(JournalError, match=r"can't be locked .*No locks available"):
        Journal(path)


def test_a_reader_needs_no_lock_and_sees_what_is_committed_meanwhile(path: Path) -> None:
    with Journal(path) as writer:
        writer.append_logs([log(0)])
        with Journal(path, read_only=True) as reader:
            assert numbers(reader, 0) == [0]
            writer.append_logs([log(1)])
            with path.open("ab") as file:
                file.write(b'{"number":2,"continues":true}\n{"num')
            assert numbers(reader, 1) == [1]
            with pytest.raises(JournalError, match="read only"):
                reader.append_logs([log(3)])
        assert read_holder(path) is not None


def test_optunas_own_backend_reads_the_file(path: Path) -> None:
    with Journal(path) as journal:
        study = optuna.create_study(storage=JournalStorage(journal), study_name="a", direction="maximize")
        for _ in range(3):
            with journal.transaction():
                trial = study.ask()
                x = trial.suggest_float("x", 0, 1)
                trial.set_user_attr("epoch.1", {"loss": 0.5})
                trial.report(x, 1)
            study.tell(trial, x)
        expected = [(trial.state, trial.value, trial.params, trial.user_attrs) for trial in study.trials]
    stock = optuna.load_study(storage=JournalStorage(JournalFileBackend(str(path))), study_name="a")
    assert [(trial.state, trial.value, trial.params, trial.user_attrs) for trial in stock.trials] == expected
    assert stock.trials[0].state == TrialState.COMPLETE
    assert all(isinstance(json.loads(line), dict) for line in path.read_text().splitlines())
