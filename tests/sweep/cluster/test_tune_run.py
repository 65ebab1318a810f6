import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from ray import tune

from seqsweep.results.schema import Hparam
from seqsweep.sweep.cluster import tune_adapters, tune_run
from seqsweep.sweep.cluster.tune_run import Trainable, run_trials
from seqsweep.sweep.errors import StudyError
from seqsweep.sweep.settings.budgets import FinalistConfig
from seqsweep.sweep.settings.search import SearchConfig
from seqsweep.sweep.study.study import Study
from tests.commands import output_of

Faults = Mapping[tuple[int, int, int], str]  # by trial, attempt and epoch: what happens after its report


def space(trial: optuna.Trial) -> dict[str, Hparam]:
    return {"model": "toy", "x": trial.suggest_float("x", 0, 1)}


def toy(folder: Path, *, epochs: int = 3, epoch_s: float = 0.0, faults: Faults | None = None) -> Trainable:
    """A trainable that writes down its attempts. A function within, so that workers get its code."""

    def train(config: dict[str, Any]) -> None:
        request = config["request"]
        number, attempt = request["trial_number"], request["attempt"]
        with (folder / "attempts.jsonl").open("a") as file:
            file.write(json.dumps({**request, "pid": os.getpid()}) + "\n")
        for epoch in range(request["last_epoch"] + 1, epochs + 1):
            time.sleep(epoch_s)
            fault = (faults or {}).get((number, attempt, epoch))
            objective = float("nan") if fault == "nan" else request["hparams"]["x"] + 0.01 * epoch
            tune.report(
                {"epoch": epoch, "objective": objective, "valid": {"mrr": objective}, "device": "toy"}
            )
            if fault == "killed":
                os.kill(os.getpid(), 9)
            if fault == "diverged":
                raise FloatingPointError("loss is nan")
            if fault == "error":
                raise KeyError("no such layer")
            if fault == "out of memory":
                raise MemoryError("can't allocate")
            if fault == "hangs":
                time.sleep(600)
            if fault == "odd report":
                tune.report({"epoch": epoch + 1, "loss": 0.5})

    return train


def attempts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "attempts.jsonl").read_text().splitlines()]


def open_study(
    folder: Path, *points: dict[str, Hparam], finalists: FinalistConfig | None = None, **search: Any
) -> Study:
    settings = SearchConfig(**{"trials": 4, "pruner": "none", **search})
    return Study.open(
        folder, name="s", seed=1, search=settings, space=space, finalists=finalists, enqueue=points
    )


def nothing() -> None:
    pass


def run(
    study: Study,
    trainable: Trainable,
    folder: Path,
    *,
    concurrency: Callable[[], int] = lambda: 2,
    on_step: Callable[[], None] = nothing,
) -> None:
    run_trials(
        study, trainable, resources={"CPU": 1}, concurrency=concurrency, folder=folder, on_step=on_step
    )


pytestmark = pytest.mark.usefixtures("ray_address")


def test_trials_run_to_their_end_on_reused_workers(tmp_path: Path) -> None:
    environment = dict(os.environ)
    with open_study(tmp_path, trials=6) as study:
        run(study, toy(tmp_path), tmp_path)
        assert study.counts() == {"complete": 6} and study.live == frozenset()
        for record in study.records():
            assert record.objective == pytest.approx(float(record.hparams["x"]) + 0.03)
            assert (record.epochs, record.valid, record.device) == (3, {"mrr": record.objective}, "toy")
            assert record.attempts == 1
    assert len({attempt["pid"] for attempt in attempts(tmp_path)}) <= 2
    assert not (tmp_path / "ray").exists()
    assert dict(os.environ) == environment


def test_poor_trials_are_pruned(tmp_path: Path) -> None:
    with open_study(
        tmp_path, trials=8, pruner="asha", grace_epochs=2, reduction_factor=2, max_epochs=4
    ) as study:
        run(study, toy(tmp_path, epochs=4), tmp_path, concurrency=lambda: 1)
        epochs = {record.state: set[int | None]() for record in study.records()}
        for record in study.records():
            epochs[record.state].add(record.epochs)
        assert epochs == {"complete": {4}, "pruned": {2}}
        # Pruned is whoever is not in the better half of those until then, itself included.
        xs = [float(record.hparams["x"]) for record in study.records()]
        kept = [n == 0 or sum(x > xs[n] for x in xs[:n]) < (n + 1) // 2 for n in range(8)]
        assert [record.state == "complete" for record in study.records()] == kept
    assert (
        len({attempt["pid"] for attempt in attempts(tmp_path)}) == 1
    )  # a pruned trial's worker is used again


def test_each_failure_has_its_state(tmp_path: Path) -> None:
    faults = {
        (0, 1, 2): "killed",
        (1, 1, 2): "diverged",
        (2, 1, 2): "nan",
        (3, 1, 2): "error",
        (4, 1, 2): "odd report",
    }
    with open_study(tmp_path, trials=6) as study:
        run(study, toy(tmp_path, faults=faults), tmp_path)
        outcome = [(record.state, record.epochs, record.attempts, record.error) for record in study.records()]
        odd = "a report must have a number as objective, got {'epoch': 3, 'loss': 0.5}"
        assert outcome == [
            ("complete", 3, 2, None),
            ("failed", 2, 1, "diverged: FloatingPointError: loss is nan"),
            ("failed", 1, 1, "diverged: objective is nan at epoch 2"),
            ("failed", 2, 1, "error: KeyError: 'no such layer'"),
            ("failed", 2, 1, f"error: {odd}"),
            ("complete", 3, 1, None),
        ]
        (death,) = study.trial(0).user_attrs["interruptions"]  # counted: the worker died, its node did not
        assert "its worker process has died" in death
        traceback = study._trials()[3].user_attrs["error"]["traceback"]
        assert 'raise KeyError("no such layer")' in traceback
    done = attempts(tmp_path)
    assert [a["last_epoch"] for a in done if a["trial_number"] == 0] == [0, 2]
    # Whoever raised is not used again: after a CUDA error a process must not go on.
    for index, attempt in enumerate(done):
        if attempt["trial_number"] in (1, 3):
            assert attempt["pid"] not in [later["pid"] for later in done[index + 1 :]]


def test_three_first_errors_stop_the_study(tmp_path: Path) -> None:
    faults = {(number, 1, 1): "error" for number in range(9)}
    with open_study(tmp_path, trials=9) as study:
        run(study, toy(tmp_path, faults=faults), tmp_path, concurrency=lambda: 1)
        assert study.counts() == {"failed": 3}
        assert study.stopped_because is not None and "no such layer" in study.stopped_because


def test_a_stop_leaves_trials_running_and_the_next_start_adopts_them(tmp_path: Path) -> None:
    """Also those whose epoch takes long: nobody waits for them."""
    with open_study(tmp_path, trials=3) as study:

        def stop_when_reported() -> None:
            if len(study.epoch_records()) >= 2 and study.stopped_because is None:
                study.stop("Ctrl-C")
                stopped_at.append(time.monotonic())

        stopped_at: list[float] = []
        slow_second_epoch = toy(tmp_path, faults={}, epoch_s=0.0)

        def train(config: dict[str, Any]) -> None:
            def sleep_then_report(report: dict[str, Any]) -> None:
                tune_report(report)
                time.sleep(60)

            tune_report, tune.report = tune.report, sleep_then_report
            slow_second_epoch(config)

        run(study, train, tmp_path, on_step=stop_when_reported)
        assert time.monotonic() - stopped_at[0] < 3
        assert study.counts() == {"running": 2} and study.live == frozenset()
    with open_study(tmp_path, trials=3) as study:
        run(study, toy(tmp_path), tmp_path)
        assert study.counts() == {"complete": 3}
    assert [attempt["last_epoch"] for attempt in attempts(tmp_path)[2:]] == [1, 1, 0]
    assert [attempt["attempt"] for attempt in attempts(tmp_path)[2:]] == [2, 2, 1]


def test_a_worker_that_can_not_be_reset_is_thrown_away_and_its_next_trial_handed_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune_run, "WORKER_ENVIRONMENT", {"TUNE_FUNCTION_THREAD_TIMEOUT_S": "1"})
    inner = toy(tmp_path)

    def winds_up_slowly(config: dict[str, Any]) -> None:
        try:
            inner(config)
        finally:
            if config["request"]["trial_number"] == 1:
                time.sleep(30)

    # Trial 1 is the worse of the first two, is pruned, and its thread lives on when trial 2 is to begin.
    points: list[dict[str, Hparam]] = [{"x": 0.9}, {"x": 0.1}, {"x": 0.95}]
    with open_study(tmp_path, *points, trials=3, pruner="asha", grace_epochs=1, reduction_factor=2) as study:
        run(study, winds_up_slowly, tmp_path, concurrency=lambda: 1)
        assert [(record.state, record.attempts) for record in study.records()] == [
            ("complete", 1),
            ("pruned", 1),
            ("complete", 2),
        ]


def test_a_trial_that_the_study_settled_stops_at_its_next_report(tmp_path: Path) -> None:
    with open_study(tmp_path, trials=2) as study:

        def stop_first() -> None:
            if 0 in study.live and study.epoch_records():
                study.pruned(0, "stopped_by_user")

        run(
            study,
            toy(tmp_path, epochs=100, epoch_s=0.02),
            tmp_path,
            concurrency=lambda: 1,
            on_step=stop_first,
        )
        first, second = study.records()
        assert first.state == "pruned" and first.epochs is not None and first.epochs < 100
        assert second.state == "complete"


def test_out_of_memory_is_tried_once_more_with_half_the_micro_batch(tmp_path: Path) -> None:
    faults = {(0, 1, 2): "out of memory", (1, 1, 1): "out of memory", (1, 2, 2): "out of memory"}
    with open_study(tmp_path, trials=3) as study:
        run(study, toy(tmp_path, faults=faults), tmp_path)
        outcome = [(record.state, record.attempts, record.error) for record in study.records()]
    error = "out_of_memory: MemoryError: can't allocate"
    assert outcome == [("complete", 2, None), ("failed", 2, error), ("complete", 1, None)]
    sizes = [(a["trial_number"], a["micro_batch_size"], a["last_epoch"]) for a in attempts(tmp_path)]
    assert sorted(sizes, key=str) == [(0, 64, 2), (0, None, 0), (1, 64, 1), (1, None, 0), (2, None, 0)]


def test_the_worker_of_a_trial_that_hangs_is_ended_once_the_study_has_settled_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune_adapters, "SECONDS_TO_STOP", 0.5)
    with open_study(tmp_path, trials=2) as study:

        def stop_first() -> None:
            if 0 in study.live and study.epoch_records():
                study.pruned(0, "time_limit")

        run(
            study,
            toy(tmp_path, faults={(0, 1, 1): "hangs"}),
            tmp_path,
            concurrency=lambda: 1,
            on_step=stop_first,
        )
        assert [(r.state, r.stopped_because) for r in study.records()] == [
            ("pruned", "time_limit"),
            ("complete", None),
        ]
    pids = [attempt["pid"] for attempt in attempts(tmp_path)]
    assert len(pids) == 2 and pids[0] != pids[1]


def test_finalists_run_when_the_search_is_done(tmp_path: Path) -> None:
    with open_study(tmp_path, trials=2, finalists=FinalistConfig(count=1, seeds=2)) as study:
        run(study, toy(tmp_path), tmp_path)
        assert [r.record.state for r in study.finalist_runs()] == ["complete", "complete"]
    assert [a["is_finalist"] for a in attempts(tmp_path)] == [False, False, True, True]
    assert len({a["seed"] for a in attempts(tmp_path)}) == 4


@pytest.mark.parametrize("within", [True, False], ids=["experiment", "loop"])
def test_more_that_nothing_is_started_of_is_an_error_not_a_loop(
    within: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_study(tmp_path, trials=1) as study:
        run(study, toy(tmp_path), tmp_path)
        monkeypatch.setattr(Study, "ask", lambda _: None)
        # Asked at the head of the loop, then within the experiment, then behind it.
        answers = iter([True, within])
        monkeypatch.setattr(Study, "has_more", property(lambda _: next(answers, True)))
        with pytest.raises(StudyError, match="has more to train, but nothing of it was started"):
            run(study, toy(tmp_path), tmp_path)


def test_concurrency_is_asked_for_again_and_again(tmp_path: Path) -> None:
    allowed = [0]
    num_live: set[int] = set()
    num_steps_without = []

    def on_step() -> None:
        if allowed == [0]:
            num_steps_without.append(1)
            if len(num_steps_without) == 2:
                allowed[0] = 1
        num_live.add(len(study.live))
        if study.counts()["complete"] == 3:
            allowed[0] = 2

    with open_study(tmp_path, trials=8) as study:
        run(study, toy(tmp_path, epoch_s=0.02), tmp_path, concurrency=lambda: allowed[0], on_step=on_step)
        assert study.counts() == {"complete": 8}
    assert num_live == {0, 1, 2}


def test_a_long_study_runs_as_several_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_adapters, "TRIALS_PER_EXPERIMENT", 2)
    with open_study(tmp_path, trials=3) as study:
        run(study, toy(tmp_path), tmp_path, concurrency=lambda: 1)
        assert study.counts() == {"complete": 3}
    first, second, third = (attempt["pid"] for attempt in attempts(tmp_path))
    assert first == second != third


def test_an_error_of_the_driver_comes_out_as_it_is(tmp_path: Path) -> None:
    def on_step() -> None:
        if study.epoch_records():
            raise OSError("no space for the leaderboard")

    with open_study(tmp_path, trials=2) as study:
        with pytest.raises(OSError, match="no space for the leaderboard"):
            run(study, toy(tmp_path, epoch_s=0.1), tmp_path, on_step=on_step)
        assert study.counts() == {"running": 2} and study.live == frozenset()


def test_a_study_without_work_starts_nothing(tmp_path: Path) -> None:
    with open_study(tmp_path) as study:
        study.stop("already")
        run(study, toy(tmp_path), tmp_path)
    assert not (tmp_path / "attempts.jsonl").exists()


DRIVER = """
import signal, sys, time
from pathlib import Path
import ray
sys.path.insert(0, sys.argv[3])
from test_tune_run import open_study, run, toy

folder = Path(sys.argv[1])
ray.init(address=sys.argv[2], log_to_driver=False, logging_level=40)
with open_study(folder, trials=6, pruner="asha", grace_epochs=2, reduction_factor=2) as study:
    signal.signal(signal.SIGINT, lambda number, frame: study.stop("SIGINT"))
    print("ready", flush=True)
    run(study, toy(folder, epochs=6, epoch_s=0.1), folder)
    print(study.stopped_because, flush=True)
"""


def test_a_killed_driver_goes_on_where_it_was(tmp_path: Path, ray_address: str) -> None:
    """Three starts of the same command: killed in the middle, interrupted by Ctrl-C, run to the end."""

    def start() -> subprocess.Popen[str]:
        arguments = [str(tmp_path), ray_address, str(Path(__file__).parent)]
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for_epochs(driver: subprocess.Popen[str], count: int) -> None:
        while True:
            assert driver.poll() is None, output_of(driver)
            if (tmp_path / "study.journal").exists() and "epoch." in (tmp_path / "study.journal").read_text():
                with Study.read(tmp_path) as reader:
                    if len(reader.epoch_records()) >= count:
                        return
            time.sleep(0.05)

    first = start()
    wait_for_epochs(first, 9)
    first.kill()
    first.communicate()
    with Study.read(tmp_path) as reader:
        after_kill = reader.records()
    assert [record.trial for record in after_kill if record.state == "running"]

    second = start()
    wait_for_epochs(second, len([e for r in after_kill for e in range(r.epochs or 0)]) + 6)
    second.send_signal(signal.SIGINT)
    sent_at = time.monotonic()
    output, _ = second.communicate()
    assert time.monotonic() - sent_at < 4
    assert output == "ready\nSIGINT\n" and second.returncode == 0
    with Study.read(tmp_path) as reader:
        after_stop = reader.records()

    third = start()
    output, _ = third.communicate()
    assert output == "ready\nNone\n" and third.returncode == 0
    with Study.read(tmp_path) as reader:
        records = reader.records()
    assert [record.trial for record in records] == list(range(6))
    assert {record.state for record in records} <= {"complete", "pruned"}
    for before in (after_kill, after_stop):
        for record in before:
            assert record.trial is not None
            assert records[record.trial].hparams == record.hparams
            if record.state in ("complete", "pruned"):
                assert records[record.trial] == record
