"""The study's copy in an object store: a driver on a fresh head goes on from it."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from seqsweep.sweep.driver.bucket_mirror import Mirror, OtherDriverError
from seqsweep.sweep.errors import UserError
from seqsweep.sweep.jobs.fetch import fetch_from_store
from seqsweep.sweep.storage.bucket import BucketPath, StorageError
from seqsweep.sweep.storage.study_folder import JOURNAL_NAME

ROOT = Path(__file__).parents[3]


class FakeStudy(SimpleNamespace):
    num_turns = 0
    stopped_because: str | None = None

    def stop(self, reason: str) -> None:
        self.stopped_because = reason


def mirror_of(folder: Path, bucket: BucketPath) -> tuple[Mirror, list[str]]:
    said: list[str] = []
    return Mirror(folder, bucket, said.append), said


def write(folder: Path, content: bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / JOURNAL_NAME).write_bytes(content)


def copy_of(bucket: BucketPath) -> bytes:
    return (bucket / JOURNAL_NAME).read_bytes()


def test_copied_when_a_trial_starts_or_ends(tmp_path: Path, bucket: BucketPath) -> None:
    study: Any = FakeStudy()
    mirror, _ = mirror_of(tmp_path, bucket)
    mirror.fetch()  # nothing is there
    write(tmp_path, b"one\n")
    (tmp_path / "study.toml").write_text("name")
    (tmp_path / ".leaderboard.parquet.staging").write_text("half")
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "config.json").write_text("{}")
    mirror.step(study)
    assert copy_of(bucket) == b"one\n"
    assert bucket.names_below() == ["best/config.json", "study.journal", "study.toml"]
    write(tmp_path, b"one\ntwo\n")
    mirror._not_before = 0.0
    mirror.step(study)
    assert copy_of(bucket) == b"one\n"  # no turn: an epoch, say
    study.num_turns = 1
    mirror.step(study)
    assert copy_of(bucket) == b"one\ntwo\n"


def test_a_fresh_head_goes_on_from_the_copy(tmp_path: Path, bucket: BucketPath) -> None:
    (bucket / JOURNAL_NAME).write_bytes(b"one\ntwo\n")
    for name, here in {"fresh": None, "older": b"one\n", "same": b"one\ntwo\n"}.items():
        folder = tmp_path / name
        if here is not None:
            write(folder, here)
        mirror, said = mirror_of(folder, bucket)
        mirror.fetch()
        assert (folder / JOURNAL_NAME).read_bytes() == b"one\ntwo\n"
        assert len(said) == (name != "same")
    newer = tmp_path / "newer"
    write(newer, b"one\ntwo\nthree\n")
    mirror, said = mirror_of(newer, bucket)
    mirror.fetch()
    assert not said and (newer / JOURNAL_NAME).read_bytes() == b"one\ntwo\nthree\n"
    mirror.copy()
    assert copy_of(bucket) == b"one\ntwo\nthree\n"


def test_two_histories_are_refused_and_kept(tmp_path: Path, bucket: BucketPath) -> None:
    (bucket / JOURNAL_NAME).write_bytes(b"one\ntwo\n")
    write(tmp_path, b"one\nother\n")
    with pytest.raises(StorageError, match="two histories"):
        mirror_of(tmp_path, bucket)[0].fetch()
    assert copy_of(bucket) == b"one\ntwo\n" and (tmp_path / JOURNAL_NAME).read_bytes() == b"one\nother\n"


def test_a_second_driver_stops_the_study(tmp_path: Path, bucket: BucketPath) -> None:
    study: Any = FakeStudy()
    write(tmp_path, b"one\n")
    mirror, _ = mirror_of(tmp_path, bucket)
    mirror.step(study)
    (bucket / JOURNAL_NAME).write_bytes(b"one\nby another\n")
    study.num_turns, mirror._not_before = 1, 0.0
    mirror.step(study)
    assert "another driver writes this study" in (study.stopped_because or "")
    assert copy_of(bucket) == b"one\nby another\n"
    with pytest.raises(OtherDriverError):
        mirror.copy()


def test_a_copy_whose_answer_was_lost_is_ours(tmp_path: Path, bucket: BucketPath) -> None:
    write(tmp_path, b"one\n")
    mirror, _ = mirror_of(tmp_path, bucket)
    mirror.copy()
    (bucket / JOURNAL_NAME).write_bytes(b"one\ntwo\n")  # got there, as this driver does not know
    write(tmp_path, b"one\ntwo\nthree\n")
    mirror.copy()
    assert copy_of(bucket) == b"one\ntwo\nthree\n"


def test_a_best_model_is_replaced_as_a_whole(
    tmp_path: Path, bucket: BucketPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, b"one\n")
    (tmp_path / "best").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "best" / name).write_text("old")
    mirror, _ = mirror_of(tmp_path, bucket)
    mirror.copy()
    (tmp_path / "best" / "model.safetensors").write_text("new")
    os.utime(tmp_path / "best" / "model.safetensors", (1, 1))
    put = BucketPath.write_bytes

    def killed(path: BucketPath, content: bytes) -> None:
        put(path, content)
        if path.key.endswith("model.safetensors"):
            raise StorageError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(BucketPath, "write_bytes", killed)
        with pytest.raises(StorageError, match="killed"):
            mirror.copy()
    assert not (bucket / "best" / "config.json").exists()
    mirror.copy()
    assert (bucket / "best" / "config.json").exists()
    assert (bucket / "best" / "model.safetensors").read_bytes() == b"new"


def test_a_store_that_fails_is_tried_again(
    tmp_path: Path, bucket: BucketPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StorageError("no answer")

    study: Any = FakeStudy()
    write(tmp_path, b"one\n")
    mirror, said = mirror_of(tmp_path, bucket)
    with monkeypatch.context() as patched:
        patched.setattr(BucketPath, "write_bytes", fail)
        mirror.step(study)
        mirror.step(study)
    assert len(said) == 1 and "Trying again in 30 s" in said[0] and study.stopped_because is None
    mirror._not_before = 0.0
    mirror.step(study)
    assert copy_of(bucket) == b"one\n"


def test_a_head_that_lost_its_disk(tmp_path: Path, bucket: BucketPath) -> None:
    """The driver is killed and all it had on disk removed: the same command ends the study."""
    generator = np.random.default_rng(0)
    lines = [
        f"{user} {(start + step) % 30} {step}"
        for user, start in enumerate(generator.integers(30, size=120))
        for step in range(12)
    ]
    (tmp_path / "log.txt").write_text("\n".join(lines) + "\n")
    # One at a time and long enough for the copy of the second's end to come before that of the last.
    trials = ["--trials", "5", "--max-concurrent", "1", "--max-epochs", "70", "--patience", "70"]
    options = [*trials, "--pruner", "none", "--finalists", "1", "--finalist-seeds", "2"]
    command = [sys.executable, "-m", "seqsweep", "run", "--data", str(tmp_path / "log.txt"), "--name", "mine"]
    command += [*options, "--storage", bucket.store, "--fix", "hidden_dim=16", "--fix", "max_len=20"]
    head = tmp_path / "head"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token"}
    head.mkdir()
    with open(tmp_path / "first.txt", "w") as output:
        first = subprocess.Popen(
            command, cwd=head, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        deadline = time.monotonic() + 200
        while first.poll() is None and num_ended(bucket) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    before = leaderboard(bucket)
    ended = before[before["state"] == "complete"].set_index("trial")
    assert 2 <= len(ended) < 5, (tmp_path / "first.txt").read_text()
    assert bucket.exists() is False and any("checkpoint.pt" in name for name in bucket.names_below())
    shutil.rmtree(head)

    head.mkdir()
    again = subprocess.run(command, cwd=head, env=environment, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"going on from the copy in {bucket}" in again.stdout
    after = leaderboard(bucket)
    after = after[after["trial"].notna()].set_index("trial")
    assert len(after) == 5 and set(after["state"]) == {"complete"}
    assert after.loc[ended.index, "objective"].equals(ended["objective"])
    assert (after.loc[ended.index, "attempts"] == 1).all()
    assert after["seeds"].max() == 2
    weights = (bucket / "best" / "model.safetensors").read_bytes()
    assert weights == (head / "runs/mine/best/model.safetensors").read_bytes()
    assert not (head / "runs/mine/trials").exists()

    home = tmp_path / "home"
    home.mkdir()
    fetch = [sys.executable, "-m", "seqsweep", "fetch", "mine", "--storage", bucket.store]
    fetched = subprocess.run(fetch, cwd=home, env=environment, capture_output=True, text=True, timeout=60)
    assert fetched.returncode == 0 and "into runs/mine" in fetched.stdout, fetched.stderr
    assert (home / "runs/mine/best/model.safetensors").read_bytes() == weights
    assert not (home / "runs/mine/trials").exists()


def test_what_can_not_be_fetched(tmp_path: Path, bucket: BucketPath) -> None:
    with pytest.raises(UserError, match=r"there is no study in s3://bucket-.*/studies/mine"):
        fetch_from_store(bucket, tmp_path / "mine", {})
    (bucket / JOURNAL_NAME).write_bytes(b"one\n")
    assert fetch_from_store(bucket, tmp_path / "mine", {}) == 4
    assert fetch_from_store(bucket, tmp_path / "mine", {}) == 4  # a copy may be replaced
    (tmp_path / "own").mkdir()
    with pytest.raises(UserError, match="was not fetched"):
        fetch_from_store(bucket, tmp_path / "own", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "own"]


def leaderboard(bucket: BucketPath) -> pd.DataFrame:
    table = pq.read_table(io.BytesIO((bucket / "leaderboard.parquet").read_bytes()))
    frame: pd.DataFrame = table.to_pandas()
    return frame


def num_ended(bucket: BucketPath) -> int:
    if not (bucket / "leaderboard.parquet").exists():
        return 0
    return int((leaderboard(bucket)["state"] == "complete").sum())
