"""Trial processes on two nodes that read the same log: whether it lies on each node once.

The nodes are namespaces of this machine (tests/cluster/nodes.py), each with a /dev/shm of its own. The
driver puts the log into the store of the first, as a study does, and the processes are shared out evenly.
Each opens the log as a trial does and reads all of it. `store_mb_a_node` is what Ray says that each node's
store holds. The proportional set sizes (PSS) of all processes, the driver's and the stores' included as
they map the log too, add up to one copy a node; `store_pss_grown_share` is by how much that sum grew for
each process more than in the row before, over the size of the log. What a trial has of its own
(`private_grown_mb_each`) grows with the number of users.

python -m benchmarks.store_sharing_nodes [--data LOG] [--nodes 2] [--processes 2 8]     (as root)
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import ray
from ray._private.internal_api import node_stats
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from benchmarks.record import Row, add_folder, show, write
from benchmarks.store_sharing import LOG, STORE, Reader, mappings
from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.preparing.prepare import prepare
from seqsweep.data_pipeline.store import SequenceLog, open_log
from tests.cluster.nodes import Network, why_not
from tests.cluster.ray_nodes import start_head, start_worker, told, wait_to_join


class NodeReader(Reader):
    def store(self) -> tuple[str, int]:
        """This process's node, and PSS of the object store's memory in the process that holds the store."""
        held = sum(
            size
            for name, field, size in mappings(os.getppid())
            if field == "Pss" and any(word in name for word in STORE)
        )
        return ray.get_runtime_context().get_node_id(), held


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=LOG, help="a log that benchmarks/prepare_log.py keeps")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--processes", type=int, nargs="*", default=[2, 8], help="on all nodes together")
    parser.add_argument("--on-cluster", type=Path, help="a prepared log: measure here, where a cluster runs")
    add_folder(parser)
    arguments = parser.parse_args()
    if arguments.on_cluster is not None:
        print(json.dumps(measure(open_log(arguments.on_cluster), arguments.processes)))
        return
    missing = why_not()
    if missing is not None:
        raise SystemExit(missing)
    if not arguments.data.exists():
        raise SystemExit(f"{arguments.data} is not there: run benchmarks.prepare_log first, or give --data")
    prepared = prepare(DataConfig(path=str(arguments.data)), arguments.data.parent / "cache", print)
    rows = measure_on_nodes(prepared, arguments.nodes, arguments.processes)
    for row in rows:
        show(row)
    interactions = open_log(prepared).manifest.num_interactions
    write("store_sharing_nodes", rows, arguments, interactions=interactions)


def measure_on_nodes(prepared: Path, num_nodes: int, processes: list[int]) -> list[Row]:
    """The rows of `measure`, run on the first of so many nodes. `prepared` is in a folder of its own."""
    cpus = -(-max(processes) // num_nodes)
    with Network(prepared.parent) as network:
        nodes = [network.add(f"node{number}") for number in range(num_nodes)]
        start_head(nodes[0], cpus)
        for node in nodes[1:]:
            start_worker(node, nodes[0], cpus)
        wait_to_join(nodes[0], *nodes)
        command = ("python", "-m", "benchmarks.store_sharing_nodes", "--on-cluster", str(prepared))
        output = nodes[0].run(*command, "--processes", *map(str, processes), timeout=600)
    rows: list[Row] = told(output)
    return rows


def measure(log: SequenceLog, processes: list[int]) -> list[Row]:
    ray.init(address="auto", log_to_driver=False)
    shards = [ray.put(shard) for shard in log.shards]
    rows: list[Row] = []
    for number in processes:
        row = measure_processes(log, shards, number)
        if rows:
            before = rows[-1]
            more = row["store_pss_mb_sum"] - before["store_pss_mb_sum"]
            each = more / (number - before["processes"])
            row["store_pss_grown_share"] = round(each / row["log_mb"], 3)
        rows.append(row)
    ray.shutdown()
    return rows


def measure_processes(log: SequenceLog, shards: list[Any], number: int) -> Row:
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    log_bytes = sum(shard.size for shard in log.manifest.shards)
    readers = [start_reader(nodes[index % len(nodes)]) for index in range(number)]
    before = ray.get([reader.memory.remote() for reader in readers])
    sums = set(ray.get([reader.open.remote(log.manifest, shards) for reader in readers]))
    assert len(sums) == 1, f"all processes must read the same log, got sums {sums}"
    after = ray.get([reader.memory.remote() for reader in readers])
    stores = dict(ray.get([reader.store.remote() for reader in readers]))
    held = [
        node_stats(node["NodeManagerAddress"], node["NodeManagerPort"]).store_stats  # type: ignore[no-untyped-call]
        for node in nodes
    ]
    for reader in readers:
        ray.kill(reader)
    driver = Reader().memory()  # it has put the log there, and maps it
    pss = sum(process["store_pss"] for process in (driver, *after)) + sum(stores.values())
    grown = sum(process["private"] for process in after) - sum(process["private"] for process in before)
    return {
        "processes": number,
        "nodes": len(stores),
        "log_mb": round(log_bytes / 1e6, 1),
        "objects": len(shards),
        "objects_a_node": [stats.num_local_objects for stats in held],
        "store_mb_a_node": [round(stats.object_store_bytes_used / 1e6, 1) for stats in held],
        "store_pss_mb_sum": round(pss / 1e6, 1),
        "copies_a_node": round(pss / log_bytes / len(stores), 2),
        "private_grown_mb_each": round(grown / number / 1e6),
    }


def start_reader(node: dict[str, Any]) -> Any:
    place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.remote(NodeReader).options(num_cpus=1, scheduling_strategy=place).remote()


if __name__ == "__main__":
    main()
