"""Seconds and peak memory of one training step of TiSASRec beside SASRec, at the size of ML-1M.

Forward and backward pass with one negative a position: 128 sequences of 200 items, width 50, 2 blocks, time
span 256. Memory is the peak above what the model and its batch take, each case in a process of its own. For
the time the models take turns, so that a busy machine slows both; the ratio is that of the medians. The floor
is the operations of the blocks, over the rate of the best matrix product.

python -m benchmarks.tisasrec_memory [--steps 7] [--threads 2] [--dropout 0.2]
"""

import argparse
import time
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from benchmarks.floor import BACKWARD, Floor, block_flops, rates
from benchmarks.record import (
    add_settings,
    choose_device,
    in_child,
    measured,
    peak_bytes,
    prepare_process,
    show,
    wait,
    write,
)
from seqsweep.data_pipeline.history import History, Times
from seqsweep.models import SequenceModel
from seqsweep.models.sasrec import SASRec, SASRecConfig
from seqsweep.models.tisasrec import TiSASRec, TiSASRecConfig

NUM_ITEMS, WIDTH, NUM_BLOCKS = 3416, 50, 2
ATTENTION = {"sasrec": 4, "tisasrec": 8}  # operations of a pair of places, by width


@dataclass(frozen=True)
class Size:
    batch: int
    length: int
    dropout: float


def build(name: str, num_heads: int, size: Size, device: torch.device) -> SequenceModel:
    shape = {"hidden_dim": WIDTH, "num_blocks": NUM_BLOCKS, "num_heads": num_heads, "max_len": size.length}
    model: SequenceModel
    if name == "sasrec":
        model = SASRec(SASRecConfig(**shape, dropout=size.dropout), NUM_ITEMS)
    else:
        model = TiSASRec(TiSASRecConfig(**shape, dropout=size.dropout, time_span=256), NUM_ITEMS)
    return model.to(device).train()


def random_history(size: Size, device: torch.device) -> History:
    generator = torch.Generator().manual_seed(0)
    item_id_BL = torch.randint(1, NUM_ITEMS + 1, (size.batch, size.length), generator=generator)
    gap_BL = torch.randint(0, 600, item_id_BL.shape, generator=generator)  # up to ten units of a minute
    time_BL = (1_600_000_000 + gap_BL.cumsum(1)).to(device)
    times = Times(time_BL, time_BL, time_BL[:, 0], torch.full((size.batch,), 60, device=device))
    return History(item_id_BL.to(device), torch.full((size.batch,), size.length, device=device), times)


def step(model: SequenceModel, history: History) -> float:
    """Seconds of a forward and a backward pass; under autocast on a GPU, as training is."""
    device = history.length_B.device
    model.zero_grad()
    wait(device)
    started = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        state_BLD = model.encode(history).float()
    item_VD = model.item_embedding.weight
    positive_BL = (state_BLD * F.embedding(history.item_id_BL, item_VD)).sum(-1)
    negative_BL = (state_BLD * F.embedding(history.item_id_BL.flip(0), item_VD)).sum(-1)
    (F.softplus(-positive_BL) + F.softplus(negative_BL)).mean().backward()  # type: ignore[no-untyped-call]
    wait(device)
    return time.perf_counter() - started


def peak_of_steps(name: str, num_heads: int, size: Size, device: torch.device, threads: int) -> float:
    """MB of two steps, above what there was after a step with one sequence (torch loads some parts late)."""
    prepare_process(device, threads)
    model, history = build(name, num_heads, size, device), random_history(size, device)
    step(model, random_history(replace(size, batch=1), device))
    before = peak_bytes(device)
    step(model, history)
    step(model, history)
    return (peak_bytes(device) - before) / 1e6


def step_seconds(num_heads: int, size: Size, steps: int, device: torch.device) -> dict[str, list[float]]:
    history = random_history(size, device)
    models = {name: build(name, num_heads, size, device) for name in ATTENTION}
    seconds: dict[str, list[float]] = {name: [] for name in ATTENTION}
    for number in range(steps + 1):
        for name, model in models.items():
            taken = step(model, history)
            if number > 0:  # the first one warms up
                seconds[name].append(taken)
    return seconds


def step_floor(name: str, size: Size, device: torch.device) -> Floor:
    flops = block_flops(size.length, WIDTH, attention=ATTENTION[name])
    num_tokens = size.batch * size.length
    return Floor(BACKWARD * NUM_BLOCKS * num_tokens * int(flops) / rates(device).flops, 0.0)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--heads", type=int, nargs="*", default=[1, 2])
    add_settings(parser)
    arguments = parser.parse_args(argv)
    device = choose_device(arguments.device)
    size = Size(arguments.batch, arguments.length, arguments.dropout)
    peak_mb = {
        (name, num_heads): in_child(peak_of_steps, name, num_heads, size, device, arguments.threads)
        for num_heads in arguments.heads
        for name in ATTENTION
    }
    prepare_process(device, arguments.threads)
    rows = []
    for num_heads in arguments.heads:
        times = step_seconds(num_heads, size, arguments.steps, device)
        step_ms = {name: measured((1e3 * taken for taken in times[name]), digits=1) for name in ATTENTION}
        for name in ATTENTION:
            floor = step_floor(name, size, device)
            rows.append(
                {
                    "heads": num_heads,
                    "model": name,
                    "step_ms": step_ms[name],
                    "ratio": round(step_ms[name]["median"] / step_ms["sasrec"]["median"], 2),
                    "floor_ms": round(1e3 * floor.seconds, 2),
                    "share_of_floor": floor.share(step_ms[name]["median"] / 1e3),
                    "peak_mb": round(peak_mb[name, num_heads]),
                    "above_sasrec_mb": round(peak_mb[name, num_heads] - peak_mb["sasrec", num_heads]),
                }
            )
            show(rows[-1])
    write("tisasrec_memory", rows, arguments, device=device)


if __name__ == "__main__":
    main()
