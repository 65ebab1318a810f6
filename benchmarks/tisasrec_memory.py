"""Seconds and peak memory of one training step of TiSASRec beside SASRec, at the size of ML-1M.

Forward and backward pass with one negative a position: 128 sequences of 200 items, width 50, 2 blocks, time
span 256. Memory is the peak above what the model and its batch take, each case in a process of its own. For
the time the models take turns, so that a busy machine slows both; the ratio is that of the medians.
python benchmarks/tisasrec_memory.py [--steps 7] [--threads 2] [--dropout 0.2]
"""

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime

import torch
import torch.nn.functional as F

from data_pipeline.history import History, Times
from models import SequenceModel
from models.sasrec import SASRec, SASRecConfig
from models.tisasrec import TiSASRec, TiSASRecConfig

NUM_ITEMS, BATCH, LENGTH, WIDTH = 3416, 128, 200, 50
MODELS = ("sasrec", "tisasrec")


def build(name: str, num_heads: int, dropout: float, device: torch.device) -> SequenceModel:
    size = {"hidden_dim": WIDTH, "num_blocks": 2, "num_heads": num_heads, "max_len": LENGTH}
    model: SequenceModel
    if name == "sasrec":
        model = SASRec(SASRecConfig(**size, dropout=dropout), NUM_ITEMS)
    else:
        model = TiSASRec(TiSASRecConfig(**size, dropout=dropout, time_span=256), NUM_ITEMS)
    return model.to(device).train()


def random_history(device: torch.device, batch: int = BATCH) -> History:
    generator = torch.Generator().manual_seed(0)
    item_id_BL = torch.randint(1, NUM_ITEMS + 1, (batch, LENGTH), generator=generator)
    gap_BL = torch.randint(0, 600, (batch, LENGTH), generator=generator)  # up to ten units of a minute
    time_BL = (1_600_000_000 + gap_BL.cumsum(1)).to(device)
    times = Times(time_BL, time_BL, time_BL[:, 0], torch.full((batch,), 60, device=device))
    return History(item_id_BL.to(device), torch.full((batch,), LENGTH, device=device), times)


def step(model: SequenceModel, history: History) -> float:
    """Seconds of a forward and a backward pass; under autocast on a GPU, as training is."""
    device = history.length_B.device
    model.zero_grad()
    _wait(device)
    started = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        state_BLD = model.encode(history).float()
    item_VD = model.item_embedding.weight
    positive_BL = (state_BLD * F.embedding(history.item_id_BL, item_VD)).sum(-1)
    negative_BL = (state_BLD * F.embedding(history.item_id_BL.flip(0), item_VD)).sum(-1)
    (F.softplus(-positive_BL) + F.softplus(negative_BL)).mean().backward()  # type: ignore[no-untyped-call]
    _wait(device)
    return time.perf_counter() - started


def peak_bytes(name: str, num_heads: int, dropout: float, threads: int) -> int:
    """Of two steps, above what there was after a step with one sequence (torch loads some parts late)."""
    torch.set_num_threads(threads)
    device = _device()
    model, history = build(name, num_heads, dropout, device), random_history(device)
    step(model, random_history(device, batch=1))
    before = _highest(device)
    step(model, history)
    step(model, history)
    return _highest(device) - before


def median_seconds(num_heads: int, dropout: float, steps: int) -> dict[str, float]:
    device = _device()
    history = random_history(device)
    models = {name: build(name, num_heads, dropout, device) for name in MODELS}
    seconds: dict[str, list[float]] = {name: [] for name in MODELS}
    for number in range(steps + 1):
        for name, model in models.items():
            taken = step(model, history)
            if number > 0:  # the first one warms up
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _highest(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.2)
    arguments = parser.parse_args()
    # Memory first: a process also answers for the highest memory of the one that it was started from.
    peak: dict[tuple[str, int], float] = {}
    for num_heads in (1, 2):
        for name in MODELS:
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                task = pool.submit(peak_bytes, name, num_heads, arguments.dropout, arguments.threads)
                peak[name, num_heads] = task.result() / 1e6
    torch.set_num_threads(arguments.threads)
    rows = []
    print("heads  model     step ms  ratio  peak MB  above SASRec's")
    for num_heads in (1, 2):
        seconds = median_seconds(num_heads, arguments.dropout, arguments.steps)
        for name in MODELS:
            row = {
                "heads": num_heads,
                "model": name,
                "step_ms": round(1e3 * seconds[name], 1),
                "ratio": round(seconds[name] / seconds["sasrec"], 2),
                "peak_mb": round(peak[name, num_heads]),
                "above_mb": round(peak[name, num_heads] - peak["sasrec", num_heads]),
            }
            rows.append(row)
            print(
                f"{num_heads:5}  {name:8} {row['step_ms']:>8} {row['ratio']:>6}  {row['peak_mb']:>7}"
                f"  {row['above_mb']:>14}",
                flush=True,
            )
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": str(_device()),
        "processor": platform.processor() or platform.machine(),
        "threads": arguments.threads,
        "torch": torch.__version__,
        "dropout": arguments.dropout,
        "steps": arguments.steps,
        "rows": rows,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
