"""Rows, seconds and peak memory of preparing a generated log, by size; --address does it on Ray Data.

The log: a Zipf catalogue, users of unlike activity, one row an interaction in order of time, as an event log
is written. It is generated once into --folder and kept. Each measurement is a process of its own; its peak is
that of it and its descendants (proportional set size: shared pages count once), looked at five times a
second.

The floor is to read the log and to write what is prepared, once, at the speed of memory.

python -m benchmarks.prepare_log [--rows 1000000 10000000] [--ids integer string] [--address auto]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import torch

from benchmarks.floor import rates
from benchmarks.record import Row, add_folder, measured, show, write

BLOCK_ROWS = 2_000_000
ROWS_PER_USER, ROWS_PER_ITEM = 20, 100  # 100 million rows: 5 million users and 1 million items
START, SECONDS_PER_ROW = 1_500_000_000, 1
POLL_S = 0.2


def generate(path: Path, num_rows: int, ids: str, first_row: int = 0, total_rows: int | None = None) -> None:
    """CSV with a header, user,item,timestamp: `num_rows` of a log of `total_rows`, from `first_row` on."""
    total_rows = num_rows if total_rows is None else total_rows
    num_users, num_items = max(total_rows // ROWS_PER_USER, 10), max(total_rows // ROWS_PER_ITEM, 10)
    generator = np.random.default_rng(0)
    raw_user = generator.permutation(num_users).astype(np.int64) + 1
    raw_item = generator.permutation(num_items).astype(np.int64) + 1
    popularity = np.cumsum(1 / np.arange(1, num_items + 1) ** 0.9)
    generator = np.random.default_rng(first_row)
    staging = path.with_suffix(".staging")
    options = csv.WriteOptions(quoting_style="none")
    with csv.CSVWriter(staging, schema(ids), write_options=options) as writer:
        for first in range(first_row, first_row + num_rows, BLOCK_ROWS):
            size = min(BLOCK_ROWS, first_row + num_rows - first)
            # the square of a uniform number: some users come a hundred times as often as others
            user = (generator.random(size) ** 2 * num_users).astype(np.int64)
            item = np.searchsorted(popularity, generator.random(size) * popularity[-1])
            time_s = START + (first + np.arange(size)) * SECONDS_PER_ROW
            columns: list[pa.Array[Any]] = [
                pa.array(raw_user[user]),
                pa.array(raw_item[item]),
                pa.array(time_s),
            ]
            if ids == "string":
                columns[:2] = [as_text(columns[0], "A"), as_text(columns[1], "B0")]
            writer.write_table(pa.table(columns, schema=schema(ids)))
    staging.rename(path)


def generate_parts(folder: Path, num_rows: int, ids: str, num_parts: int) -> None:
    folder.mkdir(exist_ok=True)
    for part in range(num_parts):
        path, rows = folder / f"part-{part:05d}.csv", num_rows // num_parts
        if not path.exists():
            generate(path, rows, ids, part * rows, num_rows)


def schema(ids: str) -> pa.Schema:
    kind = pa.string() if ids == "string" else pa.int64()
    return pa.schema([("user", kind), ("item", kind), ("timestamp", pa.int64())])


def as_text(number: pa.Array[Any], prefix: str) -> pa.Array[Any]:
    """Of a fixed length, as the ids of shops are."""
    padded = pc.utf8_lpad(number.cast(pa.string()), 12, "0")
    return pc.replace_substring_regex(padded, "^", prefix)


def measure(path: Path, address: str | None) -> dict[str, float]:
    """Seconds and peak memory of `seqsweep prepare` on an empty cache."""
    cache = Path(tempfile.mkdtemp(prefix="prepared-", dir=path.parent))
    command = [sys.executable, "-m", "seqsweep", "prepare", "--data", str(path), "--cache", str(cache)]
    if address is not None:
        command += ["--address", address]
    try:
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            peak = 0
            while process.poll() is None:
                peak = max(peak, tree_memory(process.pid))
                time.sleep(POLL_S)
        seconds = time.perf_counter() - began
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        again = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        moved = log_bytes(path) + sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
        return {
            "floor_s": moved / rates(torch.device("cpu")).bytes,
            "seconds": round(seconds, 1),
            "again_seconds": round(time.perf_counter() - again, 1),
            "peak_gib": round(peak / 2**30, 2),
        }
    finally:
        shutil.rmtree(cache)


def tree_memory(root: int) -> int:
    """Bytes, shared ones by share, of a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue  # it has ended
            children.setdefault(parent, []).append(int(folder.name))
    total, left = 0, [root]
    while left:
        process = left.pop()
        left += children.get(process, [])
        try:
            total += proportional_bytes(Path("/proc") / str(process))
        except OSError:
            continue
    return total


def proportional_bytes(process: Path) -> int:
    for line in (process / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def log_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000_000, 10_000_000])
    parser.add_argument("--ids", nargs="*", choices=("integer", "string"), default=["integer", "string"])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "seqsweep-prepare-log")
    parser.add_argument("--parts", type=int, default=1, help="files that the log is cut into")
    parser.add_argument("--address", help="prepare on this Ray cluster, with Ray Data; local starts one")
    add_folder(parser)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    results: list[Row] = []
    for ids in arguments.ids:
        for num_rows in arguments.rows:
            form = f"-in-{arguments.parts}" if arguments.parts > 1 else ".csv"
            path = arguments.folder / f"{ids}-{num_rows}{form}"
            if arguments.parts > 1:
                generate_parts(path, num_rows, ids, arguments.parts)
            elif not path.exists():
                generate(path, num_rows, ids)
            runs = [measure(path, arguments.address) for _ in range(arguments.repeats)]
            times = {name: measured((run[name] for run in runs), digits=3) for name in runs[0]}
            gigabytes = round(log_bytes(path) / 1e9, 3)
            results.append({"ids": ids, "rows": num_rows, "gigabytes": gigabytes, **times})
            show(results[-1])
    write("prepare_log", results, arguments)


if __name__ == "__main__":
    main()
