"""A sweep submitted to a real head over Ray Jobs, with a token, and all that a user then asks of it.

The head lives in namespaces of its own (processes, network, mounts): it sees no other Ray, nothing outside
reaches it, and all of it ends with the process that made them. Only the head's loopback is shared: commands
enter the network namespace.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pandas as pd
import pytest

from seqsweep.sweep.errors import StudyError
from seqsweep.sweep.study.study import Study

ROOT = Path(__file__).parents[2]
DASHBOARD = "http://127.0.0.1:8265"
TOKEN = "0123456789abcdef" * 2
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
TOOLS = ("unshare", "nsenter", "ip")
TINY = (
    *("--max-users", "200", "--max-epochs", "40", "--finalists", "0", "--models", "sasrec"),
    *("--fix", "hidden_dim=16", "--fix", "max_len=20"),
)
TIMEOUT_S = 300
T = TypeVar("T")


def why_not() -> str | None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    return f"needs {', '.join(missing)}" if missing else None


pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]


@dataclass
class Head:
    folder: Path  # of the test: homes, what is fetched
    init: int  # the first process of the namespaces

    def seqsweep(self, *words: str, home: str = "home") -> subprocess.CompletedProcess[str]:
        process = self.start(*words, home=home)
        out, error = process.communicate(timeout=TIMEOUT_S)
        return subprocess.CompletedProcess(process.args, process.returncode, out, error)

    def start(self, *words: str, home: str = "home") -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["nsenter", f"--net=/proc/{self.init}/ns/net", sys.executable, "-m", "seqsweep", *words],
            cwd=self.folder / "user",
            env=environment(self.folder / home),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_end_with_parent,
        )

    def submit_py(self, *words: str) -> subprocess.CompletedProcess[str]:
        """As the launcher calls it on the head."""
        script = shutil.copy(ROOT / "submit.py", self.folder / "home/submit.py")
        return subprocess.run(
            ["nsenter", f"--net=/proc/{self.init}/ns/net", sys.executable, script, *words],
            cwd=self.folder / "home",
            env={
                **environment(self.folder / "home"),
                "OMP_NUM_THREADS": "1",
                "SEQSWEEP_HOME": str(self.folder / "checkout"),
            },
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    def study(self, name: str) -> Path:
        return self.folder / "home/seqsweep/runs" / name


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SEQSWEEP_"))}
    return {
        **kept,
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
    }


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="sj-", dir="/tmp"))  # short: Ray's socket paths have a limit
    for home, token in (("home", TOKEN), ("wrong", TOKEN[::-1])):
        (folder / home / ".ray").mkdir(parents=True)
        (folder / home / ".ray/auth_token").write_text(token)
    for name in ("user", "none"):
        (folder / name).mkdir()
    ray = (
        "ip link set lo up && exec ray start --head --block --num-cpus 2 --dashboard-host 127.0.0.1 "
        f"--temp-dir {folder}/t --object-store-memory 100000000 --disable-usage-stats"
    )
    namespaces = ["unshare", "--pid", "--net", "--mount", "--fork", "--mount-proc", "--kill-child"]
    environment_ = environment(folder / "home")
    del environment_["PYTHONPATH"]  # the job's code is what was sent
    with open(folder / "head.log", "wb") as log:
        process = subprocess.Popen(
            [*namespaces, "sh", "-c", ray],
            cwd=folder,
            env=environment_,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=_end_with_parent,
        )
    try:
        yield wait_for_head(folder, process)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_head(folder: Path, process: subprocess.Popen[bytes]) -> Head:
    def answers() -> Head | None:
        assert process.poll() is None, (folder / "head.log").read_text()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if not children:
            return None
        head = Head(folder, int(children[0]))
        return head if head.seqsweep("jobs", "--address", DASHBOARD).returncode == 0 else None

    return wait_for(answers)


def wait_for(look: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + TIMEOUT_S
    while (found := look()) is None:
        assert time.monotonic() < deadline, f"nothing after {TIMEOUT_S} s"
        time.sleep(0.3)
    return found


def num_ended(folder: Path) -> int:
    try:
        with Study.read(folder) as study:
            counts = study.counts()
    except StudyError:  # not begun yet
        return 0
    return sum(counts[state] for state in ("complete", "pruned", "failed"))


def test_a_token_that_is_wrong_or_missing_is_one_message(head: Head) -> None:
    for home, words in (("wrong", "refuses the token in ~/.ray/auth_token"), ("none", "there is no token")):
        for command in (("submit", "--name", "mine"), ("stop", "mine")):
            refused = head.seqsweep(*command, "--address", DASHBOARD, home=home)
            assert refused.returncode == 1 and refused.stdout == ""
            assert refused.stderr.startswith("error: ") and words in refused.stderr
            assert "Traceback" not in refused.stderr and len(refused.stderr.splitlines()) == 1
    assert not head.study("mine").exists()


def test_what_the_driver_refuses_comes_back(head: Head) -> None:
    failed = head.seqsweep(
        "submit", "--address", DASHBOARD, "--name", "bad", "--data", "/nowhere/log.csv", *TINY
    )
    assert failed.returncode == 1 and "Traceback" not in failed.stdout + failed.stderr
    assert "/nowhere/log.csv" in failed.stdout and "job bad-1 failed" in failed.stdout
    asked = head.seqsweep("fetch", "bad", "--address", DASHBOARD)
    assert asked.returncode == 1 and asked.stderr.startswith("error: there is no study 'bad'")
    listed = head.seqsweep("jobs", "--address", DASHBOARD)
    assert "bad" in listed.stdout and "failed" in listed.stdout and "seqsweep-ask" not in listed.stdout


def test_the_launcher_s_script_runs_the_checkout_that_is_there(head: Head) -> None:
    """Its working directory is the checkout: relative logs and runs lie in it, on all nodes."""
    checkout = head.folder / "checkout"
    caches = shutil.ignore_patterns("__pycache__")
    for name in ("seqsweep", "sweep", "models", "data_pipeline", "search_spaces", "results"):
        shutil.copytree(ROOT / name, checkout / name, ignore=caches, symlinks=True)
    shutil.copy(ROOT / "pyproject.toml", checkout)
    (checkout / "study.toml").write_text(
        'name = "launched"\n[finalists]\ncount = 0\n[data]\nmax_users = 200\n'
    )
    words = ("trials=2", "max_epochs=2", "fix=hidden_dim=16", "--fix", "max_len=20")
    done = head.submit_py("run", "study.toml", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "job launched-1 succeeded" in done.stdout
    assert (checkout / "runs/launched/best/model.safetensors").is_file()
    assert "2 of 2 trials ended" in head.submit_py("status", "launched").stdout
    nothing = head.submit_py("stop", "launched")
    assert nothing.returncode == 1 and "no job runs study 'launched'" in nothing.stderr
    fetched = head.seqsweep("fetch", "launched", "--address", DASHBOARD)
    assert fetched.returncode == 0, fetched.stderr
    assert (head.folder / "user/runs/launched/best").is_dir()


def test_a_sweep_is_submitted_joined_stopped_gone_on_with_and_fetched(head: Head) -> None:
    sweep = ("submit", "--address", DASHBOARD, "--name", "first", "--trials", "60", *TINY)
    begun = head.seqsweep(*sweep, "--detach")
    assert begun.returncode == 0, begun.stderr
    assert "study 'first' runs as job first-1" in begun.stdout
    wait_for(lambda: num_ended(head.study("first")) >= 2 or None)

    joined = head.start(*sweep)  # follows the job that runs
    left = head.start("logs", "first", "--follow", "--address", DASHBOARD)
    assert left.stdout is not None
    while "trials at a time" not in left.stdout.readline():
        assert left.poll() is None
    left.send_signal(signal.SIGINT)
    out, _ = left.communicate(timeout=60)
    assert left.returncode == 1 and "left; the sweep goes on" in out

    status = head.seqsweep("status", "first", "--address", DASHBOARD)
    assert status.returncode == 0, status.stderr
    assert "job first-1: running since" in status.stdout and "driver: process" in status.stdout
    assert " of 60 trials ended" in status.stdout
    early = head.seqsweep("fetch", "first", "--address", DASHBOARD)
    assert early.returncode == 0 and "no best model yet" in early.stdout, early.stderr

    stopped = head.seqsweep("stop", "first", "--address", DASHBOARD)
    assert stopped.returncode == 0 and "'first' is stopped; nothing is lost" in stopped.stdout, stopped.stderr
    out, error = joined.communicate(timeout=60)
    assert joined.returncode == 1, error
    assert "is running already, as job first-1" in out and "job first-1 is stopped" in out
    assert "stopped (SIGTERM)" in out and "Traceback" not in out  # the driver ended in order
    supervisor = head.folder / "t/session_latest/logs/jobs/supervisor-first-1.log"
    assert "terminated gracefully" in supervisor.read_text()  # Ray waits for the shell too
    with Study.read(head.study("first")) as study:
        before = {
            record.trial: record for record in study.records() if record.state in ("complete", "pruned")
        }
    assert 2 <= len(before) < 60

    shorter = [str(len(before) + 3) if word == "60" else word for word in sweep]
    done = head.seqsweep(*shorter)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "study 'first' runs as job first-2" in done.stdout and "job first-2 succeeded" in done.stdout
    assert "seqsweep fetch first" in done.stdout
    with Study.read(head.study("first")) as study:
        after = {record.trial: record for record in study.records()}
    assert {number: after[number] for number in before} == before

    fetched = head.seqsweep("fetch", "first", "--address", DASHBOARD)
    assert fetched.returncode == 0 and "no best model" not in fetched.stdout, fetched.stderr
    home = head.folder / "user/runs/first"
    frame = pd.read_parquet(home / "leaderboard.parquet")
    assert set(frame["trial"].dropna()) == set(after)
    for name in ("best/model.safetensors", "leaderboard.parquet"):
        assert (home / name).read_bytes() == (head.study("first") / name).read_bytes()
    assert json.loads((home / "fetched.json").read_text())["study"] == "first"
    assert "trials ended" in head.seqsweep("status", "first").stdout  # at home now
