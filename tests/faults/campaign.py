"""Kills a study's processes at random moments, starts it again, and checks that nothing was lost.

What must hold in the end, whatever was killed: every trial ended once and only once, no value of an ended
trial changed, no epoch that a checkpoint held was trained again, and the tables say what the journal says.
An epoch that was trained again would show: its report carries the seconds that it took.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch

from seqsweep.results.schema import EpochRecord
from seqsweep.sweep.storage.study_folder import JOURNAL_NAME
from seqsweep.sweep.storage.trial_files import checkpoint_path, load_checkpoint
from seqsweep.sweep.study.optuna_study import rungs_of
from seqsweep.sweep.study.study import Study

ROOT = Path(__file__).parents[2]
WORKER_NAME = "ray::ImplicitFunc"
SET_STATE = 6  # Optuna's journal: JournalOperation.SET_TRIAL_STATE_VALUES
ENDED_STATES = (1, 2, 3)  # COMPLETE, PRUNED, FAIL
TIMEOUT_S = 1800

Seconds = dict[tuple[int, int], float]  # that an epoch took, by trial and epoch


@dataclass
class Tally:
    driver_kills: int = 0
    worker_kills: int = 0
    starts: int = 0
    trials: int = 0
    epochs_in_checkpoints: int = 0  # of trials that were running when something was killed
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.driver_kills + self.worker_kills} kills ({self.driver_kills} of the driver, "
            f"{self.worker_kills} of workers), {self.starts} starts, {self.trials} trials, "
            f"{self.epochs_in_checkpoints} epochs found in checkpoints of interrupted trials, "
            f"{len(self.problems)} problems"
        )


def run_campaign(folder: Path, arguments: tuple[str, ...], num_kills: int, seed: int) -> Tally:
    """Run `seqsweep run ...` to its end in `folder`, killing something `num_kills` times on the way."""
    chance = random.Random(seed)
    study_folder = folder / "runs" / "faults"
    tally = Tally()
    ended: dict[int, tuple[str, float | None]] = {}
    saved: Seconds = {}
    kills_left = num_kills
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        tally.starts += 1
        driver = start(folder, arguments)
        assert time.monotonic() < deadline, f"not finished after {TIMEOUT_S} s: {tally}"
        while kills_left and wait_for_progress(driver, study_folder, chance):
            victim = choose_victim(driver, chance)
            os.kill(victim, signal.SIGKILL)
            kills_left -= 1
            if victim == driver.pid:
                driver.wait()
                tally.driver_kills += 1
            else:
                tally.worker_kills += 1
            look(study_folder, ended, saved, tally)
            if victim == driver.pid:
                break
        output, _ = driver.communicate()
        if driver.returncode == 0:
            break
        if driver.returncode != -signal.SIGKILL:
            tally.problems.append(f"exit status {driver.returncode}: {output[-2000:]}")
            return tally
    look(study_folder, ended, saved, tally)
    check_end(study_folder, tally)
    return tally


def start(folder: Path, arguments: tuple[str, ...]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "seqsweep", "run", "--name", "faults", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_progress(driver: subprocess.Popen[str], study_folder: Path, chance: random.Random) -> bool:
    """Wait until the journal has grown, then a random moment more; false if the driver ended before."""
    journal = study_folder / JOURNAL_NAME
    grown_by = chance.choice([1, 3_000, 20_000])
    size = journal.stat().st_size if journal.exists() else 0
    while not journal.exists() or journal.stat().st_size < size + grown_by:
        if driver.poll() is not None:
            return False
        time.sleep(0.02)
    time.sleep(chance.uniform(0, 1.5))
    return driver.poll() is None


def choose_victim(driver: subprocess.Popen[str], chance: random.Random) -> int:
    workers = [
        pid for pid, parents, name in processes() if driver.pid in parents and name.startswith(WORKER_NAME)
    ]
    return chance.choice(workers) if workers and chance.random() < 0.4 else driver.pid


def processes() -> list[tuple[int, set[int], str]]:
    """Number, ancestors and command line of all that run."""
    parent: dict[int, int] = {}
    name: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            name[int(folder.name)] = (folder / "cmdline").read_text()
            parent[int(folder.name)] = int(status[1])
        except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
            continue
    return [(pid, set(ancestors(pid, parent)), name[pid]) for pid in parent]


def ancestors(pid: int, parent: Mapping[int, int]) -> Iterator[int]:
    while parent.get(pid):
        pid = parent[pid]
        yield pid


def look(
    study_folder: Path, ended: dict[int, tuple[str, float | None]], saved: Seconds, tally: Tally
) -> None:
    """Compare what is there with what was there after the kill before."""
    if not (study_folder / JOURNAL_NAME).exists():
        return
    with Study.read(study_folder) as study:
        records = [*study.records(), *(run.record for run in study.finalist_runs())]
        epochs = study.epoch_records()
    for record in records:
        assert record.trial is not None
        if record.state in ("complete", "pruned", "failed"):
            before = ended.setdefault(record.trial, (record.state, record.objective))
            if before != (record.state, record.objective):
                tally.problems.append(f"trial {record.trial} was {before}, is {record}")
    for record in records:
        assert record.trial is not None
        checkpoint = seconds_in_checkpoint(study_folder, record.trial)
        compare_seconds(saved, checkpoint, "checkpoint", tally)
        if record.state == "running":
            tally.epochs_in_checkpoints += len(checkpoint.keys() - saved.keys())
            saved |= checkpoint
    compare_seconds(saved, seconds_recorded(epochs), "journal", tally)


def seconds_in_checkpoint(study_folder: Path, trial: int) -> Seconds:
    path = checkpoint_path(study_folder, trial)
    if not path.exists():
        return {}
    reports = load_checkpoint(path, torch.device("cpu"))["state"]["reports"]
    return {(trial, report["epoch"]): report["seconds"] for report in reports}


def seconds_recorded(epochs: list[EpochRecord]) -> Seconds:
    return {(e.trial, e.epoch): e.seconds for e in epochs if e.seconds is not None}


def compare_seconds(saved: Seconds, now: Seconds, where: str, tally: Tally) -> None:
    for key in saved.keys() & now.keys():
        if saved[key] != now[key]:
            tally.problems.append(f"trial {key[0]}, epoch {key[1]} was trained again, says the {where}")


def check_end(study_folder: Path, tally: Tally) -> None:
    with Study.read(study_folder) as study:
        records, runs, epochs = study.records(), study.finalist_runs(), study.epoch_records()
        total = study.num_trials
        first_rung = min(rungs_of(study.search, "sasrec"), default=1)
    tally.trials = len(records) + len(runs)
    unended = [r for r in [*records, *(run.record for run in runs)] if r.state not in ("complete", "pruned")]
    if unended or len(records) != total:
        tally.problems.append(f"{len(records)} of {total} trials, not ended well: {unended}")
    ends = count_ends(study_folder / JOURNAL_NAME)
    if set(ends.values()) != {1} or len(ends) != tally.trials:
        tally.problems.append(f"times that each trial ended: {ends}")
    frame = pd.read_parquet(study_folder / "leaderboard.parquet").dropna(subset="trial")
    told = dict(zip(frame["trial"], zip(frame["state"], frame["objective"], strict=True), strict=True))
    if told != {r.trial: (r.state, r.objective) for r in records}:
        tally.problems.append("the leaderboard differs from the journal")
    table = pd.read_parquet(study_folder / "epochs.parquet")
    listed = list(table[["trial", "epoch", "objective"]].itertuples(index=False, name=None))
    if listed != sorted((e.trial, e.epoch, e.objective) for e in epochs):
        tally.problems.append("the epochs differ from the journal")
    for trial in {e.trial for e in epochs}:
        numbers = [e.epoch for e in epochs if e.trial == trial]
        if numbers != list(range(first_rung, first_rung + len(numbers))):
            tally.problems.append(f"trial {trial} has epochs {numbers}")
    left = [p.name for p in study_folder.rglob("*staging*")] + [p.name for p in study_folder.glob("ray")]
    if left:
        tally.problems.append(f"left over: {left}")


def count_ends(journal: Path) -> Counter[int]:
    """How often the journal says of each trial that it ended."""
    logs: list[Mapping[str, object]] = [json.loads(line) for line in journal.read_text().splitlines()]
    return Counter(
        int(str(log["trial_id"]))
        for log in logs
        if log["op_code"] == SET_STATE and log["state"] in ENDED_STATES
    )
