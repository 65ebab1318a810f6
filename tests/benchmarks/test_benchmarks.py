"""The benchmarks in a very short form: that they run and write a record that README.md can be made of."""

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import growth, large_catalogue, learning, readme
from benchmarks.cases import Case, chosen
from benchmarks.floor import Floor, block_flops, training_lengths
from benchmarks.generated import prepared_log
from benchmarks.record import HERE, add_settings, cell, measured, newest, write
from tests.logs import log_of

SHORT = {
    "train_epoch": ["--cases", "demo-bce", "--repeats", "1"],
    "rank_users": ["--cases", "demo", "--repeats", "1"],
    "growth": [
        *("--users", "60", "--items", "40", "--length", "8", "--width", "8"),
        *("--losses", "bce", "--repeats", "1", "--cases", "items x 10"),
    ],
    "large_catalogue": [
        "--items",
        "3000",
        "--steps",
        "1",
        "--rank-users",
        "20",
        "--losses",
        "sampled_softmax",
    ],
    "tisasrec_memory": ["--steps", "1", "--batch", "4", "--length", "8", "--heads", "1"],
    "mhc_overhead": ["--steps", "1", "--batch", "4", "--length", "8", "--widths", "8"],
}


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setenv("SEQSWEEP_DATA", "nowhere")
    yield
    torch.set_num_threads(before)


def run_short(name: str, folder: Path) -> dict[str, Any]:
    script = importlib.import_module(f"benchmarks.{name}")
    script.main([*SHORT[name], "--threads", "1", "--device", "cpu", "--records", str(folder)])
    (record,) = newest(name, folder)
    return record


def in_process(function: Any, *arguments: Any) -> Any:
    """In place of a process of its own, which takes seconds to start; tisasrec_memory keeps its real ones."""
    return function(*arguments)


@pytest.mark.parametrize("name", SHORT)
def test_a_benchmark_writes_a_record_with_its_machine(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for script in (growth, large_catalogue):
        monkeypatch.setattr(script, "in_child", in_process)
    record = run_short(name, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}-{record['date'][:10]}.json"]
    assert record["machine"]["cores"] >= 1
    assert record["machine"]["threads"] == 1
    assert record["machine"]["device"] == "cpu"
    assert record["rows"]
    assert "|" in readme.table(record["rows"])
    assert record["machine"]["cpu"] in readme.facts(record)


def test_growth_is_told_as_ratios_to_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(function: Any, *arguments: Any) -> Any:
        if function is prepared_log:
            return tmp_path
        size = arguments[0]
        ours = {"epoch_s": size.users, "rank_s": size.items, "peak_mb": size.width * size.length}
        return ours | {"epoch_floor": 0.5, "rank_floor": 0.25}

    monkeypatch.setattr(growth, "in_child", fake)
    growth.main(["--losses", "bce", "--records", str(tmp_path), "--device", "cpu"])
    (record,) = newest("growth", tmp_path)
    assert {row["epoch_share_of_floor"] for row in record["rows"]} == {"50 %"}
    keys = ("epoch_ratio", "rank_ratio", "peak_ratio")
    ratios = {row["case"]: [row[key] for key in keys] for row in record["rows"]}
    assert ratios == {
        "base": [1, 1, 1],
        "users x 10": [10, 1, 1],
        "items x 10": [1, 10, 1],
        "length x 4": [1, 1, 4],
        "width x 4": [1, 1, 4],
    }


def test_peers_in_their_short_form_say_an_epoch_and_a_user(tmp_path: Path) -> None:
    lines = [f"{user} {(user + step) % 20 + 1}\n" for user in range(1, 40) for step in range(6)]
    (tmp_path / "log.txt").write_text("".join(lines))
    command = [sys.executable, str(HERE / "peers" / "as_pmixer.py"), str(tmp_path / "log.txt")]
    done = subprocess.run(
        [*command, "--max-len", "5", "--steps", "1", "--users", "2", "--threads", "1"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert json.loads(done.stdout).keys() == {"epoch_s", "rank_ms_a_user"}


def test_the_median_and_spread_of_repeats() -> None:
    assert measured([3.0, 1.0, 2.5]) == {"median": 2.5, "low": 1.0, "high": 3.0, "values": [3.0, 1.0, 2.5]}
    assert cell(measured([3.0, 1.0, 2.5])) == "2.5 (1.0 – 3.0)"
    assert cell(measured([2.0])) == "2.0"


def test_a_later_record_is_the_newest_and_devices_are_kept_apart(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_settings(parser)
    arguments = parser.parse_args(["--records", str(tmp_path)])
    path = write("train_epoch", [{"case": "now"}], arguments)
    record = json.loads(path.read_text())
    old = {**record, "date": "2000-01-01T00:00:00+00:00", "rows": [{"case": "old"}]}
    (tmp_path / "train_epoch-2000-01-01.json").write_text(json.dumps(old))
    gpu = {**record, "machine": {**record["machine"], "device": "cuda", "gpu": "a GPU"}, "rows": []}
    (tmp_path / "train_epoch-cuda-2000-01-01.json").write_text(json.dumps(gpu))
    assert [found["rows"] for found in newest("train_epoch", tmp_path)] == [[{"case": "now"}], []]
    assert str(tmp_path) not in path.read_text()  # a record says nothing of where things lie


def test_counts_of_the_floor() -> None:
    assert block_flops(200, 50) == 12 * 50**2 + 4 * 200 * 50
    assert block_flops(200, 50, attention=8) == 12 * 50**2 + 8 * 200 * 50
    assert block_flops(200, 50, residual="mhc") - block_flops(200, 50) == 496 * 50 + 2240
    log = log_of([[1, 2, 3, 4, 5], [1, 2, 3], [2]], num_items=5)
    train_end_U = log.offset_U[1:] - np.array([2, 0, 0])  # 3, 3 and 1 to train on
    assert training_lengths(log, train_end_U, max_len=50).tolist() == [2, 2]
    assert training_lengths(log, train_end_U, max_len=1).tolist() == [1, 1]
    assert Floor(1.0, 2.0).share(8.0) == "25 %"


def test_without_real_logs_the_generated_one_is_taken() -> None:
    cases = {"games": Case("games", 50), "demo": Case("demo", 50)}
    assert list(chosen(cases, None)) == ["demo"]
    assert list(chosen(cases, ["games"])) == ["games"]


def test_the_readme_is_what_the_records_say() -> None:
    readme.main(["--check"])


def test_learning_keeps_what_it_has_trained(tmp_path: Path) -> None:
    trainings = tmp_path / "trainings.jsonl"
    arguments = ["--logs", "demo", "--seeds", "0", "--max-epochs", "1", "--trainings", str(trainings)]
    arguments += ["--records", str(tmp_path), "--variant", "base:max_len=20,hidden_dim=16"]
    learning.main([*arguments, "--seeds", "0"])
    learning.main(
        [*arguments, "--variant", "seen:max_len=20,hidden_dim=16,exclude_seen=true", "--seeds", "0"]
    )
    kept = learning.read(trainings)
    assert [training["variant"] for training in kept] == ["base", "seen"]
    assert kept[0]["valid"] != kept[1]["valid"] and len(kept[0]["curve"]) == 1
    (record,) = newest("learning", tmp_path)
    assert [row["variant"] for row in record["rows"]] == ["base", "seen"]
    gain = kept[1]["valid"] / kept[0]["valid"] - 1
    assert record["rows"][0]["valid_gain"] is None and record["rows"][1]["valid_gain"] == f"{gain:+.1%}"
