"""The nodes themselves: what is cut off is cut off, and what is over leaves nothing."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.nodes import ROOT, Network, why_not

pytestmark = pytest.mark.cluster

REACH = "import socket, sys; socket.create_connection((sys.argv[1], 9), timeout=1)"
KILLED = """
import sys, time
from pathlib import Path
from tests.cluster.nodes import Network
with Network(Path(sys.argv[1])) as network:
    print(network.add("a").pid, flush=True)
    time.sleep(600)
"""


def reaches(network: Network, source: str, target: str) -> bool:
    """Nobody listens: whoever is reached says so at once."""
    node = network.nodes[source]
    try:
        node.run("python", "-c", REACH, network.nodes[target].address)
    except RuntimeError as error:
        return "ConnectionRefusedError" in str(error)
    return True


def test_nodes_reach_each_other_until_they_are_cut_off(network: Network) -> None:
    a, _ = network.add("a"), network.add("b")
    assert reaches(network, "b", "a")
    a.unplug()
    assert not reaches(network, "b", "a") and not reaches(network, "a", "b")
    a.plug_in()
    assert reaches(network, "b", "a")


def test_files_are_a_nodes_own_but_for_the_shared_folder(network: Network, tmp_path: Path) -> None:
    a, b = network.add("a"), network.add("b")
    a.run("touch", "/tmp/mine", "/dev/shm/mine", str(tmp_path / "ours"))
    assert b.run("bash", "-c", "ls -d /tmp/mine /dev/shm/mine 2> /dev/null || hostname") == "b\n"
    assert b.run("ls", str(tmp_path)) == "ours\n"
    assert not Path("/tmp/mine").exists() and not Path("/dev/shm/mine").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nodes_end_with_who_made_them(tmp_path: Path, number: signal.Signals) -> None:
    missing = why_not()
    if missing is not None:
        pytest.skip(missing)
    maker = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with maker:
        assert maker.stdout is not None
        pid = int(maker.stdout.readline())
        watch = os.pidfd_open(pid)
        maker.send_signal(number)
        maker.wait()
    try:
        signal.pidfd_send_signal(watch, 0)
        ended = bool(select.select([watch], [], [], 10)[0])
    except ProcessLookupError:
        ended = True
    finally:
        os.close(watch)
    assert ended
