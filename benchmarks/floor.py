"""The least time that work can take on a machine: operations over the rate of its unit, bytes over bandwidth.

Both rates are measured here: the best matrix product (float32 on a CPU, bfloat16 on a GPU, as training is)
and the best copy of memory beyond all caches. The counts are those of the architecture, without padding,
norms, dropout or the look-up of embeddings: work that any implementation must do. What a program takes beyond
the larger of the two is what it could still save. Attention is counted whole, as written in the papers; a
causal kernel could do with half of that part.

Shapes: D width, L length, V items, U users.
"""

import time
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.record import wait
from seqsweep.data_pipeline.store import SequenceLog

Ints = NDArray[np.int64]

FLOAT_BYTES = 4
# Adam reads weight, gradient and two moments of a number that a step touches, and writes weight and moments;
# the gradient was written before.
ADAM_BYTES = 8 * FLOAT_BYTES
BACKWARD = 3  # forward and backward pass cost so many forward passes
BATCHES_LOOKED_AT = 20


@dataclass(frozen=True)
class Rates:
    flops: float  # a second
    bytes: float  # a second, read and written


@dataclass(frozen=True)
class Floor:
    operations_s: float
    memory_s: float

    @property
    def seconds(self) -> float:
        return max(self.operations_s, self.memory_s)

    def share(self, seconds: float) -> str:
        """Of a measured time that the floor is."""
        return f"{100 * self.seconds / seconds:.3g} %"


@cache
def rates(device: torch.device) -> Rates:
    """Best of several, with the threads that are set: about a second on a CPU."""
    on_gpu = device.type == "cuda"
    size, dtype = (8192, torch.bfloat16) if on_gpu else (1024, torch.float32)
    x = torch.randn(size, size, dtype=dtype, device=device)
    product = torch.empty_like(x)
    product_s = _best(lambda: torch.mm(x, x, out=product), device)
    source = torch.ones(2**28 if on_gpu else 2**26, device=device)  # 1 GiB, 256 MiB
    target = torch.empty_like(source)
    copy_s = _best(lambda: target.copy_(source), device)
    return Rates(2 * size**3 / product_s, 2 * FLOAT_BYTES * source.numel() / copy_s)


def _best(call, device: torch.device, repeats: int = 12) -> float:  # type: ignore[no-untyped-def]
    seconds = []
    for _ in range(repeats):
        wait(device)
        started = time.perf_counter()
        call()
        wait(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def block_flops(length: Ints | int, width: int, *, attention: int = 4, residual: str = "plain") -> Ints:
    """Of the forward pass, a token and block: 12 D² + 4 L D for SASRec; TiSASRec's attention takes 8 L D.

    mHC with four streams adds 496 D + 2240.
    """
    streams = 496 * width + 2240 if residual == "mhc" else 0
    flops: Ints = 12 * width**2 + attention * np.asarray(length, np.int64) * width + streams
    return flops


def window_lengths(begin_U: Ints, end_U: Ints, max_len: int) -> Ints:
    length_U: Ints = np.minimum(end_U - begin_U, max_len)
    return length_U


def training_lengths(log: SequenceLog, train_end_U: Ints, max_len: int) -> Ints:
    """Inputs of every user that has a pair: each of them has a target."""
    num_pairs_U: Ints = train_end_U - log.offset_U[:-1] - 1
    length_U: Ints = np.minimum(num_pairs_U[num_pairs_U > 0], max_len)
    return length_U


def epoch_floor(
    log: SequenceLog,
    train_end_U: Ints,
    *,
    max_len: int,
    width: int,
    num_blocks: int,
    batch_size: int,
    num_parameters: int,
    num_negatives: int | None,
    shares_negatives: bool = False,
    device: torch.device,
) -> Floor:
    """Of a training epoch of SASRec with Adam; `num_negatives` a position, None for full cross-entropy.

    With `shares_negatives` all positions of a batch are scored against the same ones.

    A score costs 6 D: a product in the forward pass and two in the backward pass. Bytes are those of Adam on
    the rows of the item table that a step touches, and on all other weights.
    """
    length_U = training_lengths(log, train_end_U, max_len)
    scores = log.num_items if num_negatives is None else 1 + num_negatives
    trunk = BACKWARD * num_blocks * int((length_U * block_flops(length_U, width)).sum())
    flops = trunk + 6 * width * scores * int(length_U.sum())
    num_steps = -(-len(length_U) // batch_size)
    rows = log.num_items
    if num_negatives is not None:
        drawn = num_negatives * (1 if shares_negatives else float(length_U.mean()) * batch_size)
        rows = _touched_rows(log, train_end_U, max_len, batch_size, drawn)
    numbers = num_parameters - (log.num_items - rows) * width
    rate = rates(device)
    return Floor(flops / rate.flops, num_steps * numbers * ADAM_BYTES / rate.bytes)


def _touched_rows(
    log: SequenceLog, train_end_U: Ints, max_len: int, batch_size: int, num_drawn: float
) -> int:
    """Distinct items of a batch: of its sequences, and of so many uniform draws."""
    generator = np.random.default_rng(0)
    item_id = np.concatenate(log.item_chunks())
    user_U = np.flatnonzero(train_end_U - log.offset_U[:-1] >= 2)
    counts = []
    for _ in range(BATCHES_LOOKED_AT):
        chosen_B = generator.choice(user_U, min(batch_size, len(user_U)), replace=False)
        begin_B = np.maximum(log.offset_U[:-1][chosen_B], train_end_U[chosen_B] - max_len - 1)
        ranges = [item_id[b:e] for b, e in zip(begin_B, train_end_U[chosen_B], strict=True)]
        counts.append(len(np.unique(np.concatenate(ranges))))
    own = sum(counts) / len(counts)
    never_drawn = float((1 - 1 / log.num_items) ** num_drawn)
    return round(own + (log.num_items - own) * (1 - never_drawn))


def ranking_floor(
    length_U: Ints, *, width: int, num_blocks: int, num_items: int, device: torch.device
) -> Floor:
    """Of ranking among all items: the histories' forward pass, 2 D a score; the item table is read once."""
    trunk = num_blocks * int((length_U * block_flops(length_U, width)).sum())
    flops = trunk + 2 * width * num_items * len(length_U)
    rate = rates(device)
    return Floor(flops / rate.flops, num_items * width * FLOAT_BYTES / rate.bytes)
