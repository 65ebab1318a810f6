"""Nodes that share no folder: a local one is refused, an object store is gone to by all of them."""

from pathlib import Path

import pytest

from seqsweep.results.leaderboard import load_leaderboard
from tests.cluster.nodes import Network, Node, wait_until
from tests.cluster.ray_nodes import start_head, start_worker, wait_to_join

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PORT = 5000
KEYS = {"AWS_ACCESS_KEY_ID": "one", "AWS_SECRET_ACCESS_KEY": "two"}
MAKE_BUCKET = """
import sys, boto3
boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1").create_bucket(Bucket="bucket")
"""
LIST = """
import sys
from seqsweep.sweep.storage.files import BucketPath
print("\\n".join(BucketPath(sys.argv[1]).names_below()))
"""


def start_store(node: Node) -> str:
    """An object store on this node, as the others see it."""
    node.start(
        *("python", "-m", "moto.server", "-H", node.address, "-p", str(PORT)), log=node.shared / "store.log"
    )
    url = f"http://{node.address}:{PORT}"

    def is_up() -> bool:
        try:
            node.run("python", "-c", MAKE_BUCKET, url)
        except RuntimeError:  # it does not listen yet
            return False
        return True

    wait_until(is_up, "the object store answers", timeout=60)
    return f"s3://bucket/studies?endpoint_override={node.address}:{PORT}&scheme=http&region=us-east-1"


def run(head: Node, log: Path, *options: str) -> int:
    """On the head, in a folder that no other node sees; the exit status."""
    small = ("--data", "demo", "--max-users", "500", "--fix", "hidden_dim=16", "--fix", "max_len=20")
    search = ("--trials", "4", "--max-epochs", "3", "--finalists", "1", "--finalist-seeds", "2")
    folders = ("--runs", "/tmp/runs", "--cache", "/tmp/cache")
    command = ("python", "-m", "seqsweep", "run", "--name", "mine", "--address", "auto")
    return head.start(*command, *small, *search, *folders, *options, log=log).wait(300)


def test_a_folder_of_one_node_is_refused_and_an_object_store_is_not(network: Network) -> None:
    head, worker = network.add("head"), network.add("worker")
    for node in (head, worker):
        node.environment.update(KEYS)
    store = start_store(head)
    start_head(head, num_cpus=0)
    start_worker(worker, head, num_cpus=2)
    wait_to_join(head, worker)

    log = network.shared / "refused.log"
    assert run(head, log) == 1
    text = log.read_text()
    assert "node worker does not see the study's files in /tmp/runs/mine (FileNotFoundError" in text, text
    assert "--storage" in text and "Traceback" not in text

    log = network.shared / "stored.log"
    assert run(head, log, "--storage", store) == 0, log.read_text()
    head.run("cp", "-r", "/tmp/runs", str(network.shared))
    frame = load_leaderboard(network.shared / "runs" / "mine")
    trials = frame[frame["trial"].notna()]
    assert len(trials) == 4 and set(trials["node"]) == {"worker"} and trials["seeds"].max() == 2
    names = head.run("python", "-c", LIST, store.replace("studies?", "studies/mine?"))
    there = set(names.split())
    assert {"study.journal", "leaderboard.parquet", "best/model.safetensors", "best/config.json"} <= there
    assert {name for name in trials["checkpoint"].dropna()} <= there
    assert not (network.shared / "runs/mine/trials").exists()
