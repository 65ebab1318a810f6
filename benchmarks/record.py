"""What all benchmarks share: settings, repeats, the machine's facts, and a dated JSON record.

A record is `records/NAME-YYYY-MM-DD.json` (NAME-cuda-.. on a GPU): benchmark, date, commit, machine, settings
and rows. A row is one line of a table; a value that was measured several times is a dict of median, low, high
and values. `python -m benchmarks.readme` makes tables of the newest ones.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import torch

from seqsweep.sweep.engine.process import flush_denormals, keep_freed_memory

HERE = Path(__file__).parent
RECORDS = HERE / "records"
Row = dict[str, Any]
T = TypeVar("T")


def add_settings(parser: argparse.ArgumentParser, *, repeats: int | None = None) -> None:
    """--threads, --device and --records; --repeats where a default is given."""
    if repeats is not None:
        parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu or cuda")
    add_folder(parser)


def add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder that the record is written to")


def set_up(arguments: argparse.Namespace) -> torch.device:
    """Threads and memory as training has them; the device that the benchmark runs on."""
    return prepare_process(choose_device(arguments.device), arguments.threads)


def choose_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def prepare_process(device: torch.device, threads: int) -> torch.device:
    torch.set_num_threads(threads)
    flush_denormals()
    keep_freed_memory()
    return device


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was asked for: before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(values: Iterable[float], digits: int = 3) -> dict[str, Any]:
    """Median and spread of repeats."""
    numbers = [round(value, digits) for value in values]
    return {
        "median": round(statistics.median(numbers), digits),
        "low": min(numbers),
        "high": max(numbers),
        "values": numbers,
    }


def in_child(function: Callable[..., T], *arguments: Any) -> T:
    """The result of a function in a fresh process, so that its peak of memory is its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments).result()


def peak_bytes(device: torch.device) -> int:
    """Highest memory so far: allocated on a GPU, resident on a CPU (of this program, not what started it)."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status_bytes("VmHWM")


def held_bytes(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _status_bytes("VmRSS")


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: peaks of memory are measured on Linux alone")


def machine(threads: int | None, device: torch.device) -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "device": device.type,
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    """Its name, and the family and model that tell cores apart where the name is cut short."""
    facts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    return f"{facts['model name']} (family {facts.get('cpu family')}, model {facts.get('model')})"


def _commit() -> str | None:
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()


def write(
    name: str,
    rows: list[Row],
    arguments: argparse.Namespace,
    *,
    device: torch.device | None = None,
    **more: Any,
) -> Path:
    """Write the record of a run; one of the same day on the same kind of device is replaced."""
    now = datetime.now(UTC)
    device = torch.device("cpu") if device is None else device
    settings = {key: _plain(value) for key, value in vars(arguments).items() if key != "records"}
    record = {
        "benchmark": name,
        "date": now.isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": machine(getattr(arguments, "threads", None), device),
        "settings": settings,
        "rows": rows,
        **more,
    }
    folder: Path = arguments.records
    folder.mkdir(parents=True, exist_ok=True)
    kind = "" if device.type == "cpu" else f"-{device.type}"
    path = folder / f"{name}{kind}-{now.date().isoformat()}.json"
    staging = path.with_suffix(".staging")
    staging.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(staging, path)
    print(f"record: {path}", flush=True)
    return path


def _plain(value: Any) -> Any:
    """Paths by their last part: a record says what was run, not where things lie."""
    if isinstance(value, Path):
        return value.name
    if isinstance(value, str) and os.sep in value:
        return Path(value).name
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def newest(name: str, folder: Path = RECORDS) -> list[dict[str, Any]]:
    """The latest record of a benchmark on each kind of device; [] where there is none."""
    latest: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob(f"{name}-*.json")):
        record = json.loads(path.read_text())
        if record["benchmark"] == name:
            kind = record["machine"]["device"]
            if kind not in latest or latest[kind]["date"] < record["date"]:
                latest[kind] = record
    return [latest[kind] for kind in sorted(latest)]


def cell(value: Any) -> str:
    """A value of a row as a table shows it: the median, and lowest to highest where it was repeated."""
    if isinstance(value, dict) and "median" in value:
        if len(value["values"]) == 1:
            return cell(value["median"])
        return f"{cell(value['median'])} ({cell(value['low'])} – {cell(value['high'])})"
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if isinstance(value, float) and abs(value) >= 1000 else str(value)


def show(row: Row) -> None:
    """A row as soon as it is there."""
    print(" | ".join(f"{key.replace('_', ' ')} {cell(value)}" for key, value in row.items()), flush=True)
