"""Following the log of a job over a connection that may drop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import cast

from seqsweep.sweep.errors import ClusterError
from seqsweep.sweep.jobs.client import HEADER, Cluster, StudyJob, check_listens

RECONNECT_S = 30.0  # so long a lost connection is tried again
SILENCE_S = 20.0  # after so long without a line it is asked whether anybody is there


class LostError(ClusterError):
    """The connection, not the job."""


class JobLog:
    """Writes what a job prints, each character once, however often it has to connect anew."""

    def __init__(self, cluster: Cluster, job: StudyJob, write: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._job = job
        self._write = write
        self._log = ""  # until the job's own output begins
        self._has_begun = False
        self._num_received = 0

    @property
    def has_begun(self) -> bool:
        return self._has_begun

    def follow(self) -> StudyJob:
        """To the job's end. Raises LostError if the cluster is not to be reached any more."""
        lost_at: float | None = None
        while True:
            received = self._num_received
            try:
                asyncio.run(self._tail())
                job = self._cluster.look(self._job)
            except ClusterError as error:
                if self._num_received > received:
                    lost_at = None
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > RECONNECT_S:
                    raise LostError(str(error)) from None
            else:
                lost_at = None
                if job.is_over:
                    return job
            time.sleep(1)

    async def _tail(self) -> None:
        with self._cluster.errors():
            position = 0
            tail = cast(AsyncGenerator[str], self._cluster.client.tail_job_logs(self._job.id))
            async with aclosing(tail) as lines:
                while (chunk := await self._next(lines)) is not None:
                    position += len(chunk)
                    new = position - self._num_received
                    if new > 0:
                        self._num_received = position
                        self._take(chunk[-new:])

    async def _next(self, lines: AsyncIterator[str]) -> str | None:
        """None at the end. Raises ClusterError if nobody is there any more."""
        task = asyncio.ensure_future(_next_or_none(lines))
        try:
            while not (await asyncio.wait({task}, timeout=SILENCE_S))[0]:
                await asyncio.to_thread(check_listens, self._cluster.address)
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _take(self, text: str) -> None:
        if self._has_begun:
            self._write(text)
            return
        self._log += text
        header = HEADER.search(self._log)
        if header is not None:
            self._has_begun = True
            self._write(self._log[header.end() :])
            self._log = ""


async def _next_or_none(lines: AsyncIterator[str]) -> str | None:
    return await anext(lines, None)
