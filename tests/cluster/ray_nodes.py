"""Ray on the nodes of a Network: a head, and workers that are started again when they end, as by systemd."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.cluster.nodes import Node, wait_until

PORT = 6379
STORE_BYTES = 2**28
# A node is given up after 5 s that do not answer, in place of 25.
SYSTEM_CONFIG = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 5,
}
SUPERVISOR = 'while true; do "$@"; sleep 1; done'
LOOK = """
import json, ray
from ray._private.state import actors
ray.init(address="auto", log_to_driver=False, logging_level="CRITICAL")
nodes = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
alive = [actor for actor in actors().values() if actor["State"] == "ALIVE"]
workers = [actor["Address"]["IPAddress"] for actor in alive if actor["ActorClassName"] == "ImplicitFunc"]
print(json.dumps({"nodes": nodes, "workers": workers}))
"""


@dataclass(frozen=True)
class Cluster:
    """As its head sees it."""

    nodes: list[str]  # addresses of those that are alive
    workers: list[str]  # addresses of the nodes that trials' processes run on, one for each process


def start_head(node: Node, num_cpus: int = 0, store_bytes: int = STORE_BYTES) -> None:
    node.run(
        *("ray", "start", "--head", f"--port={PORT}", "--include-dashboard=false"),
        f"--system-config={json.dumps(SYSTEM_CONFIG)}",
        *_size(node, num_cpus, store_bytes),
    )


def start_worker(
    node: Node, head: Node, num_cpus: int, store_bytes: int = STORE_BYTES
) -> subprocess.Popen[str]:
    """It joins soon, and again whenever it was given up."""
    start = ["ray", "start", "--block", f"--address={head.address}:{PORT}"]
    return node.start(
        *("bash", "-c", SUPERVISOR, "supervisor", *start, *_size(node, num_cpus, store_bytes)),
        log=node.shared / f"{node.name}.log",
    )


def look(head: Node) -> Cluster:
    return Cluster(**told(head.run("python", "-c", LOOK)))


def told(output: str) -> Any:
    """The line of JSON among those of Ray, which speaks when it likes, of nodes that it has lost."""
    return next(json.loads(line) for line in output.splitlines() if line.startswith(("{", "[{")))


def wait_for(head: Node, condition: Callable[[Cluster], bool], what: str, timeout: float = 90) -> None:
    wait_until(lambda: condition(look(head)), what, timeout)


def wait_to_join(head: Node, *nodes: Node) -> None:
    addresses = {node.address for node in nodes}
    wait_for(head, lambda cluster: addresses <= set(cluster.nodes), f"{sorted(addresses)} have joined")


def _size(node: Node, num_cpus: int, store_bytes: int) -> list[str]:
    return [
        f"--node-ip-address={node.address}",
        f"--num-cpus={num_cpus}",
        "--num-gpus=0",
        f"--object-store-memory={store_bytes}",
        "--disable-usage-stats",
    ]
