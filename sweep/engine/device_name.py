"""The name of what a trial trained on, as it is recorded, and what can be read from it."""

from __future__ import annotations

import re

import torch

CPU = re.compile(r"cpu x (\d+)")
DEVICE = re.compile(r"(?P<name>.*?)(, (?P<workers>\d+) workers)?")


def device_name(device: torch.device, num_workers: int = 1) -> str:
    """A GPU by its model, a CPU by the threads of each worker: `cpu x 2, 4 workers`."""
    name = gpu_name(device) or f"cpu x {torch.get_num_threads()}"
    return f"{name}, {num_workers} workers" if num_workers > 1 else name


def gpu_name(device: torch.device) -> str | None:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def device_and_workers(name: str) -> tuple[str, int]:
    match = DEVICE.fullmatch(name)
    assert match is not None
    return match["name"], int(match["workers"] or 1)


def threads_of(name: str) -> int | None:
    """Threads of each worker; None for a GPU."""
    match = CPU.fullmatch(device_and_workers(name)[0])
    return None if match is None else int(match[1])
