"""The Optuna dashboard on a study's journal, also while a driver writes it.

The driver is the journal's only writer. So the dashboard reads alone: a request that could change something
is refused at the door, and behind it the journal is open to read only.
"""

from __future__ import annotations

import copy
import errno
import json
import logging
import socket
import sys
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState

from seqsweep.sweep.errors import ConfigError, StudyError, UserError
from seqsweep.sweep.storage.study_folder import JOURNAL_NAME
from seqsweep.sweep.study.journal import Journal
from seqsweep.sweep.study.optuna_study import find_study
from seqsweep.sweep.study.trial_records import best_report, epoch_attribute, reports_in

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Say = Callable[[str], None]

READING = ("GET", "HEAD")
MAX_REFUSED_BYTES = 2**20
REFUSAL = "this dashboard only shows the study: its driver alone writes it. Use the seqsweep commands"


class DashboardError(UserError, RuntimeError):
    """The server can't start."""


def serve(folder: Path, *, host: str = "127.0.0.1", port: int = 8080, say: Say) -> None:
    """Show the study in `folder` to browsers until Ctrl-C. Nothing they send can change it.

    Raises ConfigError without the extra, StudyError without a study, DashboardError where `host` and `port`
    can't be had.
    """
    with open_server(folder, host, port, say) as server, suppress(KeyboardInterrupt):
        say(f"dashboard of {folder.name}: {server.url} (Ctrl-C ends it)")
        server.serve_forever()


@contextmanager
def open_server(folder: Path, host: str, port: int, say: Say) -> Iterator[Server]:
    """A server that listens and is not yet run."""
    try:
        import optuna_dashboard  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError("the dashboard needs an extra: pip install 'seqsweep[dashboard]'") from error
    path = folder / JOURNAL_NAME
    if not path.exists():
        raise StudyError(f"there is no study in {folder}: it has no {JOURNAL_NAME}")
    with Journal(path, read_only=True) as journal:
        view = StudyView(journal)
        if find_study(view) is None:
            raise StudyError(f"{path} holds no study yet")
        with _listen(host, port) as server, _spoken_errors(say):
            server.set_app(refuse_changes(optuna_dashboard.wsgi(view)))
            yield server


class StudyView(JournalStorage):
    """The study as the dashboard's tables can hold it: of a trial's reports only that of its best epoch.

    All epochs would be as many columns, and be sent to the browser at each of its polls.
    """

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal)
        self._ended: dict[int, FrozenTrial] = {}

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = super().get_all_trials(study_id, deepcopy=False, states=states)
        views = [self._view(trial) for trial in trials]
        return copy.deepcopy(views) if deepcopy else views

    def _view(self, trial: FrozenTrial) -> FrozenTrial:
        if trial._trial_id in self._ended:
            return self._ended[trial._trial_id]
        reports = reports_in(trial.user_attrs)
        dropped = {epoch_attribute(report["epoch"]) for report in reports}
        view = copy.copy(trial)
        view.user_attrs = {
            **{key: value for key, value in trial.user_attrs.items() if key not in dropped},
            **best_report(reports),
        }
        if trial.state.is_finished():
            self._ended[trial._trial_id] = view
        return view


def refuse_changes(app: WSGIApplication) -> WSGIApplication:
    """403 for each request that does not only read, in the form in which the dashboard's page shows it."""

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in READING:
            return app(environ, start_response)
        # A connection that is closed on unread bytes is reset, and the answer may be lost with it.
        environ["wsgi.input"].read(min(int(environ.get("CONTENT_LENGTH") or 0), MAX_REFUSED_BYTES))
        body = json.dumps({"reason": REFUSAL}).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response("403 Forbidden", headers)
        return [body]

    return guarded


class Server(ThreadingMixIn, WSGIServer):
    """A thread a request: a browser opens several connections at once."""

    daemon_threads = True  # Ctrl-C waits for no browser

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), RequestHandler)

    @property
    def url(self) -> str:
        host = f"[{self.server_name}]" if ":" in self.server_name else self.server_name
        return f"http://{host}:{self.server_port}/"

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # http.server's asks the name service for our own name, which may hang
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a browser that went away
            super().handle_error(request, client_address)


class RequestHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """No line a request."""


def _listen(host: str, port: int) -> Server:
    try:
        return Server(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            message = f"port {port} of {host} is in use: stop what listens there, or give another --port"
        else:
            message = (
                f"{host}, port {port} can't be listened on: {error.strerror}. Give another --host or --port"
            )
        raise DashboardError(message) from error


@contextmanager
def _spoken_errors(say: Say) -> Iterator[None]:
    """What the dashboard logs, with a traceback, is said in one line. A damaged journal is said so too."""
    logger = logging.getLogger("optuna_dashboard")
    handler = _FirstLines(say)
    logger.addHandler(handler)
    propagated, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate = propagated
        logger.removeHandler(handler)


class _FirstLines(logging.Handler):
    def __init__(self, say: Say) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(f"dashboard: {record.getMessage().partition(chr(10))[0]}")
