"""Ray on the nodes of a Network: a head, and workers that are started again when they end, as by systemd."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping

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
ALIVE = """
import json, ray
ray.init(address="auto", log_to_driver=False, logging_level="CRITICAL")
print(json.dumps({n["NodeManagerAddress"]: n["Resources"].get("CPU", 0) for n in ray.nodes() if n["Alive"]}))
"""


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


def alive(head: Node) -> Mapping[str, float]:
    """CPUs by address, as the head knows them."""
    told: Mapping[str, float] = json.loads(head.run("python", "-c", ALIVE).splitlines()[-1])
    return told


def wait_for(head: Node, *nodes: Node, timeout: float = 60) -> None:
    addresses = {node.address for node in nodes}
    wait_until(lambda: addresses <= alive(head).keys(), f"{sorted(addresses)} have joined", timeout)


def _size(node: Node, num_cpus: int, store_bytes: int) -> list[str]:
    return [
        f"--node-ip-address={node.address}",
        f"--num-cpus={num_cpus}",
        "--num-gpus=0",
        f"--object-store-memory={store_bytes}",
        "--disable-usage-stats",
    ]
