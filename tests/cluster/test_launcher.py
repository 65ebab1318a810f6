"""`ray up`, `ray exec`, `ray down` on a machine that is reached by ssh."""

import pytest

from tests.cluster.launcher import start_sshd, why_not_launched, write_cluster
from tests.cluster.nodes import Network, Node

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NODES = "python -c 'import ray; ray.init(log_to_driver=False); print(len(ray.nodes()))'"


@pytest.fixture
def machine(network: Network) -> Node:
    missing = why_not_launched()
    if missing is not None:
        pytest.skip(missing)
    node = network.add("head")
    start_sshd(node)
    return node


def test_ray_up_exec_down(machine: Node) -> None:
    cluster = str(write_cluster(machine))
    machine.run("ray", "up", "--yes", "--no-config-cache", cluster)
    assert processes(machine, "gcs_server") == 1
    told = machine.run("ray", "exec", "--no-config-cache", cluster, NODES)
    assert "1" in told.split(), told
    machine.run("ray", "down", "--yes", cluster)
    assert processes(machine, "gcs_server") == 0


def processes(node: Node, name: str) -> int:
    return node.run("ps", "axo", "args").count(f"/{name} ")
