"""One driver a cluster at a time: two would each count on all of its nodes."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

NAME, NAMESPACE = "driver", "seqsweep"
POLL_S = 1.0


class DriverLock:
    """An actor that lives as long as its driver; its name is the lock."""

    def __init__(self, holder: str) -> None:
        self._holder = holder

    def holder(self) -> str:
        return self._holder


@contextmanager
def hold_driver_lock(study: str, say: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other driver runs on this cluster, and say for whom."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    holder = f"study {study} (process {os.getpid()} on {platform.node()}, since {since})"
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    told = None
    while True:
        try:
            turn: ActorHandle[DriverLock] = (
                ray.remote(num_cpus=0)(DriverLock)  # type: ignore[assignment]
                .options(name=NAME, namespace=NAMESPACE, scheduling_strategy=here)
                .remote(holder)
            )
            break
        except ValueError:  # the name is taken
            other = _holder()
        if other is not None and other != told:
            say(f"{other} is running on this cluster: waiting for its end. Ctrl-C leaves, nothing is lost")
            told = other
        time.sleep(POLL_S)
    try:
        yield
    finally:
        ray.kill(turn)


def _holder() -> str | None:
    """None if it has gone meanwhile."""
    try:
        return str(ray.get(ray.get_actor(NAME, NAMESPACE).holder.remote(), timeout=30))
    except (ValueError, ray.exceptions.RayError):
        return None
