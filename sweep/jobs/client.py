"""Sweeps as Ray Jobs: a study is one job at a time, known by the study's name in the job's metadata.

A driver that runs on the head outlives the connection that started it. All that is needed from here is the
dashboard's address and the cluster's token.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

from seqsweep.sweep.errors import ClusterError, first_line
from seqsweep.sweep.jobs.shipping import RUNS, STUDY, Launch

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

STOP_WAIT_S = 120  # from SIGTERM to SIGKILL; Ray's own 3 s are too few for a driver to end in order
CONNECT_TIMEOUT_S = 10.0
POLL_S = 0.5
MAX_TRIES = 20  # of starting, while others start jobs of the same study
HEADER = re.compile(r"^Running entrypoint for job .*\n", re.MULTILINE)  # Ray's line before the job's own


@dataclass(frozen=True)
class StudyJob:
    id: str
    study: str
    runs: str
    launch: Launch
    state: str  # pending, running, stopped, succeeded, failed
    started_at: float  # seconds since 1970
    ended_at: float | None
    message: str

    @property
    def is_over(self) -> bool:
        return self.state in ("stopped", "succeeded", "failed")

    @classmethod
    def of(cls, details: JobDetails) -> StudyJob:
        metadata = details.metadata or {}
        return cls(
            id=str(details.submission_id),
            study=metadata[STUDY],
            runs=metadata[RUNS],
            launch=Launch.of_metadata(metadata),
            state=details.status.value.lower(),
            started_at=(details.start_time or 0) / 1000,
            ended_at=None if details.end_time is None else details.end_time / 1000,
            message=details.message or "",
        )


class Cluster:
    """The jobs of a cluster. Every method raises ClusterError where the cluster does not do its part."""

    def __init__(self, address: str) -> None:
        self.address = dashboard_url(address)
        check_listens(self.address)
        from ray.job_submission import JobSubmissionClient

        for handler in logging.getLogger("ray").handlers:  # it tells of each folder that it packs
            handler.setLevel(logging.ERROR)
        # Ray lets RAY_ADDRESS win over the argument; this wins over both.
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address
        with self.errors():
            try:
                self.client = JobSubmissionClient(self.address)
            except (KeyError, ValueError, RuntimeError) as error:
                raise ClusterError(not_a_dashboard(self.address, error)) from None

    def jobs(self) -> list[StudyJob]:
        """Of all studies, the oldest first."""
        with self.errors():
            details = self.client.list_jobs()
        jobs = [
            StudyJob.of(each) for each in details if each.submission_id and STUDY in (each.metadata or {})
        ]
        return sorted(jobs, key=lambda job: job.started_at)

    def latest(self, study: str) -> StudyJob | None:
        return next((job for job in reversed(self.jobs()) if job.study == study), None)

    def job_of(self, study: str) -> StudyJob:
        """The latest. Raises ClusterError if there is none."""
        jobs = self.jobs()
        found = [job for job in jobs if job.study == study]
        if not found:
            known = ", ".join(sorted({job.study for job in jobs}))
            raise ClusterError(
                f"the cluster at {self.address} has no job of a study {study!r}; "
                + (f"it has jobs of {known}" if known else "it has none of any study")
            )
        return found[-1]

    def look(self, job: StudyJob) -> StudyJob:
        with self.errors():
            return StudyJob.of(self.client.get_job_info(job.id))

    def start(
        self, study: str, line: str, metadata: dict[str, str], launch: Launch, variables: dict[str, str]
    ) -> tuple[StudyJob, bool]:
        """The job that runs the study, and whether it was started now: one that runs already is joined.

        Two that start one study at once ask for the same id, and Ray gives it to one of them.
        """
        for _ in range(MAX_TRIES):
            jobs = [job for job in self.jobs() if job.study == study]
            if jobs and not jobs[-1].is_over:
                return jobs[-1], False
            number = 1 + max((_number(job.id) for job in jobs), default=0)
            try:
                job_id = self._submit(f"{study}-{number}", line, metadata, launch, variables)
            except _TakenError:
                continue
            with self.errors():
                return StudyJob.of(self.client.get_job_info(job_id)), True
        raise ClusterError(
            f"the cluster at {self.address} has other jobs named {study}-1, {study}-2 ..: use another --name"
        )

    def stop(self, job: StudyJob) -> StudyJob:
        """Have the driver end in order, and wait for it."""
        with self.errors():
            self.client.stop_job(job.id)
        return self._wait(job.id, STOP_WAIT_S + 30)

    def ask(self, study: str, line: str, launch: Launch) -> str:
        """Run one short command on the head; what it printed. Its complaints are raised."""
        job_id = f"seqsweep-ask-{uuid4().hex[:12]}"
        self._submit(job_id, line, {"seqsweep_asks": study}, launch, {})
        details = self._details_when_over(job_id, None)
        with self.errors():
            _, printed = split_log(self.client.get_job_logs(job_id))
            self.client.delete_job(job_id)
        if details.status.value != "SUCCEEDED":
            raise ClusterError(complaint(printed) or f"the head could not answer: {details.message}")
        return printed

    def _submit(
        self, job_id: str, line: str, metadata: dict[str, str], launch: Launch, variables: dict[str, str]
    ) -> str:
        environment: dict[str, Any] = {**launch.working_dir(), "env_vars": variables}
        with self.errors():
            try:
                return self.client.submit_job(
                    entrypoint=line, submission_id=job_id, metadata=metadata, runtime_env=environment
                )
            except RuntimeError as error:
                if f"{job_id} already exists" in str(error):
                    raise _TakenError from None
                raise

    def _wait(self, job_id: str, timeout_s: float) -> StudyJob:
        return StudyJob.of(self._details_when_over(job_id, timeout_s))

    def _details_when_over(self, job_id: str, timeout_s: float | None) -> JobDetails:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            with self.errors():
                details = self.client.get_job_info(job_id)
            if details.status.is_terminal():
                return details
            if deadline is not None and time.monotonic() > deadline:
                raise ClusterError(
                    f"job {job_id} has not ended in {timeout_s:.0f} s: look at its log, or end it on the head"
                )
            time.sleep(POLL_S)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """What Ray and its HTTP client raise, as one message with the way out."""
        import aiohttp
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(token_message(self.address, error.message)) from None
        except (requests.exceptions.JSONDecodeError, requests.exceptions.HTTPError) as error:
            raise ClusterError(not_a_dashboard(self.address, error)) from None
        except (requests.exceptions.RequestException, aiohttp.ClientError, ConnectionError) as error:
            raise ClusterError(nothing_answers(self.address, error)) from None
        except RuntimeError as error:
            if isinstance(error, ClusterError | _TakenError):
                raise
            raise ClusterError(f"the cluster at {self.address} refuses: {first_line(error)}") from None


class _TakenError(RuntimeError):
    """A job has this id already."""


def dashboard_url(address: str) -> str:
    try:
        url = urlsplit(address if "://" in address else f"http://{address}")
        is_one = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # of a port that is none, say
        is_one = False
    if not is_one:
        raise ClusterError(
            f"address must be that of a Ray dashboard, as http://HEAD:8265, got {address!r}: "
            "through ssh it is `ssh -L 8265:127.0.0.1:8265 HEAD` and http://127.0.0.1:8265"
        )
    return url.geturl().rstrip("/")


def check_listens(address: str) -> None:
    """In seconds, where Ray's own client waits for minutes."""
    url = urlsplit(address)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((str(url.hostname), port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ClusterError(nothing_answers(address, error)) from None


def not_a_dashboard(address: str, error: BaseException) -> str:
    return (
        f"what answers at {address} is not the dashboard of a Ray cluster ({first_line(error)}): give "
        "--address its dashboard, as http://HEAD:8265"
    )


def nothing_answers(address: str, error: BaseException) -> str:
    return (
        f"nothing answers at {address} ({first_line(error)}): start the cluster (`ray start --head`), or "
        "reach its dashboard with `ssh -L 8265:127.0.0.1:8265 HEAD`"
    )


def token_message(address: str, answer: str) -> str:
    """Ray takes RAY_AUTH_TOKEN, else the file RAY_AUTH_TOKEN_PATH, else ~/.ray/auth_token."""
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return (
            f"the cluster at {address} wants a token, and RAY_AUTH_MODE={os.environ.get('RAY_AUTH_MODE')} "
            "sends none: set RAY_AUTH_MODE=token"
        )
    if os.environ.get("RAY_AUTH_TOKEN"):
        source = "in RAY_AUTH_TOKEN"
    elif os.environ.get("RAY_AUTH_TOKEN_PATH"):
        source = f"in {os.environ['RAY_AUTH_TOKEN_PATH']} (RAY_AUTH_TOKEN_PATH)"
    else:
        source = "in ~/.ray/auth_token"
    if answer.startswith("Authentication failed"):
        problem, other = f"the cluster at {address} refuses the token {source}", ""
    else:
        problem = f"there is no token {source} for the cluster at {address}"
        other = "; for a cluster without authentication set RAY_AUTH_MODE=disabled"
    return (
        f"{problem}: put the head's (`ray get-auth-token` there prints it) into ~/.ray/auth_token, or into "
        f"the variable RAY_AUTH_TOKEN{other}"
    )


def split_log(log: str) -> tuple[str, str]:
    """What Ray wrote before the job began, and what the job wrote."""
    header = HEADER.search(log)
    return (log, "") if header is None else (log[: header.end()], log[header.end() :])


def complaint(printed: str) -> str | None:
    """The last message of `user_errors` in what a command printed."""
    lines = [line for line in printed.splitlines() if line.startswith("error: ")]
    return lines[-1].removeprefix("error: ") if lines else None


def _number(job_id: str) -> int:
    digits = job_id.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0
