"""The dashboard shows a study that a driver writes at the same time, and can change nothing."""

import http.client
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import optuna
import pytest

from seqsweep.results.schema import Hparam
from seqsweep.sweep.errors import ConfigError, StudyError
from seqsweep.sweep.settings.search import SearchConfig
from seqsweep.sweep.storage.study_folder import JOURNAL_NAME
from seqsweep.sweep.study.dashboard import REFUSAL, DashboardError, Server, StudyView, open_server, serve
from seqsweep.sweep.study.journal import Journal, JournalError
from seqsweep.sweep.study.study import Study

ROOT = Path(__file__).parents[3]


class Answer(NamedTuple):
    status: int
    body: bytes
    location: str | None = None

    def json(self) -> Any:
        return json.loads(self.body)


def space(trial: optuna.Trial) -> dict[str, Hparam]:
    return {"model": "sasrec", "lr": trial.suggest_float("lr", 1e-4, 1e-2, log=True)}


def report(epoch: int, objective: float) -> dict[str, Any]:
    return {"epoch": epoch, "objective": objective, "loss": 5.0 - objective, "valid.ndcg@10": objective}


def train(study: Study, *objectives: float) -> None:
    request = study.ask()
    assert request is not None
    for epoch, objective in enumerate(objectives, start=1):
        study.report(request.trial_number, report(epoch, objective))
    study.complete(request.trial_number)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    search = SearchConfig(trials=100, pruner="none", max_epochs=5, grace_epochs=1)
    with Study.open(tmp_path / "shown", name="shown", seed=1, search=search, space=space) as opened:
        train(opened, 0.1, 0.3, 0.2)
        yield opened


@contextmanager
def served(folder: Path, say: Callable[[str], None]) -> Iterator[Server]:
    with open_server(folder, "127.0.0.1", 0, say) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(study: Study, tmp_path: Path) -> Iterator[Server]:
    with served(tmp_path / "shown", pytest.fail) as running:
        yield running


def ask(server: Server, method: str, path: str, content: Any = None) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    try:
        body = None if content is None else json.dumps(content)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return Answer(response.status, response.read(), response.getheader("Location"))
    finally:
        connection.close()


def test_the_page_and_all_that_it_loads(server: Server) -> None:
    first = ask(server, "GET", "/")
    assert (first.status, first.location) == (302, f"{server.url}dashboard")
    page = ask(server, "GET", "/dashboard/studies/0")
    assert page.status == 200 and b"<title>Optuna Dashboard</title>" in page.body
    scripts = re.findall(rb'src="(/static/[^"]+)"', page.body)
    assert scripts and all(ask(server, "GET", path.decode()).status == 200 for path in scripts)


def test_the_study_with_one_report_a_trial(server: Server) -> None:
    (summary,) = ask(server, "GET", "/api/studies").json()["study_summaries"]
    assert summary["study_name"] == "shown"
    detail = ask(server, "GET", "/api/studies/0").json()
    (trial,) = detail["trials"]
    assert trial["state"] == "Complete" and trial["values"] == [0.3]
    assert [value["value"] for value in trial["intermediate_values"]] == [0.1, 0.3, 0.2]
    attributes = {attribute["key"]: attribute["value"] for attribute in trial["user_attrs"]}
    assert (attributes["epoch"], attributes["valid.ndcg@10"]) == ("2", "0.3")  # of its best epoch
    assert not any(key.startswith("epoch.") for key in attributes)
    assert [best["number"] for best in detail["best_trials"]] == [0]
    assert ask(server, "GET", "/csv/0").body.startswith(b"Number,State,")


def num_trials(server: Server) -> int:
    return len(ask(server, "GET", "/api/studies/0").json()["trials"])


def test_it_follows_a_study_that_is_written(server: Server, study: Study) -> None:
    assert num_trials(server) == 1
    train(study, 0.4)
    deadline = time.monotonic() + 30  # the dashboard keeps what it read for some seconds
    while num_trials(server) == 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert num_trials(server) == 2
    (best,) = ask(server, "GET", "/api/studies/0").json()["best_trials"]
    assert best["number"] == 1


def test_many_readers_beside_the_writer(server: Server, study: Study) -> None:
    paths = ["/api/studies", "/api/studies/0", "/csv/0"]
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, server, "GET", paths[number % len(paths)]) for number in range(90)]
        for number in range(30):
            train(study, 0.01 * number)
    assert {answer.result().status for answer in answers} == {200}
    lines = ask(server, "GET", "/csv/0").body.splitlines()
    assert len(lines) == 1 + 31


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("PUT", "/api/studies/0/note", {"body": "nice", "version": 1}),
        ("PUT", "/api/studies/0/0/note", {"body": "x" * 100_000, "version": 1}),
        ("POST", "/api/trials/0/tell", {"state": "Fail"}),
        ("POST", "/api/trials/0/user-attrs", {"user_attrs": {"a": 1}}),
        ("POST", "/api/studies", {"study_name": "new", "directions": ["maximize"]}),
        ("POST", "/api/studies/0/rename", {"study_name": "new"}),
        ("DELETE", "/api/studies/0", None),
        ("PATCH", "/nowhere", None),
    ],
)
def test_what_would_change_something_is_refused(
    server: Server, study: Study, capfd: pytest.CaptureFixture[str], method: str, path: str, content: Any
) -> None:
    journal = Path(study._journal.path)
    before = journal.read_bytes()
    answer = ask(server, method, path, content)
    assert (answer.status, answer.json()) == (403, {"reason": REFUSAL})
    assert journal.read_bytes() == before
    assert num_trials(server) == 1
    train(study, 0.5)  # the driver goes on
    assert capfd.readouterr() == ("", "")


def test_behind_the_door_the_journal_takes_no_writes(study: Study, tmp_path: Path) -> None:
    with Journal(tmp_path / "shown" / JOURNAL_NAME, read_only=True) as journal:
        view = StudyView(journal)
        with pytest.raises(JournalError, match="opened to read only"):
            view.delete_study(0)
        assert [found.study_name for found in view.get_all_studies()] == ["shown"]


def test_the_view_changes_no_trial_of_the_storage_beneath(study: Study, tmp_path: Path) -> None:
    with Journal(tmp_path / "shown" / JOURNAL_NAME, read_only=True) as journal:
        view = StudyView(journal)
        (shown,) = view.get_all_trials(0, deepcopy=False)
        assert "epoch.3" not in shown.user_attrs
        assert "epoch.3" in view.get_trial(shown._trial_id).user_attrs
        (again,) = view.get_all_trials(0, deepcopy=False)
        assert again is shown  # an ended trial is not looked at twice
        (own,) = view.get_all_trials(0)
        assert own is not shown and own == shown


def test_a_damaged_journal_is_one_line_on_the_terminal(
    study: Study, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    with served(tmp_path / "shown", said.append) as server:
        with (tmp_path / "shown" / JOURNAL_NAME).open("ab") as file:
            file.write(b"no record\nnor this\n")
        assert ask(server, "GET", "/api/studies").status == 500
    (line,) = said
    assert line.startswith("dashboard: Exception: ") and "is damaged at byte" in line and "\n" not in line
    assert capfd.readouterr() == ("", "")


def test_only_this_machine_is_let_in_unless_asked(study: Study, tmp_path: Path) -> None:
    with open_server(tmp_path / "shown", "127.0.0.1", 0, print) as server:
        assert server.server_address[0] == "127.0.0.1"
    with open_server(tmp_path / "shown", "0.0.0.0", 0, print) as server:
        assert server.server_address[0] == "0.0.0.0"


def test_a_port_in_use(server: Server, tmp_path: Path) -> None:
    port = server.server_port
    with pytest.raises(DashboardError, match=rf"port {port} of 127\.0\.0\.1 is in use: .* another --port"):
        serve(tmp_path / "shown", port=port, say=print)


def test_a_host_that_is_not_ours(study: Study, tmp_path: Path) -> None:
    with pytest.raises(DashboardError, match=r"192\.0\.2\.1, port 8080 can't be listened on"):
        serve(tmp_path / "shown", host="192.0.2.1", say=print)


def test_no_study(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="there is no study in"):
        serve(tmp_path, say=print)
    (tmp_path / JOURNAL_NAME).touch()
    with pytest.raises(StudyError, match="holds no study yet"):
        serve(tmp_path, say=print)


def test_without_the_extra(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'seqsweep[dashboard]'")):
        serve(tmp_path / "shown", say=print)


def test_ctrl_c_ends_it_quietly(study: Study, tmp_path: Path) -> None:
    code = (
        "import functools, pathlib, signal, sys; from seqsweep.sweep.study.dashboard import serve;"
        # A shell starts what runs in its background with SIGINT ignored: tests too.
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "serve(pathlib.Path(sys.argv[1]), port=0, say=functools.partial(print, flush=True))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "shown")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"dashboard of shown: http://127\.0\.0\.1:(\d+)/ ", line)
        assert found is not None, line
        # A browser's connection that says nothing must not keep the server.
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=30)
        connection.connect()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 0
        connection.close()
    finally:
        process.kill()
        process.wait()
