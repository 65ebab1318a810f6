from pathlib import Path

import optuna
import pytest

from seqsweep.results.schema import Hparam
from seqsweep.sweep.driver.budget import Budget, folder_bytes
from seqsweep.sweep.settings.budgets import BudgetConfig
from seqsweep.sweep.settings.search import SearchConfig
from seqsweep.sweep.study.study import Study


def space(trial: optuna.Trial) -> dict[str, Hparam]:
    return {"model": "a", "x": trial.suggest_float("x", 0, 1)}


def open_study(folder: Path) -> Study:
    return Study.open(folder, name="s", seed=1, search=SearchConfig(trials=9, pruner="none"), space=space)


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_without_bounds_nothing_is_stopped(tmp_path: Path) -> None:
    clock = Clock()
    with open_study(tmp_path) as study:
        budget = Budget(BudgetConfig(), tmp_path, clock)
        clock.seconds = 1e9
        budget.step(study)
        assert study.stopped_because is None


def test_hours_of_one_start(tmp_path: Path) -> None:
    clock = Clock()
    with open_study(tmp_path) as study:
        budget = Budget(BudgetConfig(max_hours=2), tmp_path, clock)
        clock.seconds = 2 * 3600 - 1
        budget.step(study)
        assert study.has_more
        clock.seconds += 4
        budget.step(study)
        assert study.stopped_because == "max_hours=2 are over" and study.stopped_by_budget
        assert not study.has_more
    with open_study(tmp_path) as study:  # another start has its own
        Budget(BudgetConfig(max_hours=2), tmp_path, clock).step(study)
        assert study.has_more


def test_device_hours_of_all_starts(tmp_path: Path) -> None:
    for expected in (None, "max_device_hours=1 are used"):
        with open_study(tmp_path) as study:
            request = study.ask()
            assert request is not None
            epoch = request.last_epoch + 1
            study.report(request.trial_number, {"epoch": epoch, "objective": 0.1, "device_seconds": 2000.0})
            Budget(BudgetConfig(max_device_hours=1), tmp_path).step(study)
            assert study.stopped_because == expected


def test_minutes_of_a_trial_count_over_its_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_study(tmp_path) as study:
        request = study.ask()
        assert request is not None
        times = {"seconds": 60.0, "eval_seconds": 10.0, "device_seconds": 140.0}  # of two workers
        study.report(request.trial_number, {"epoch": 1, "objective": 0.1, **times})
        study.interrupted(0, "killed")
        assert study.ask() is not None and study.ask() is not None
        budget = Budget(BudgetConfig(max_trial_minutes=1), tmp_path)
        budget.step(study)
        assert study.live == {1}
        record = study.record(0)
        assert (record.state, record.stopped_because) == ("pruned", "time_limit")


def test_disk(tmp_path: Path) -> None:
    with open_study(tmp_path) as study:
        (tmp_path / "trials").mkdir()
        (tmp_path / "trials/weights").write_bytes(bytes(2_000_000))
        assert 2_000_000 < folder_bytes(tmp_path) < 2_100_000
        Budget(BudgetConfig(max_disk_gb=0.01), tmp_path).step(study)
        assert study.stopped_because is None
        Budget(BudgetConfig(max_disk_gb=0.002), tmp_path).step(study)
        assert study.stopped_because is not None and "max_disk_gb=0.002" in study.stopped_because
