"""Ray's cluster launcher against a node itself: sshd on its loopback, a cluster of one machine.

Only ever within a Node: `ray up` and `ray down` end every Ray process that they can see.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.cluster.nodes import HOME, ROOT, Node, wait_until

TOOLS = ("sshd", "ssh", "ssh-keygen", "rsync")

# The launcher logs in as root, whose home is then the node's own, and finds what a login shell finds.
SET_UP = r"""
set -e
sed 's|^root:\(.*\):/root:|root:\1:'"$HOME"':|' /etc/passwd > /tmp/passwd
mount --bind /tmp/passwd /etc/passwd
mount -t tmpfs tmpfs /run
mkdir -p /run/sshd "$HOME/.ssh"
ssh-keygen -q -t ed25519 -N '' -f "$HOME/host_key"
ssh-keygen -q -t ed25519 -N '' -f "$HOME/.ssh/id_ed25519"
cp "$HOME/.ssh/id_ed25519.pub" "$HOME/.ssh/authorized_keys"
for name in PATH PYTHONPATH PYTHONDONTWRITEBYTECODE RAY_AUTH_MODE RAY_USAGE_STATS_ENABLED SEQSWEEP_HOME; do
    echo "export $name='${!name}'" >> "$HOME/.profile"
done
cat > "$HOME/sshd_config" <<END
ListenAddress 127.0.0.1
Port 22
HostKey $HOME/host_key
PidFile none
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
END
"""

CLUSTER = """
cluster_name: launched
provider: {type: local, head_ip: 127.0.0.1, worker_ips: []}
auth: {ssh_user: root, ssh_private_key: ~/.ssh/id_ed25519}
head_start_ray_commands:
    - ray stop
    - >-
        ray start --head --port=6379 --node-ip-address=127.0.0.1 --num-cpus=1 --num-gpus=0
        --object-store-memory=268435456 --dashboard-host=127.0.0.1
        --autoscaling-config=~/ray_bootstrap_config.yaml
"""


def why_not_launched() -> str | None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"{', '.join(missing)} must be installed (`make cluster` does)" if missing else None


def start_sshd(node: Node) -> None:
    """On the node's loopback, port 22, for the one key in its home."""
    node.environment["SEQSWEEP_HOME"] = str(ROOT)
    node.run("bash", "-c", SET_UP)
    sshd = shutil.which("sshd")
    assert sshd is not None
    node.start(sshd, "-D", "-e", "-f", str(HOME / "sshd_config"), log=node.shared / "sshd.log")
    login = ("ssh", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes", "root@127.0.0.1", "true")
    wait_until(lambda: node.start(*login).wait(timeout=30) == 0, "sshd answers", timeout=30)


def write_cluster(node: Node) -> Path:
    path = node.shared / "cluster.yaml"
    path.write_text(CLUSTER)
    return path
