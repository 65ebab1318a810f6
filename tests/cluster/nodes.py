"""Machines of a cluster, on this one: each with an address, processes and files of its own.

A node is a set of namespaces: network, process numbers, host name, /tmp, /dev/shm and home are its own, the
rest of the file system is shared, also the folder that a Network is given. The namespaces have no names, and
their first processes end with the one that made them: whatever becomes of a test, nothing is left.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
TOOLS = {"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux"}
SUBNET = "10.77.0"
TOKEN = "0123456789abcdef" * 4
HOME = Path("/tmp/home")  # of a node, in its own /tmp
SHM_BYTES = 2**30
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The first process of a node: it has set up the node when it says so, and reaps what others leave.
FIRST_PROCESS = r"""
set -e
hostname "$NODE_NAME"
mount --bind /tmp /mnt
mount -t tmpfs -o mode=1777 tmpfs /tmp
for path in $KEPT_PATHS; do mkdir -p "$path"; mount --bind "/mnt/${path#/tmp/}" "$path"; done
umount /mnt
mount -t tmpfs -o mode=1777,size="$SHM_BYTES" tmpfs /dev/shm
ip link set lo up
mkdir -p "$HOME/.ray"
(umask 077; printf %s "$TOKEN" > "$HOME/.ray/auth_token")
echo ready
exec > /dev/null 2>&1
while true; do sleep 1000 & wait $!; done
"""


def why_not() -> str | None:
    """What is missing for a Network; None if nothing is."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "namespaces need Linux and root"
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if missing:
        return f"{', '.join(missing)} must be installed (`make cluster` does)"
    tried = subprocess.run(
        [
            "unshare",
            "--net",
            "--pid",
            "--mount",
            "--fork",
            "ip",
            "link",
            "add",
            "name",
            "b",
            "type",
            "bridge",
        ],
        capture_output=True,
        text=True,
    )
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else None


class Network:
    """A switch, and the nodes that hang on it. `shared` lies at the same path on all of them."""

    def __init__(self, shared: Path) -> None:
        self.shared = shared
        self.nodes: dict[str, Node] = {}
        self._num_made = 0
        self._switch = _start(["unshare", "--net", "bash", "-c", "echo ready; exec sleep infinity"], {})

    def __enter__(self) -> Self:
        try:
            self._on_switch("ip link add switch type bridge")
            self._on_switch("ip link set switch up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for node in self.nodes.values():
            node.kill()
        self._switch.kill()
        self._switch.wait()

    def add(self, name: str) -> Node:
        """A new machine, plugged in; a name may come back when its machine is gone."""
        if name in self.nodes and self.nodes[name].is_on:
            raise ValueError(f"nodes must have different names, got {name!r} again")
        self._num_made += 1
        node = self.nodes[name] = Node(name, f"{SUBNET}.{self._num_made}", self.shared)
        port = f"port{self._num_made}"
        self._on_switch(f"ip link add {port} type veth peer name eth0 netns {node.pid}")
        self._on_switch(f"ip link set {port} master switch up")
        node.run("ip", "addr", "add", f"{node.address}/24", "dev", "eth0")
        node.plug_in()
        return node

    def _on_switch(self, command: str) -> None:
        _run(["nsenter", "--target", str(self._switch.pid), "--net", *shlex.split(command)])


class Node:
    def __init__(self, name: str, address: str, shared: Path) -> None:
        self.name = name
        self.address = address
        self.shared = shared
        self.environment = {
            "HOME": str(HOME),
            "PATH": f"{Path(sys.prefix) / 'bin'}:{SYSTEM_PATH}",
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }
        kept = [shared, ROOT, Path(sys.prefix), Path(sys.base_prefix)]
        self._unshare = _start(
            [
                *("unshare", "--net", "--pid", "--mount", "--uts", "--ipc"),
                *("--fork", "--kill-child", "--mount-proc", "bash", "-c", FIRST_PROCESS),
            ],
            {
                **self.environment,
                "NODE_NAME": name,
                "TOKEN": TOKEN,
                "SHM_BYTES": str(SHM_BYTES),
                "KEPT_PATHS": " ".join(
                    dict.fromkeys(str(p) for p in _whole(kept) if p.is_relative_to("/tmp"))
                ),
            },
        )
        self._processes: list[subprocess.Popen[str]] = []
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        self.pid = int(children.read_text().split()[0])

    @property
    def is_on(self) -> bool:
        return self._unshare.poll() is None

    def start(
        self, *command: str, environment: Mapping[str, str] | None = None, log: Path | None = None
    ) -> subprocess.Popen[str]:
        """A process on this node; what it says goes to `log`, else nowhere."""
        with (log or Path(os.devnull)).open("a") as output:
            process = subprocess.Popen(
                self._entered(command),
                env={**self.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def run(self, *command: str, environment: Mapping[str, str] | None = None, timeout: float = 120) -> str:
        """The output of a command that must succeed."""
        return _run(self._entered(command), {**self.environment, **(environment or {})}, timeout)

    def unplug(self) -> None:
        """The network is gone, and nobody is told: no connection is closed."""
        self.run("ip", "link", "set", "eth0", "down")

    def plug_in(self) -> None:
        self.run("ip", "link", "set", "eth0", "up")
        self.run(
            "ip", "route", "add", "default", "dev", "eth0"
        )  # leads nowhere; Ray looks for its address there

    def lose_power(self) -> None:
        """All processes are gone at once, and nobody is told."""
        self.unplug()
        self.kill()

    def kill(self) -> None:
        if self.is_on:
            os.kill(self.pid, signal.SIGKILL)
        for process in (self._unshare, *self._processes):
            process.wait()

    def _entered(self, command: tuple[str, ...]) -> list[str]:
        spaces = ["--net", "--pid", "--mount", "--uts", "--ipc"]
        return ["nsenter", "--target", str(self.pid), *spaces, f"--wd={self.shared}", *command]


def wait_until(condition: Callable[[], bool], what: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout:g} s still not: {what}")
        time.sleep(0.2)


def _start(command: list[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """A first process of namespaces, which says `ready`, and ends when this process does."""
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command],
        env={"PATH": os.environ["PATH"], **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout as output:
        said = output.readline()
        if said != "ready\n":
            process.kill()
            process.wait()
            raise RuntimeError(f"namespaces could not be set up: {said}{output.read()}")
    return process


def _run(command: list[str], environment: Mapping[str, str] | None = None, timeout: float = 60) -> str:
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode} of {shlex.join(command)}:\n{done.stdout}")
    return done.stdout


def _whole(paths: list[Path]) -> list[Path]:
    return [each for path in paths for each in (path.absolute(), path.resolve())]
