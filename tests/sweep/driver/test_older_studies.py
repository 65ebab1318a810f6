"""Studies made before the packages got their one name are gone on with, and used, as those of today.

`plain` has ended; of `stopped` the driver was killed among the finalists; `pareto` has two objectives.
"""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from seqsweep import load_epochs, load_leaderboard, load_model
from seqsweep.sweep.study.study import Study
from tests.commands import run

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests/fixtures/studies-2026-12"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(FIXTURES / "log.csv", tmp_path)
    for name in ("plain", "stopped", "pareto"):
        shutil.copytree(FIXTURES / name, tmp_path / "runs" / name)
    return tmp_path


def seqsweep(folder: Path, *words: str) -> str:
    done = run(folder, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_interrupted_one_is_resumed(folder: Path) -> None:
    before = load_epochs(folder / "runs/stopped")
    seqsweep(folder, "run", "stopped")
    after = load_epochs(folder / "runs/stopped")
    kept = before[["trial", "epoch"]].merge(after, on=["trial", "epoch"])
    assert kept["objective"].tolist() == before["objective"].tolist()  # no saved epoch was trained again
    with Study.read(folder / "runs/stopped") as study:
        assert {run.record.state for run in study.finalist_runs()} <= {"complete", "pruned"}


def test_an_ended_one_is_extended(folder: Path) -> None:
    before = load_leaderboard(folder / "runs/plain")
    seqsweep(folder, "run", "plain", "--trials", "5")
    after = load_leaderboard(folder / "runs/plain")
    assert (after["state"] != "baseline").sum() == (before["state"] != "baseline").sum() + 1
    both = before[before["state"] != "baseline"].merge(after, on="trial", suffixes=("", ".after"))
    for column in ("valid.ndcg@10", "best_epoch", "epochs"):
        assert both[column].tolist() == both[f"{column}.after"].tolist()


@pytest.mark.parametrize("name", ["plain", "pareto"])
def test_a_trial_is_reproduced(folder: Path, name: str) -> None:
    assert "trial 0: 3 epochs" in seqsweep(folder, "reproduce", name, "0")


def test_its_model_recommends(folder: Path) -> None:
    model = load_model(folder / "runs/plain/best", "cpu")
    ids = model.item_ids
    assert len(model.recommend([[ids[0], ids[1]]], k=3)) == 3
    seqsweep(folder, "recommend", "plain", "--out", "top.parquet")
    assert pd.read_parquet(folder / "top.parquet")["user"].nunique() == 60
