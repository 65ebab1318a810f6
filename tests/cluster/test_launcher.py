"""`ray up`, `ray exec`, `ray submit`, `ray down` on a machine that is reached by ssh."""

from pathlib import Path

import pytest

from seqsweep.sweep.storage.study_folder import JOURNAL_NAME
from seqsweep.sweep.study.study import Study
from tests.cluster.launcher import start_sshd, why_not_launched, write_cluster
from tests.cluster.nodes import ROOT, Network, Node, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NODES = "python -c 'import ray; ray.init(log_to_driver=False); print(len(ray.nodes()))'"

DRIVER = "sweep run "  # of the command line of the job


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


@pytest.mark.long
def test_a_submitted_study_goes_on_when_its_driver_was_killed(machine: Node) -> None:
    """`ray submit` hands `submit.py` plain words alone; it starts the study as a job of the cluster."""
    cluster, folder = str(write_cluster(machine)), machine.shared / "runs" / "submitted"
    words = ("name=submitted", "data=demo", "trials=2", "max_epochs=12", "max_users=2000", "finalists=0")
    small = ("fix=hidden_dim=16", "fix=max_len=20", "fix=residual=plain", "fix=loss=ce", "pruner=none")
    folders = (f"runs={machine.shared / 'runs'}", f"cache={machine.shared / 'cache'}")
    submit = ("ray", "submit", "--no-config-cache", cluster, str(ROOT / "submit.py"), "run")
    machine.run("ray", "up", "--yes", "--no-config-cache", cluster)
    follower = machine.start(*submit, *words, *small, *folders, log=machine.shared / "submit.log")
    wait_until(lambda: num_epochs(folder) >= 2, "two epochs are reported", timeout=180)
    machine.run("pkill", "-KILL", "-f", DRIVER)
    wait_until(lambda: follower.poll() is not None, "the first submit has ended", timeout=60)
    assert follower.returncode != 0
    told = machine.run(*submit, *words, *small, *folders, timeout=300)
    assert "best model" in told, told
    with Study.read(folder) as study:
        records = study.records()
    assert [record.state for record in records] == ["complete"] * 2
    assert max(record.attempts or 0 for record in records) == 2
    machine.run("ray", "down", "--yes", cluster)
    assert processes(machine, "gcs_server") == 0


def num_epochs(folder: Path) -> int:
    if not (folder / JOURNAL_NAME).exists():
        return 0
    with Study.read(folder) as study:
        return len(study.epoch_records())


def processes(node: Node, name: str) -> int:
    return node.run("ps", "axo", "args").count(f"/{name} ")
