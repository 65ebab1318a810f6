"""Two attempts at one trial: on a node that was given up, the older may still be writing."""

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from seqsweep.sweep.cluster.failures import classify
from seqsweep.sweep.storage import trial_files
from seqsweep.sweep.storage.trial_files import load_checkpoint, remove_left_overs, save_checkpoint


def test_an_attempt_does_not_lose_what_it_writes_to_an_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their process numbers may be the same: they are on different nodes."""
    path = tmp_path / "checkpoint.pt"
    replace = os.replace

    def let_the_older_one_end_first(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        save_checkpoint(path, {"epoch": 1})
        replace(source, target)

    monkeypatch.setattr(os, "replace", let_the_older_one_end_first)
    save_checkpoint(path, {"epoch": 2})
    assert load_checkpoint(path, torch.device("cpu"))["epoch"] == 2
    assert list(tmp_path.iterdir()) == [path]


class Disk(io.BytesIO):
    """With room for 100,000 bytes."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 100_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study stops then and goes on later, where another error would fail the trial."""

    def to_a_full_disk(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
        write(Disk())

    monkeypatch.setattr(trial_files, "write_whole", to_a_full_disk)
    with pytest.raises(OSError, match="No space left on device") as raised:
        save_checkpoint(tmp_path / "checkpoint.pt", {"weights": torch.zeros(100_000)})
    assert classify(raised.value).error_class == "cannot_write"


def test_what_killed_attempts_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"epoch": 1})
    for name in ("checkpoint.pt.0f.staging", "ranks.parquet.0f.staging"):
        (tmp_path / name).write_bytes(b"half of it")
    remove_left_overs(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
