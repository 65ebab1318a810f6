"""Memory of 1, 2, 4 trial processes on one node that read the same log: whether it lies there once.

Each process opens the log as a trial does and reads every interaction of it. Proportional set size (PSS)
shares a page out among the processes that map it: with one shared copy the log's part of the sum over all
processes stays at the size of the log, however many they are; with copies of their own it grows with them.
The object store itself maps the log too, so its process takes part in the sharing. `copies` is that sum over
the size of the log: the floor is one, less the store's own part.

python -m benchmarks.store_sharing [--data LOG] [--processes 1 2 4]
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import torch

from benchmarks.record import Row, add_folder, show, write
from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.preparing.prepare import prepare
from seqsweep.data_pipeline.schema import Manifest
from seqsweep.data_pipeline.store import SequenceLog, open_log
from seqsweep.sweep.engine.opened_log import open_data
from seqsweep.sweep.settings.protocol import ProtocolConfig

STORE = ("plasma", "/dev/shm", "ray_shm")  # names that the store's memory has among a process's mappings
LOG = Path(tempfile.gettempdir()) / "seqsweep-prepare-log" / "integer-10000000.csv"


class Reader:
    """A trial's process."""

    def memory(self) -> dict[str, int]:
        """Bytes of this process: PSS of all its mappings, of the object store's among them, and private."""
        sums = {"pss": 0, "store_pss": 0, "store_rss": 0, "private": 0}
        for name, field, size in mappings():
            in_store = any(word in name for word in STORE)
            if field == "Pss":
                sums["pss"] += size
                sums["store_pss"] += size * in_store
            elif field == "Rss":
                sums["store_rss"] += size * in_store
            elif field in ("Private_Clean", "Private_Dirty"):
                sums["private"] += size
        return sums

    def open(self, manifest: Manifest, shards: list[Any]) -> int:
        """Open the log and read all of it; the sum of its item ids, so that nothing can be left out."""
        log = SequenceLog(manifest, tuple(ray.get(shards)))
        self._data = open_data(log, ProtocolConfig(), torch.device("cpu"))
        return sum(int(chunk.sum(dtype="int64")) for chunk in log.item_chunks() + log.timestamp_chunks())


def mappings(process: int | str = "self") -> Iterator[tuple[str, str, int]]:
    """Name of the mapped file, field and bytes of every line of a process's memory map."""
    name = ""
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        field, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            yield name, field, int(words[0]) * 1024
        elif "-" in line.split(" ", 1)[0]:
            name = line.split(maxsplit=5)[5] if len(line.split(maxsplit=5)) == 6 else ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=LOG, help="a log that benchmarks/prepare_log.py keeps")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4])
    add_folder(parser)
    arguments = parser.parse_args()
    if not arguments.data.exists():
        raise SystemExit(f"{arguments.data} is not there: run benchmarks.prepare_log first, or give --data")
    cache = arguments.data.parent / "cache"
    log = open_log(prepare(DataConfig(path=str(arguments.data)), cache, print))
    ray.init(address="local", num_cpus=max(arguments.processes), include_dashboard=False, log_to_driver=False)
    shards = [ray.put(shard) for shard in log.shards]
    log_bytes = sum(shard.size for shard in log.manifest.shards)
    rows: list[Row] = []
    for number in arguments.processes:
        actor: Any = ray.remote(Reader)
        readers = [actor.remote() for _ in range(number)]
        before = ray.get([reader.memory.remote() for reader in readers])
        sums = set(ray.get([reader.open.remote(log.manifest, shards) for reader in readers]))
        assert len(sums) == 1, f"all processes must read the same log, got sums {sums}"
        after = ray.get([reader.memory.remote() for reader in readers])
        total = {key: sum(process[key] for process in after) for key in after[0]}
        grown = sum(process["private"] for process in after) - sum(process["private"] for process in before)
        row = {
            "processes": number,
            "log_mb": round(log_bytes / 1e6),
            "store_rss_mb_each": round(total["store_rss"] / number / 1e6),
            "store_pss_mb_sum": round(total["store_pss"] / 1e6),
            "copies": round(total["store_pss"] / log_bytes, 2),
            "private_grown_mb_each": round(grown / number / 1e6),
            "pss_mb_each": round(total["pss"] / number / 1e6),
        }
        rows.append(row)
        show(row)
        for reader in readers:
            ray.kill(reader)
    ray.shutdown()
    write("store_sharing", rows, arguments, interactions=log.manifest.num_interactions)


if __name__ == "__main__":
    main()
