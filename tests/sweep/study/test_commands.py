"""Commands on a study, with and without a driver; what they record is read back from the journal."""

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from seqsweep.results.schema import Hparam
from seqsweep.search_spaces.branches import Space
from seqsweep.sweep.errors import StudyError, UserError
from seqsweep.sweep.settings.search import SearchConfig
from seqsweep.sweep.study import commands
from seqsweep.sweep.study.commands import FOLDER, Command, Inbox, execute, post
from seqsweep.sweep.study.study import Study


def space(trial: optuna.Trial) -> dict[str, Hparam]:
    return {"model": "a", "x": trial.suggest_float("x", 0, 1)}


def make_space(attributes: Mapping[str, Any]) -> Space:
    return space


def open_study(folder: Path, **search: Any) -> Study:
    settings = SearchConfig(**{"trials": 2, "pruner": "none", **search})
    return Study.open(folder, name="s", seed=1, search=settings, space=space)


def finish(study: Study, objective: float = 0.5) -> int:
    request = study.ask()
    assert request is not None
    study.report(request.trial_number, {"epoch": 1, "objective": objective})
    study.complete(request.trial_number)
    return request.trial_number


def fail(study: Study) -> int:
    request = study.ask()
    assert request is not None
    study.failed(request.trial_number, "diverged", "nan", "")
    return request.trial_number


class Driver(threading.Thread):
    """Holds the study and takes commands up, as the driver does in its steps."""

    def __init__(self, study: Study, folder: Path) -> None:
        super().__init__()
        self.study, self.inbox = study, Inbox(folder)
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            self.inbox.step(self.study)
            time.sleep(0.02)

    def __enter__(self) -> "Driver":
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.ended.set()
        self.join()


def test_with_no_driver_a_command_writes_itself(tmp_path: Path) -> None:
    with open_study(tmp_path) as study:
        finish(study), finish(study)
        assert not study.has_more
    assert execute(tmp_path, Command(action="extend", num_trials=3)) == "the budget is 5 trials"
    with open_study(tmp_path) as study:
        assert study.num_trials == 5 and study.has_more
    assert not (tmp_path / FOLDER).exists()


def test_a_running_driver_takes_commands_up(tmp_path: Path) -> None:
    with open_study(tmp_path) as study:
        first = study.ask()
        assert first is not None
        with Driver(study, tmp_path):
            assert execute(tmp_path, Command(action="extend", num_trials=1)) == "the budget is 3 trials"
            queued = execute(tmp_path, Command(action="enqueue", points=({"x": 0.25},)), make_space)
            assert queued == "1 trial queued; the budget is 4 trials"
            assert execute(tmp_path, Command(action="stop_trial", trials=(0,))) == "trial 0 is stopped"
            with pytest.raises(StudyError, match="x must be within"):
                execute(tmp_path, Command(action="enqueue", points=({"x": 7},)), make_space)
            assert execute(tmp_path, Command(action="stop")).startswith("study 's' stops")
        assert study.stopped_because == "the stop command"
        assert study.records()[0].stopped_because == "stopped_by_user"
    assert list((tmp_path / FOLDER).iterdir()) == []
    with open_study(tmp_path) as study:
        request = study.ask()
        assert request is not None and request.hparams["x"] == 0.25


def test_a_command_is_done_once_however_often_it_is_taken_up(tmp_path: Path) -> None:
    command = Command(action="extend", num_trials=5)
    with open_study(tmp_path) as study:
        for _ in range(3):  # a driver killed before it could remove the file finds it again
            post(tmp_path, command)
            Inbox(tmp_path).step(study)
        assert study.num_trials == 7
    assert execute(tmp_path, command) == "the budget is 7 trials"


def test_what_is_no_command_is_put_aside(tmp_path: Path) -> None:
    with open_study(tmp_path) as study:
        path = post(tmp_path, Command(action="extend", num_trials=1))
        path.write_text(json.dumps({"action": "delete"}))
        Inbox(tmp_path).step(study)
        assert study.num_trials == 2
    assert [file.suffix for file in (tmp_path / FOLDER).iterdir()] == [".refused"]


def test_failed_trials_are_tried_again_with_the_same_hparams(tmp_path: Path) -> None:
    with open_study(tmp_path, trials=3) as study:
        good, first, second = finish(study), fail(study), fail(study)
    assert execute(tmp_path, Command(action="retry")) == "queued again as trials 3, 4"
    assert execute(tmp_path, Command(action="retry")) == "no failed trial is left to try again"
    with pytest.raises(StudyError, match="trial 0 is complete"):
        execute(tmp_path, Command(action="retry", trials=(good,)))
    with pytest.raises(StudyError, match="trials 0 to 4, got 9"):
        execute(tmp_path, Command(action="retry", trials=(9,)))
    with open_study(tmp_path, trials=3) as study:
        assert [finish(study), fail(study)] == [3, 4]
        assert study.ask() is None
        records = study.records()
        assert [records[3].hparams, records[4].hparams] == [records[first].hparams, records[second].hparams]
        assert [record.retry_of for record in records] == [None, None, None, first, second]
        # A sampler learns from it: the values are the trial's own.
        assert study.trial(3).params == study.trial(first).params
    assert execute(tmp_path, Command(action="retry")) == "queued again as trial 5"  # 4 failed again


@pytest.mark.parametrize("state", ["queued", "interrupted", "complete"])
def test_stopping_a_trial_that_nobody_runs(tmp_path: Path, state: str) -> None:
    with open_study(tmp_path, trials=2) as study:
        if state == "queued":
            study.enqueue({"x": 0.5})
        if state == "interrupted":
            study.ask()
        if state == "complete":
            finish(study)
    stop = Command(action="stop_trial", trials=(0,))
    if state == "complete":
        with pytest.raises(StudyError, match="trial 0 has ended, it is complete"):
            execute(tmp_path, stop)
        return
    assert execute(tmp_path, stop) == "trial 0 is stopped"
    with open_study(tmp_path) as study:
        assert study.records()[0].state == "pruned"
        assert finish(study) == 1  # it is not handed out again, and counts


def test_stop_without_a_driver_says_so(tmp_path: Path) -> None:
    open_study(tmp_path).close()
    with pytest.raises(StudyError, match="no driver is running"):
        execute(tmp_path, Command(action="stop"))


def test_the_budget_keeps_a_trial(tmp_path: Path) -> None:
    open_study(tmp_path, trials=2).close()
    assert execute(tmp_path, Command(action="extend", num_trials=-1)) == "the budget is 1 trial"
    with pytest.raises(StudyError, match="must keep a trial"):
        execute(tmp_path, Command(action="extend", num_trials=-1))


def test_a_driver_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "TIMEOUT_S", 1.0)
    with open_study(tmp_path) as study:
        with pytest.raises(UserError, match="has not answered"):
            execute(tmp_path, Command(action="extend", num_trials=1))
        Inbox(tmp_path).step(study)
        assert study.num_trials == 3


def test_a_driver_that_ends_before_it_took_a_command_up(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    timer = threading.Timer(0.7, study.close)
    timer.start()
    assert execute(tmp_path, Command(action="extend", num_trials=1)) == "the budget is 3 trials"
    timer.join()
    with open_study(tmp_path) as again:
        Inbox(tmp_path).step(again)
        assert again.num_trials == 3
