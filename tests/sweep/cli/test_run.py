"""The command line as a user meets it, in a process of its own."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seqsweep.sweep.cli.run import settings_path
from seqsweep.sweep.errors import StudyError
from seqsweep.sweep.study.study import Study
from tests.commands import called, output_of, run, start

ROOT = Path(__file__).parents[3]
TINY = ("--fix", "hidden_dim=16", "--fix", "max_len=20")
SMALL_STUDY = (
    "--trials",
    "5",
    "--max-epochs",
    "4",
    "--finalists",
    "0",
    "--fix",
    "hidden_dim=16",
    "--fix",
    "max_len=20",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small log: 120 users who walk around a ring of 30 items."""
    generator = np.random.default_rng(0)
    lines = []
    for user in range(120):
        start, length = generator.integers(30), generator.integers(5, 25)
        lines += [f"{user} {(start + step) % 30 + 100} {1000 * user + step}" for step in range(length)]
    (tmp_path / "log.txt").write_text("\n".join(lines) + "\n")
    timeless = [line.rsplit(" ", 1)[0] for line in lines]
    (tmp_path / "timeless.txt").write_text("\n".join(timeless) + "\n")
    return tmp_path


def run_arguments(name: str = "small") -> tuple[str, ...]:
    return ("run", "--data", "log.txt", "--name", name, *SMALL_STUDY)


def test_from_log_to_leaderboard(folder: Path) -> None:
    done = run(folder, *run_arguments())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "markov" in done.stdout and "best model: runs/small/best" in done.stdout
    frame = pd.read_parquet(folder / "runs/small/leaderboard.parquet")
    trials = frame[frame["trial"].notna()]
    assert len(trials) == 5 and set(trials["state"]) <= {"complete", "pruned"}
    assert trials["objective"].is_monotonic_decreasing
    assert trials["test.ndcg@10"].notna().sum() == 1  # the winner's alone
    assert all((folder / "runs/small" / path).is_file() for path in trials["checkpoint"].dropna())
    assert trials["checkpoint"].notna().any() and trials["device_seconds"].gt(0).all()
    report = (folder / "runs/small/report.html").read_text()
    assert "seqsweep recommend runs/small/best LOG" in report and "interactions from log.txt" in report
    epochs = pd.read_parquet(folder / "runs/small/epochs.parquet")
    best = epochs.groupby("trial")["objective"].max()
    assert dict(zip(trials["trial"], trials["objective"], strict=True)) == best.to_dict()
    written = {path.name for path in (folder / "runs/small/best").iterdir()}
    assert written == {"model.safetensors", "config.json", "item_ids.parquet", "metrics.json", "README.md"}
    assert not list((folder / "runs/small").glob(".*"))
    again = run(folder, *run_arguments())  # nothing is left to do
    assert again.returncode == 0
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "runs/small/leaderboard.parquet"), frame)
    assert "5 of 5 trials" in run(folder, "status", "small").stdout
    assert run(folder, "top", "small", "--csv").stdout.startswith("rank,trial,state")


def test_where_settings_are_read(tmp_path: Path) -> None:
    """A file, a study by its name or folder, or a pipe, which is how a job gets them."""
    (tmp_path / "runs/mine").mkdir(parents=True)
    for name in ("study.toml", "study.journal"):
        (tmp_path / "runs/mine" / name).touch()
    (tmp_path / "other.toml").touch()
    runs, mine = tmp_path / "runs", tmp_path / "runs/mine"
    own = (mine / "study.toml", mine)
    assert settings_path("mine", runs) == settings_path(str(mine), runs) == own
    assert settings_path(str(mine / "study.toml"), runs) == own
    assert settings_path(str(tmp_path / "other.toml"), runs) == (tmp_path / "other.toml", None)
    os.mkfifo(tmp_path / "pipe")
    assert settings_path(str(tmp_path / "pipe"), runs) == (tmp_path / "pipe", None)
    with pytest.raises(StudyError, match="there is no study 'yours'"):
        settings_path("yours", runs)


@pytest.mark.parametrize("name", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_was_ended_goes_on(folder: Path, name: signal.Signals) -> None:
    driver = start(folder, *run_arguments())
    journal = folder / "runs/small/study.journal"
    deadline = time.monotonic() + 120
    while not (journal.exists() and b'"epoch.3"' in journal.read_bytes()):  # the first rung
        assert time.monotonic() < deadline and driver.poll() is None, output_of(driver)
        time.sleep(0.05)
    driver.send_signal(name)
    output, _ = driver.communicate(timeout=60)
    if name == signal.SIGINT:
        assert driver.returncode == 1
        assert "Go on with the same command" in output and "Traceback" not in output
    with Study.read(folder / "runs/small") as study:
        before = {record.trial: record for record in study.records()}
    done = run(folder, *run_arguments())
    assert done.returncode == 0, done.stdout + done.stderr
    with Study.read(folder / "runs/small") as study:
        after = {record.trial: record for record in study.records()}
    assert len(after) == 5
    for number, record in before.items():
        assert number is not None
        if record.state in ("complete", "pruned"):
            assert after[number] == record
        if record.state == "running":
            assert after[number].attempts == (record.attempts or 0) + 1
            assert (after[number].epochs or 0) >= (record.epochs or 0)


def test_one_process_twice_gives_equal_trials_and_weights(folder: Path) -> None:
    frames, weights = [], []
    for name in ("first", "second"):
        done = run(folder, *run_arguments(name), "--max-concurrent", "1")
        assert done.returncode == 0, done.stdout + done.stderr
        frame = pd.read_parquet(folder / "runs" / name / "leaderboard.parquet")
        hparams = [column for column in frame.columns if str(column).startswith("hparam.")]
        frames.append(frame[["trial", "state", "objective", "best_epoch", "epochs", *hparams]])
        weights.append((folder / "runs" / name / "best/model.safetensors").read_bytes())
    pd.testing.assert_frame_equal(frames[0], frames[1])
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--data", "none.txt"), ("none.txt",)),
        (("run", "--data", "log.txt", "--models", "sasrex"), ("models", "sasrec")),
        (("run", "--data", "log.txt", "--fix", "drop_out=0.1"), ("drop_out", "did you mean 'dropout'")),
        (("run", "--data", "log.txt", "--fix", "dropout=2"), ("dropout", "less than 1")),
        (("run", "--data", "log.txt", "--fix", "norm=post"), ("norm=post pinned", "residual=plain")),
        (("run", "--data", "timeless.txt", "--models", "sasrec,tisasrec"), ("no timestamps", "tisasrec")),
        (("run", "--data", "log.txt", "--trials", "0"), ("search.trials", "greater than or equal to 1")),
        (("run", "--address", "ray://x:1", "--data", "log.txt"), ("ray://x:1", "auto")),
        (("run", "missing.toml"), ("missing.toml",)),
        (("run", "--data", "log.txt", "--runs", "log.txt"), ("log.txt", "a file is in the way")),
        (("run", "--data", "log.txt", "--runs", "log.txt/runs"), ("log.txt/runs", "a file is in the way")),
        (("prepare", "--data", "log.txt", "--cache", "log.txt"), ("log.txt", "a file is in the way")),
        (("status", "nothing"), ("nothing",)),
        (("run", "--data", "timeless.txt", "--split", "temporal"), ("needs timestamps", "leave_one_out")),
        (("run", "--data", "log.txt", "--split", "temporal", "--cuts", "0.9,0.8"), ("cut must be before",)),
        (("run", "--data", "log.txt", "--split", "temporal", "--cuts", "0.9"), ("protocol.cuts",)),
        (("run", "--data", "log.txt", "--cuts", "0.8,0.9"), ("cuts belong to split=temporal",)),
        (
            ("run", "--data", "log.txt", "--split", "temporal", "--cuts", "500,1500"),
            ("nothing to validate", "move the cuts"),
        ),
        (("prepare", "--data", "log.txt", "--start-time", "soon"), ("data.start_time", "ISO date", "'soon'")),
        (("prepare", "--data", "log.txt", "--end-time", "1970-01-01"), ("time_range", "end_time=0")),
        (("prepare", "--data", "log.txt", "--k-core", "twice"), ("data.k_core", "'single'")),
        (("prepare", "--data", "log.txt", "--max-users", "0"), ("data.max_users", "equal to 1")),
        (("run", "--data", "log.txt", "--set", "dropout=0.7:0.9"), ("dropout", "0 to 0.6")),
        (("run", "--data", "log.txt", "--sampler", "cmaes"), ("cmaes", "residual")),
        (("run", "--data", "log.txt", "--objective", "ndcg@10,speed"), ("objectives", "num_parameters")),
        (("run", "--data", "log.txt", "--space", "none.py:f"), ("none.py",)),
        (("extend", "nothing", "--trials", "3"), ("nothing",)),
        (("stop", "nothing"), ("nothing",)),
        (("top", "nothing"), ("nothing",)),
        (("prepare", "--data", "log.txt", "--columns", "user"), ("--columns", "key=value")),
    ],
    ids=lambda value: " ".join(value[:4]),
)
def test_a_mistake_is_one_message(
    folder: Path, arguments: tuple[str, ...], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    done = called(*arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    for word in words:
        assert word in done.stderr


def test_a_split_that_cannot_be_leaves_no_study_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that other cuts are taken under the same name."""
    monkeypatch.chdir(folder)
    done = called("run", "--data", "log.txt", "--split", "temporal", "--cuts", "500,1500")
    assert "nothing to validate" in done.stderr and not (folder / "runs").exists()


def test_the_filters_of_a_log_are_flags(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    lines = ["1 10 5", "1 10 5", "1 20 100", "1 30 200", "1 40 300", "2 10 150", "2 20 250", "2 30 260"]
    (folder / "few.txt").write_text("\n".join([*lines, "3 50 270"]) + "\n")

    def prepared(*flags: str) -> str:
        done = called("prepare", "--data", "few.txt", *flags)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    assert "9 of 3 users with 5 items" in prepared()
    assert "8 of 3 users with 5 items" in prepared("--drop-duplicates")
    assert "7 of 3 users with 5 items" in prepared("--start-time", "1970-01-01T00:01:40Z")
    assert "6 of 2 users with 3 items" in prepared("--end-time", "260")
    minima = ("--min-user-interactions", "3", "--min-item-interactions", "2")
    assert "7 of 2 users with 3 items" in prepared(*minima, "--k-core", "single")
    assert " of 1 users" in prepared("--max-users", "1", "--min-user-interactions", "3")


def test_a_mistake_that_ray_finds_is_one_message_too(folder: Path) -> None:
    done = run(folder, "run", "--data", "log.txt", "--cpus-per-trial", "4000")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and "no node can hold" in done.stderr and "4000" in done.stderr


def test_settings_from_a_file_and_what_may_not_change(folder: Path) -> None:
    (folder / "study.toml").write_text(
        'name = "filed"\n[data]\npath = "log.txt"\n[search]\ntrials = 2\nmax_epochs = 2\n'
        "[finalists]\ncount = 0\n"
        '[space]\nfix = {hidden_dim = 16, max_len = 20, loss = "ce"}\n'
    )
    assert run(folder, "run", "study.toml").returncode == 0
    written = folder / "runs/filed/study.toml"
    grown = run(folder, "run", str(written), "--trials", "3")
    assert grown.returncode == 0, grown.stderr
    assert len(pd.read_parquet(folder / "runs/filed/leaderboard.parquet").dropna(subset="trial")) == 3
    other = run(folder, "run", str(written), "--seed", "5")
    assert other.returncode == 1 and "seed" in other.stderr


def test_a_study_is_looked_at_changed_and_gone_on_with(folder: Path) -> None:
    """Finalists, then extend, enqueue, retry, warm-start, show and reproduce."""
    small = ("--max-epochs", "3", "--finalists", "1", "--finalist-seeds", "2", *TINY)
    begun = ("run", "--data", "log.txt", "--name", "first", "--trials", "2", *small)
    done = run(folder, *begun, "--fix", "residual=plain", "--tensorboard")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "over seeds" in done.stdout
    finalists = pd.read_parquet(folder / "runs/first/finalists.parquet")
    assert list(finalists["trial"]) == [2, 3] and finalists["exported"].sum() == 1
    frame = pd.read_parquet(folder / "runs/first/leaderboard.parquet")
    assert frame.loc[0, "valid.ndcg@10.mean"] == pytest.approx(finalists["objective"].mean())
    assert frame.loc[0, "test.ndcg@10.mean"] == pytest.approx(finalists["test.ndcg@10"].mean())
    assert "trained with 2 fresh seeds" in (folder / "runs/first/best/README.md").read_text()
    assert len(list((folder / "runs/first/tensorboard").iterdir())) == 4

    queued = run(folder, "enqueue", "first", "lr=0.004", "dropout=0.25")
    assert queued.stdout.startswith("1 trial queued; the budget is 3 trials"), queued.stderr
    assert "seqsweep run runs/first/study.toml" in queued.stdout
    warm = run(folder, "warm-start", "first", "--from", "first", "--best", "1")
    assert "the budget is 4 trials" in warm.stdout, warm.stderr
    grown = run(folder, "extend", "first", "--trials", "1")
    assert grown.returncode == 0, grown.stdout + grown.stderr
    trials = pd.read_parquet(folder / "runs/first/leaderboard.parquet").dropna(subset="trial")
    assert sorted(trials["trial"]) == [0, 1, 4, 5, 6]  # 2 and 3 are trainings of finalists
    assert trials.set_index("trial").loc[4, "hparam.dropout"] == 0.25

    state = run(folder, "status", "first").stdout
    assert "5 of 5 trials ended" in state and "driver: none is running" in state and "finalists: " in state
    shown = run(folder, "show", "first", "4")
    assert "hparam.lr" in shown.stdout and "ndcg@10" in shown.stdout
    assert "no failed trial is left" in run(folder, "retry", "first", "--failed").stdout
    again = run(folder, "reproduce", "first", "4")
    assert again.returncode == 0 and "equal to the bit" in again.stdout, again.stdout + again.stderr


def test_a_budget_of_time_keeps_what_there_is(folder: Path) -> None:
    stopped = run(folder, *run_arguments("timed"), "--max-hours", "0.0000001")
    assert stopped.returncode == 1
    assert "max_hours=1e-07 are over" in stopped.stdout and "Traceback" not in stopped.stderr
    done = run(folder, *run_arguments("timed"))
    assert done.returncode == 0, done.stdout + done.stderr
    frame = pd.read_parquet(folder / "runs/timed/leaderboard.parquet").dropna(subset="trial")
    assert len(frame) == 5


def test_a_space_of_ones_own(folder: Path) -> None:
    (folder / "my.py").write_text(
        "def small(trial):\n"
        "    lr = trial.suggest_float('lr', 1e-3, 1e-2)\n"
        "    return {'model': 'sasrec', 'hidden_dim': 16, 'max_len': 20, 'lr': lr}\n"
    )
    small = ("--trials", "2", "--max-epochs", "2", "--finalists", "0", "--set", "lr=0.005:0.01")
    arguments = ("run", "--data", "log.txt", "--name", "own", "--space", "my.py:small", *small)
    done = run(folder, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    frame = pd.read_parquet(folder / "runs/own/leaderboard.parquet").dropna(subset="trial")
    assert frame["hparam.lr"].between(0.005, 0.01).all() and (frame["hparam.hidden_dim"] == 16).all()
    (folder / "my.py").write_text((folder / "my.py").read_text().replace("16", "24"))
    changed = run(folder, *arguments)
    assert changed.returncode == 1 and "space_source" in changed.stderr


def test_spaces_are_printed_with_their_conditions() -> None:
    done = run(ROOT, "spaces", "--models", "sasrec,gru4rec", "--points")
    assert done.returncode == 0, done.stderr
    spaces, points = done.stdout.split("sasrec: tried first")
    lines = [line.split("  ") for line in spaces.splitlines()]
    rows = {line[0]: [cell.strip() for cell in line[1:] if cell.strip()] for line in lines if len(line) > 1}
    assert rows["norm"] == ["pre, post, original", "residual = plain"]
    assert rows["num_streams"][1] == "residual = mhc"
    assert "gru4rec: tried first" in points


def test_models_that_use_time_are_left_out_of_all_where_there_is_none(folder: Path) -> None:
    """And every family that can be trained has its first point finished."""
    arguments = ("run", "--data", "timeless.txt", "--name", "all", "--models", "all", "--trials", "4")
    done = run(folder, *arguments, "--max-epochs", "1", "--finalists", "0", *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tisasrec, hstu is left out" in done.stdout.replace("\n", " ")
    frame = pd.read_parquet(folder / "runs/all/leaderboard.parquet")
    trials = frame[frame["trial"].notna()]
    assert set(trials["state"]) == {"complete"}
    assert set(trials["model"]) == {"sasrec", "gru4rec", "bert4rec", "lrurec"}
