"""The record of curves: drawn, trained with a stop between, and packed."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.search_quality import record

TINY = {"model": "sasrec", "hidden_dim": 16, "max_len": 10, "loss": "ce", "batch_size": 512}


def task(config: int, **hparams: float) -> record.Task:
    return {"log": "demo", "config": config, "source": "wide", "seed": 0, "hparams": {**TINY, **hparams}}


@pytest.fixture
def short_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(record.LOGS, "demo", record.Log("demo", "generated", 3, {"max_users": 300}))
    monkeypatch.setattr(record, "CACHE", tmp_path / "cache")
    record.opened.cache_clear()


def test_every_log_gets_the_same_configurations() -> None:
    tasks = list(record.draw(["demo", "lastfm"], 2, 3))
    by_log = {name: [t["hparams"] for t in tasks if t["log"] == name] for name in ("demo", "lastfm")}
    assert by_log["demo"] == by_log["lastfm"]
    assert [t["source"] for t in tasks if t["log"] == "demo"][-5:] == ["wide"] * 2 + ["narrowed"] * 3
    narrowed = [t["hparams"] for t in tasks if t["source"] == "narrowed"]
    assert all(5e-4 <= hparams["lr"] <= 2e-3 and hparams["hidden_dim"] >= 48 for hparams in narrowed)


def test_a_curve_has_every_epoch_and_a_poor_one_is_cut(short_log: None) -> None:
    whole = record.train_task(task(0), best=0.0)
    assert [epoch["epoch"] for epoch in whole["epochs"]] == [1, 2, 3]
    assert whole["test"] is not None and not whole["is_cut"] and whole["error"] is None
    assert all(epoch["cpu_s"] > 0 for epoch in whole["epochs"])
    cut = record.train_task(task(0), best=1.0)
    assert cut["is_cut"] and cut["test"] is None and len(cut["epochs"]) == 2  # from two fifths of three on
    assert cut["epochs"][0]["objective"] == whole["epochs"][0]["objective"]


def test_what_is_there_is_not_trained_again_and_all_is_packed(tmp_path: Path, short_log: None) -> None:
    done = [record.train_task(task(config), best=0.0) for config in (0, 1)]
    out = tmp_path / "curves.jsonl"
    out.write_text("".join(json.dumps(training) + "\n" for training in done))
    record.train_all([task(0), task(1)], out, jobs=1, max_hours=1)
    assert record.read(out) == done
    record.pack(done, tmp_path / "packed")
    trainings = pq.read_table(tmp_path / "packed/trainings.parquet").to_pylist()
    assert [json.loads(row["hparams"]) for row in trainings] == [training["hparams"] for training in done]
    assert pq.read_table(tmp_path / "packed/epochs.parquet").num_rows == 6
