"""What every node of a cluster must have for a study: a way to its files, and room for its log."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Self
from uuid import uuid4

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from seqsweep.sweep.errors import ClusterError
from seqsweep.sweep.storage.bucket import BucketPath, StorageError, StudyPath
from seqsweep.sweep.storage.files import open_whole, write_whole

PROBE = "reached"  # begins the name of a file in the study's place, while it runs
SECONDS_TO_SEE = 15.0  # a shared folder may show new files late, and a store may not answer at once
ANSWER_TIMEOUT_S = 120.0  # a new worker process has to start for it
SECONDS_BETWEEN = 5.0
SHARE_OF_STORE = 0.9  # trials put small things there too
GIB = 1024**3

Node = Mapping[str, Any]


class NodeWatch:
    """Asks each node once whether it sees the study's files: at the start, and those that join later."""

    def __init__(self, place: StudyPath) -> None:
        self._place = place
        self._token = uuid4().hex
        self._probe = place / f"{PROBE}-{self._token}"
        self._asked: dict[str, ray.ObjectRef[Any] | None] = {}  # by node; None once it is known to see them
        self._looked_at = time.monotonic()

    def __enter__(self) -> Self:
        """Raises ClusterError for a cluster of several nodes, one of which does not see the files."""
        try:
            self._ask_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._asked:
            with suppress(FileNotFoundError):
                self._probe.unlink()

    def _ask_all(self) -> None:
        nodes = alive_nodes()
        if len(nodes) < 2:
            return
        self._ask(nodes)
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while any(answer is not None for answer in self._asked.values()):
            problem = self._take_answers()
            if problem is not None:
                raise ClusterError(problem)
            if time.monotonic() > deadline:
                silent = [node for node, answer in self._asked.items() if answer is not None]
                raise ClusterError(
                    f"{len(silent)} of {len(nodes)} nodes did not say within {ANSWER_TIMEOUT_S:.0f} s "
                    f"whether they see {self._place}: look at them with `ray status`, then start the same "
                    "command again"
                )
            time.sleep(0.05)

    def step(self) -> str | None:
        """Called all the time: what is wrong with a node that has joined, if anything is."""
        if time.monotonic() - self._looked_at < SECONDS_BETWEEN:
            return None
        self._looked_at = time.monotonic()
        nodes = alive_nodes()
        with suppress(StorageError):  # then they are asked the next time
            if len(nodes) > 1:
                self._ask(nodes)
        return self._take_answers()

    def _ask(self, nodes: Sequence[Node]) -> None:
        new = [node["NodeID"] for node in nodes if node["NodeID"] not in self._asked]
        if new and not self._asked:
            self._remove_left_overs()
            write_whole(self._probe, lambda file: file.write(self._token.encode()))
        for node_id in new:
            on_it = NodeAffinitySchedulingStrategy(node_id, soft=False)
            task = ray.remote(num_cpus=0, max_retries=0)(_read_probe).options(scheduling_strategy=on_it)
            self._asked[node_id] = task.remote(self._probe, SECONDS_TO_SEE)

    def _remove_left_overs(self) -> None:
        """Of drivers of this study that were killed."""
        if isinstance(self._place, BucketPath):
            names = self._place.names_below()
        else:
            names = [path.name for path in self._place.glob(f"{PROBE}-*")]
        for name in names:
            if name.startswith(f"{PROBE}-"):
                with suppress(FileNotFoundError):
                    (self._place / name).unlink()

    def _take_answers(self) -> str | None:
        for node_id, answer in list(self._asked.items()):
            if answer is None or not ray.wait([answer], timeout=0)[0]:
                continue
            try:
                name, read = ray.get(answer)
            except (ray.exceptions.RayTaskError, ray.exceptions.RuntimeEnvSetupError) as error:
                last_line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                return f"node {node_id[:8]} can't run seqsweep ({last_line}): install the same on all nodes"
            except ray.exceptions.RayError:
                # It has left again, or its worker died: asked when it is seen next.
                del self._asked[node_id]
                continue
            if read != self._token:
                return (
                    f"node {name} does not see the study's files in {self._place} ({read}): all nodes must. "
                    "Give a folder that they share with --runs, or an object store with --storage"
                )
            self._asked[node_id] = None
        return None


def _read_probe(path: StudyPath, timeout_s: float) -> tuple[str, str]:
    """The node's name, and what it reads there or why it can't."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with open_whole(path) as file:
                return platform.node(), file.read().decode()
        except Exception as error:  # of any file system, and all of it is the answer
            if time.monotonic() > deadline:
                return platform.node(), f"{type(error).__name__}: {error}"
        time.sleep(0.5)


def check_room(num_bytes: int) -> str | None:
    """A warning where the log will be spilled, as a store is full. ClusterError if one can never hold it."""
    nodes = alive_nodes()
    for node in nodes:
        store = node["Resources"].get("object_store_memory", 0)
        if num_bytes > SHARE_OF_STORE * store:
            raise ClusterError(
                f"the log takes {num_bytes / GIB:.2f} GiB, but the object store of node {node['NodeName']} "
                f"has {store / GIB:.2f} GiB: start Ray there with `ray start --object-store-memory "
                f"{int(num_bytes / SHARE_OF_STORE * 1.1)}` and as much /dev/shm, and run with --address auto"
            )
    free_by_node = ray._private.state.available_resources_per_node()  # type: ignore[no-untyped-call]
    free = min(free_by_node.get(node["NodeID"], {}).get("object_store_memory", 0) for node in nodes)
    if num_bytes > free:
        return (
            f"the log takes {num_bytes / GIB:.2f} GiB, but an object store has {free / GIB:.2f} GiB free: "
            "some of it is spilled to disk and read back, which is slow. Stop what else uses this Ray"
        )
    return None


def alive_nodes() -> list[Node]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
