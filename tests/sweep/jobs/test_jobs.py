"""Jobs without Ray: what is sent, what comes back, who is joined, and what a mistake says."""

import asyncio
import io
import json
import subprocess
import sys
import tarfile
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest

from seqsweep.sweep.cli.jobs import flags_of
from seqsweep.sweep.errors import ClusterError, ConfigError, UserError
from seqsweep.sweep.jobs import fetch, shipping
from seqsweep.sweep.jobs.client import (
    Cluster,
    StudyJob,
    complaint,
    dashboard_url,
    split_log,
    token_message,
)
from seqsweep.sweep.jobs.fetch import frame, pack, read_frame, unpack
from seqsweep.sweep.jobs.follow import JobLog
from seqsweep.sweep.jobs.shipping import (
    Launch,
    is_shipped,
    run_words,
    shipped_function,
    shipped_log,
    shipped_settings,
)
from seqsweep.sweep.settings.study_config import StudyConfig
from tests.commands import called

ROOT = Path(__file__).parents[3]
SHIPPED = Launch()
ON_HEAD = Launch("/opt/my env/bin/python", "/home/me/seq sweep")
STUDY_OF = {"seqsweep_study": "mine", "seqsweep_runs": "runs", **SHIPPED.as_metadata()}


@pytest.fixture(autouse=True)
def _own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Cluster sets the variable for the process that it is in."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")


class Dashboard:
    """As much of a Ray dashboard as Cluster asks for."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.taken: list[dict[str, Any]] = []  # started by others just before we ask for the same id
        self.submitted: list[dict[str, Any]] = []
        self.status = 200
        self.body: str | None = None  # in place of every answer

    def add(self, number: int, status: str, study: str = "mine", start_time: int = 0) -> dict[str, Any]:
        job = {
            "type": "SUBMISSION",
            "submission_id": f"{study}-{number}",
            "status": status,
            "entrypoint": "",
            "metadata": {**STUDY_OF, "seqsweep_study": study},
            "start_time": start_time or number,
        }
        self.jobs.append(job)
        return job

    def answer(self, method: str, path: str, sent: dict[str, Any]) -> tuple[int, Any]:
        if path == "/api/version":
            return 200, {"ray_version": "2.60.0", "version": "4"}
        if method == "POST":
            if self.taken:
                self.jobs += self.taken
                self.taken = []
            if any(job["submission_id"] == sent["submission_id"] for job in self.jobs):
                return 500, f"ValueError: Job with submission_id {sent['submission_id']} already exists."
            self.submitted.append(sent)
            self.add(int(sent["submission_id"].rpartition("-")[2]), "PENDING")
            return 200, {"job_id": sent["submission_id"], "submission_id": sent["submission_id"]}
        if path == "/api/jobs/":
            return 200, self.jobs
        found = [job for job in self.jobs if path.endswith(f"/{job['submission_id']}")]
        return (200, found[0]) if found else (404, "does not exist")


@pytest.fixture
def dashboard() -> Iterator[tuple[Dashboard, str]]:
    state = Dashboard()

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            sent = json.loads(self.rfile.read(size)) if size else {}
            status, answer = state.answer(self.command, self.path, sent)
            body = answer if isinstance(answer, str) else json.dumps(answer)
            if state.body is not None:
                status, body = state.status, state.body
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = respond

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield state, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def start(cluster: Cluster, launch: Launch = ON_HEAD) -> tuple[StudyJob, bool]:
    return cluster.start("mine", "true", STUDY_OF, launch, {"A": "b"})


# Words and lines


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("study.toml trials=40", "study.toml --trials 40"),
        ("max_epochs=3 max-hours=2", "--max-epochs 3 --max-hours 2"),
        ("--fix loss=ce fix=loss=ce", "--fix loss=ce --fix loss=ce"),
        ("--name=mine trials=4", "--name=mine --trials 4"),
        ("tensorboard=true --detach trials=4", "--tensorboard --detach --trials 4"),
        ("drop_duplicates=true trials=4", "--drop-duplicates --trials 4"),
        ("data=/data/Log=1.csv set=dropout=0.1:0.4", "--data /data/Log=1.csv --set dropout=0.1:0.4"),
    ],
)
def test_words_of_a_launcher_are_flags(words: str, flags: str) -> None:
    assert flags_of(words.split()) == flags.split()


def test_relative_folders_lie_below_a_folder_of_the_head() -> None:
    config = StudyConfig.build({"name": "mine", "runs": "my runs", "cache": "/scratch/prepared"})
    words = run_words(config, None, SHIPPED)
    script = f"set -- {words}; printf '%s\\n' \"$@\""
    said = subprocess.run(
        ["sh", "-c", script], env={"HOME": "/home/me"}, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert said == [
        *("run", "/dev/stdin", "--address", "auto"),
        *("--runs", "/home/me/seqsweep/my runs", "--cache", "/scratch/prepared"),
    ]
    elsewhere = {"HOME": "/home/me", "SEQSWEEP_HOME": "/big disk"}
    said = subprocess.run(
        ["sh", "-c", script], env=elsewhere, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "/big disk/my runs" in said
    assert run_words(config, "other", ON_HEAD).endswith("--warm-start other")
    assert "'/home/me/seq sweep'/'my runs'" in run_words(config, None, ON_HEAD)


def test_a_line_gives_the_settings_and_the_driver_keeps_neither_ray_s_threads_nor_a_mode() -> None:
    launch = Launch(python="fake", checkout=str(ROOT))
    line = launch.line("run /dev/stdin", settings=True).replace(
        "fake -m seqsweep run", "sh -c 'pwd; cat; echo $OMP_NUM_THREADS. $RAY_AUTH_MODE'"
    )
    environment = {"SEQSWEEP_SETTINGS": 'name = "a $b `c`"', "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(ROOT), 'name = "a $b `c`"', ". disabled"]
    asked = subprocess.run(
        ["sh", "-c", line],
        env={**environment, "RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout.endswith(". token\n")


def test_settings_are_those_that_were_set(tmp_path: Path) -> None:
    config = StudyConfig.build(
        {
            "name": "mine",
            "runs": "/shared/runs",
            "data": {"path": "/data/log.csv", "columns": {"user": "a b"}},
            "space": {"fix": {"loss": "ce", "lr": 0.001}},
            "hardware": {"address": "10.0.0.1:6379", "max_concurrent": 2},
        }
    )
    (tmp_path / "study.toml").write_text(shipped_settings(config, SHIPPED))
    read = StudyConfig.load(tmp_path / "study.toml", {"runs": "/shared/runs"})
    assert read.hardware.address is None and read.hardware.max_concurrent == 2
    assert read.model_copy(update={"hardware": config.hardware}) == config
    assert read.training.model_fields_set == set() and "trials" not in read.search.model_fields_set


def test_a_launch_is_known_again_from_a_job() -> None:
    assert Launch.of_metadata(SHIPPED.as_metadata()) == SHIPPED
    assert Launch.of_metadata(ON_HEAD.as_metadata()) == ON_HEAD


# What is shipped


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    for name in ("logs/small.csv", "logs/kept/secret.csv", "runs/old/log.csv", "mine.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("1 2 3\n")
    (root / ".gitignore").write_text("runs/\n")
    (root / "logs/kept/.rayignore").write_text("secret*\n")
    return root


def test_a_log_in_the_checkout_is_sent_and_any_other_is_the_cluster_s(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout / "logs")
    assert shipped_log("small.csv", checkout) == "logs/small.csv"
    assert shipped_log(str(checkout / "logs/small.csv"), checkout) == "logs/small.csv"
    for path in ("demo", "/data/ratings.csv", "s3://bucket/log.parquet"):
        assert shipped_log(path, checkout) == path
    for path, reason in (("none.csv", "is not there"), ("../../other.csv", "lies outside it")):
        (checkout.parent / "other.csv").write_text("1 2 3\n")
        with pytest.raises(ConfigError, match=reason) as caught:
            shipped_log(path, checkout)
        assert "give --data the path of the log on the cluster" in str(caught.value)


def test_what_ray_would_leave_out_is_refused(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    assert is_shipped(checkout / "logs/small.csv", checkout)
    for path in ("runs/old/log.csv", "logs/kept/secret.csv"):
        with pytest.raises(ConfigError, match="left out of what is sent"):
            shipped_log(path, checkout)
    monkeypatch.setattr(shipping, "MAX_LOG_BYTES", 5)
    with pytest.raises(ConfigError, match=r"at most 5 bytes, and .*small.csv has 6"):
        shipped_log("logs/small.csv", checkout)


def test_a_space_of_ones_own_is_found_in_the_checkout(checkout: Path) -> None:
    assert shipped_function(f"{checkout}/mine.py:small", checkout) == "mine.py:small"
    with pytest.raises(ConfigError, match="move it there"):
        shipped_function(f"{checkout.parent}/mine.py:small", checkout)


# Parcels


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "runs/mine"
    for name in ("study.journal", "leaderboard.parquet", "best/model.safetensors", "trials/0/state.pt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 50)
    return folder


def framed(data: bytes) -> str:
    return "a warning of Ray's\n" + "".join(frame(data)) + "another\n"


def test_a_parcel_brings_the_results_home(study: Path, tmp_path: Path) -> None:
    home = tmp_path / "home/mine"
    unpack(read_frame(framed(pack(study))), home, {"study": "mine"})
    written = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    assert written == {"study.journal", "leaderboard.parquet", "best/model.safetensors", "fetched.json"}
    assert (home / "best/model.safetensors").read_bytes() == b"best/model.safetensors" * 50
    (study / "leaderboard.parquet").unlink()
    unpack(pack(study), home, {"study": "mine"})  # an older copy is replaced whole
    assert not (home / "leaderboard.parquet").exists()
    assert [path.name for path in home.parent.iterdir()] == ["mine"]


def test_a_study_of_this_machine_is_not_replaced(study: Path) -> None:
    before = (study / "study.journal").read_bytes()
    with pytest.raises(UserError, match="was not fetched"):
        unpack(pack(study), study, {})
    assert (study / "study.journal").read_bytes() == before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text.replace("SEQSWEEP-PARCEL-END", ""), "no whole parcel"),
        (lambda text: text[: len(text) // 2], "no whole parcel"),
        (lambda text: "", "no whole parcel"),
        (lambda text: text.replace("PARCEL 1 ", "PARCEL 2 "), "must be of version 1, got 2"),
        (lambda text: text.replace("AAAA", "AAAB", 1), "damaged"),
        (lambda text: text.replace("AAAA", "AAA", 1), "damaged"),
    ],
)
def test_a_damaged_parcel_is_refused(spoil: Any, message: str) -> None:
    whole = framed(bytes(300))
    assert read_frame(whole) == bytes(300)
    with pytest.raises(ClusterError, match=message):
        read_frame(spoil(whole))


def test_a_parcel_can_not_write_elsewhere(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../escaped"), io.BytesIO())
    with pytest.raises(ClusterError, match="the parcel is refused"):
        unpack(buffer.getvalue(), tmp_path / "home/mine", {})
    assert not list((tmp_path / "home").iterdir())
    with pytest.raises(ClusterError, match="the parcel is refused"):
        unpack(b"not a tar", tmp_path / "home/mine", {})


def test_a_parcel_has_a_bound(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 100)
    with pytest.raises(ClusterError, match="must be at most 100 bytes") as caught:
        pack(study)
    assert f"copy {study} from the head" in str(caught.value)


def test_the_command_on_the_head_prints_a_parcel(study: Path) -> None:
    done = called("parcel", "mine", "--runs", str(study.parent))
    assert done.exit_code == 0
    with tarfile.open(fileobj=io.BytesIO(read_frame(done.stdout))) as tar:
        assert "leaderboard.parquet" in tar.getnames()


# Jobs


def test_a_study_gets_one_job_at_a_time(dashboard: tuple[Dashboard, str]) -> None:
    state, address = dashboard
    state.add(4, "RUNNING", study="other")
    cluster = Cluster(address)
    job, is_new = start(cluster)
    assert is_new and (job.id, job.state, job.launch, job.runs) == ("mine-1", "pending", SHIPPED, "runs")
    assert state.submitted[0]["runtime_env"] == {"env_vars": {"A": "b"}}
    again, is_new = start(cluster)
    assert not is_new and again.id == "mine-1"
    state.jobs[-1]["status"] = "STOPPED"
    later, is_new = start(cluster)
    assert is_new and later.id == "mine-2"
    assert {job.study for job in cluster.jobs()} == {"mine", "other"}


def test_of_two_that_start_a_study_at_once_one_joins(dashboard: tuple[Dashboard, str]) -> None:
    state, address = dashboard
    state.taken = [state.add(1, "RUNNING")]
    state.jobs = []
    job, is_new = start(Cluster(address))
    assert not is_new and job.id == "mine-1" and not state.submitted


def test_a_study_that_has_no_job(dashboard: tuple[Dashboard, str]) -> None:
    state, address = dashboard
    state.add(1, "FAILED", study="other")
    state.jobs.append({"type": "DRIVER", "status": "RUNNING", "entrypoint": "", "job_id": "1"})
    with pytest.raises(ClusterError, match="no job of a study 'mine'; it has jobs of other"):
        Cluster(address).job_of("mine")


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, "<html>", "is not the dashboard of a Ray cluster"),
        (200, "{}", "is not the dashboard of a Ray cluster"),
        (404, "no such page", "is not the dashboard of a Ray cluster"),
        (500, "broken", "is not the dashboard of a Ray cluster"),
        (403, "Forbidden", "wants a token, and RAY_AUTH_MODE=disabled sends none"),
    ],
)
def test_something_else_answers(
    dashboard: tuple[Dashboard, str], status: int, body: str, message: str
) -> None:
    state, address = dashboard
    state.status, state.body = status, body
    with pytest.raises(ClusterError, match=message):
        Cluster(address)


def test_messages_of_a_token_name_where_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    missing = token_message("http://head:8265", "Token authentication is enabled but")
    assert (
        missing.startswith("there is no token in ~/.ray/auth_token") and "RAY_AUTH_MODE=disabled" in missing
    )
    wrong = token_message("http://head:8265", "Authentication failed: Forbidden")
    assert wrong.startswith("the cluster at http://head:8265 refuses the token in ~/.ray/auth_token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/etc/token")
    assert "the token in /etc/token" in token_message("x", "Authentication failed")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    last = token_message("x", "Authentication failed")
    assert "the token in RAY_AUTH_TOKEN:" in last and "secret" not in last


def test_addresses() -> None:
    assert dashboard_url("head:8265") == "http://head:8265"
    assert dashboard_url("https://head/") == "https://head"
    for address in ("ray://head:10001", "auto://", "http://", "http://head:80a", "head:99999", "http://[::1"):
        with pytest.raises(ClusterError, match="must be that of a Ray dashboard"):
            dashboard_url(address)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("jobs",), 1, ("nothing answers at http://127.0.0.1:9", "ray start --head")),
        (("submit", "--name", "mine"), 1, ("nothing answers",)),
        (("submit", "--fix", "drop_out=0.1"), 1, ("drop_out", "did you mean 'dropout'")),
        (("submit", "--trials", "0"), 1, ("search.trials",)),
        (("submit", "missing.toml"), 1, ("missing.toml",)),
        (("submit", "--data", "none.csv"), 1, ("none.csv", "--data")),
        (("submit", "--trils", "3"), 2, ("--trils",)),
        (("submit", "a.toml", "b.toml"), 2, ("b.toml",)),
        (("status", "mine"), 1, ("nothing answers",)),
        (("stop", "mine"), 1, ("nothing answers",)),
        (("logs", "mine"), 1, ("nothing answers",)),
        (("fetch", "mine"), 1, ("nothing answers",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_told_before_anything_is_sent(
    arguments: tuple[str, ...],
    status: int,
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = called(*arguments, "--address", "http://127.0.0.1:9")
    assert done.exit_code == status
    for word in words:
        assert word in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_study_is_named_as_for_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings are those of its study.toml: the wrong one there is what is complained of."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/mine"
    folder.mkdir(parents=True)
    (folder / "study.toml").write_text("[search]\ntrials = 0\n")
    done = called("submit", "mine", "--address", "http://127.0.0.1:9")
    assert done.exit_code == 1 and "search.trials" in done.stderr
    done = called("submit", "yours", "--address", "http://127.0.0.1:9")
    assert done.exit_code == 1 and "there is no study 'yours'" in done.stderr


# Logs

LOG = "2026 INFO Runtime env is setting up.\nRunning entrypoint for job mine-1: a; b\nfirst\nsecond\nthird\n"


class DroppingCluster:
    """Its connection drops in the middle of each chunk, and its job ends once the log was read."""

    def __init__(self, cuts: list[int]) -> None:
        self.client = self
        self.address = "http://127.0.0.1:9"
        self.cuts = cuts

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        await asyncio.sleep(0)
        cut = self.cuts.pop(0) if self.cuts else len(LOG)
        for begin in range(0, cut, 7):
            yield LOG[begin : min(begin + 7, cut)]
        if cut < len(LOG):
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def look(self, job: StudyJob) -> StudyJob:
        return StudyJob(**{**job.__dict__, "state": "succeeded"})

    errors = Cluster.errors


def test_each_character_is_written_once_however_often_the_connection_drops() -> None:
    written: list[str] = []
    job = StudyJob("mine-1", "mine", "runs", SHIPPED, "running", 0.0, None, "")
    log = JobLog(cast(Cluster, DroppingCluster([20, 60, 93])), job, written.append)
    assert log.follow().state == "succeeded"
    assert "".join(written) == "first\nsecond\nthird\n" and log.has_begun


def test_what_ray_writes_before_a_job_is_set_apart() -> None:
    assert split_log(LOG)[1] == "first\nsecond\nthird\n"
    assert split_log("setting up\n") == ("setting up\n", "")
    assert complaint("x\nerror: one\nerror: the last\n") == "the last" and complaint("fine") is None


# submit.py


def test_the_script_of_the_launcher_finds_the_checkout(tmp_path: Path) -> None:
    script = tmp_path / "submit.py"
    script.write_text((ROOT / "submit.py").read_text())

    def submit(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {"HOME": str(tmp_path), "SEQSWEEP_HOME": str(home), "PATH": "/usr/bin:/bin"}
        return subprocess.run(
            [sys.executable, str(script), *words], env=environment, capture_output=True, text=True, timeout=60
        )

    missing = submit(tmp_path / "nowhere", "run")
    assert missing.returncode == 1 and missing.stderr.startswith("error: no checkout of seqsweep is in")
    package = tmp_path / "checkout/seqsweep"
    package.mkdir(parents=True)
    (package / "__main__.py").write_text("import os, sys\nprint(os.getcwd(), sys.argv[1:])\nsys.exit(3)\n")
    done = submit(tmp_path / "checkout", "run", "trials=4")
    assert done.returncode == 3
    assert done.stdout == f"{tmp_path / 'checkout'} ['on-head', 'run', 'trials=4']\n"
