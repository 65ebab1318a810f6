"""What users run: `seqsweep run` with all its defaults, to the end."""

import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seqsweep.sweep.study.study import Study
from tests.commands import start

ROOT = Path(__file__).parents[3]
COMMAND = ("run", "--data", "log.txt", "--name", "mine")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log that nobody predicts wholly: every third step of a walk around a ring is a leap."""
    generator = np.random.default_rng(0)
    lines = []
    for user in range(120):
        item, length = generator.integers(30), generator.integers(6, 25)
        for step in range(length):
            lines.append(f"{user} {item} {1000 * user + step}")
            item = (item + 1) % 30 if generator.random() < 2 / 3 else generator.integers(30)
    (tmp_path / "log.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def kill_during_finalists(folder: Path, driver: subprocess.Popen[str]) -> None:
    while not (folder / "runs/mine/study.journal").exists():
        assert driver.poll() is None
        time.sleep(0.1)
    with Study.read(folder / "runs/mine") as study:
        while "complete" not in (states := [run.record.state for run in study.finalist_runs()]):
            assert driver.poll() is None, states
            time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()


@pytest.mark.parametrize("is_killed", [False, True], ids=["uninterrupted", "killed"])
def test_a_default_study_ends(folder: Path, is_killed: bool) -> None:
    driver = start(folder, *COMMAND)
    if is_killed:
        kill_during_finalists(folder, driver)
        driver = start(folder, *COMMAND)
    output, _ = driver.communicate(timeout=240)
    assert driver.returncode == 0, output
    assert (folder / "runs/mine/best/model.safetensors").is_file() and "best model: runs/mine/best" in output
    with Study.read(folder / "runs/mine") as study:
        assert not study.race().to_train()
        trials, runs = study.records(), study.finalist_runs()
    assert len(trials) == 20 and {trial.state for trial in trials} <= {"complete", "pruned"}
    pairs = {(run.finalist_of, run.seed_index) for run in runs}
    assert len(pairs) == len(runs) <= 9 and {run.record.state for run in runs} <= {"complete", "pruned"}
    frame = pd.read_parquet(folder / "runs/mine/leaderboard.parquet")
    assert frame["seeds"].max() == 3  # the winner has all its trainings
