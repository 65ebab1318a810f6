"""What hyper-connections add to one training step of SASRec (2 blocks), as a ratio to the plain residual.

Forward and backward pass at the size of ML-1M: 128 sequences of 200 items, 3416 items in the catalogue, with
full cross-entropy (ce), or a sum of one channel of the states for the trunk alone (none). The two models take
turns, so that a busy machine slows both; the ratio is that of the medians.

The floor of a step: the operations of blocks and scores over the rate of the best matrix product, or the
bytes of the residual (streams are read and made anew once a sub-layer in the forward pass, read, with their
gradient, and made anew once in the backward pass) over bandwidth, whichever is larger.

python -m benchmarks.mhc_overhead [--steps 7] [--threads 2]
"""

import argparse
import time

import torch

from benchmarks.floor import BACKWARD, FLOAT_BYTES, Floor, Rates, block_flops, rates
from benchmarks.record import Row, add_settings, measured, set_up, show, wait, write
from seqsweep.data_pipeline.history import History
from seqsweep.models.losses import ce
from seqsweep.models.sasrec import SASRec, SASRecConfig
from seqsweep.sweep.engine.gradients import MAX_LOGITS_CPU, MAX_LOGITS_GPU

NUM_ITEMS, NUM_BLOCKS = 3416, 2
WIDTHS = (50, 128)
LOSSES = ("none", "ce")
STREAMS = {"plain": 1, "mhc": 4}
PASSES = 5  # over the residual's streams, a sub-layer


def step(model: SASRec, history: History, loss: str) -> float:
    """Seconds of a forward and a backward pass; under autocast on a GPU, as training is."""
    device = history.length_B.device
    on_gpu = device.type == "cuda"
    model.zero_grad()
    wait(device)
    started = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
        state_TD = model.encode(history).flatten(0, 1)
        if loss == "ce":
            target_T = history.item_id_BL.flatten() - 1
            max_logits = MAX_LOGITS_GPU if on_gpu else MAX_LOGITS_CPU
            value = ce(state_TD, model.item_embedding.weight[1:], target_T, max_logits)
        else:
            value = state_TD[:, 0].sum()
    value.backward()  # type: ignore[no-untyped-call]
    wait(device)
    return time.perf_counter() - started


def step_floor(residual: str, width: int, loss: str, num_tokens: int, length: int, rate: Rates) -> Floor:
    scores = NUM_ITEMS if loss == "ce" else 0
    flops = BACKWARD * NUM_BLOCKS * int(block_flops(length, width, residual=residual)) + 6 * width * scores
    numbers = PASSES * 2 * NUM_BLOCKS * STREAMS[residual] * width
    return Floor(num_tokens * flops / rate.flops, num_tokens * numbers * FLOAT_BYTES / rate.bytes)


def measure(width: int, loss: str, arguments: argparse.Namespace, device: torch.device) -> Row:
    generator = torch.Generator().manual_seed(0)
    batch, length = arguments.batch, arguments.length
    item_id_BL = torch.randint(1, NUM_ITEMS + 1, (batch, length), generator=generator)
    history = History(item_id_BL.to(device), torch.full((batch,), length, device=device))
    models: dict[str, SASRec] = {}
    seconds: dict[str, list[float]] = {}
    for residual in STREAMS:
        config = SASRecConfig(hidden_dim=width, max_len=length, dropout=0.2, residual=residual)
        models[residual] = SASRec(config, NUM_ITEMS).to(device).train()
        seconds[residual] = [step(models[residual], history, loss)]  # the first one warms up
    for _ in range(arguments.steps):
        for residual, model in models.items():
            seconds[residual].append(step(model, history, loss))
    step_ms = {
        name: measured((1e3 * taken for taken in times[1:]), digits=1) for name, times in seconds.items()
    }
    floor = {name: step_floor(name, width, loss, batch * length, length, rates(device)) for name in STREAMS}
    return {
        "width": width,
        "loss": loss,
        "plain_ms": step_ms["plain"],
        "mhc_ms": step_ms["mhc"],
        "ratio": round(step_ms["mhc"]["median"] / step_ms["plain"]["median"], 3),
        "floor_ratio": round(floor["mhc"].seconds / floor["plain"].seconds, 3),
        "plain_share_of_floor": floor["plain"].share(step_ms["plain"]["median"] / 1e3),
        "mhc_share_of_floor": floor["mhc"].share(step_ms["mhc"]["median"] / 1e3),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--widths", type=int, nargs="*", default=WIDTHS)
    parser.add_argument("--losses", nargs="*", choices=LOSSES, default=LOSSES)
    add_settings(parser)
    arguments = parser.parse_args(argv)
    device = set_up(arguments)
    rows = []
    for width in arguments.widths:
        for loss in arguments.losses:
            rows.append(measure(width, loss, arguments, device))
            show(rows[-1])
    write("mhc_overhead", rows, arguments, device=device)


if __name__ == "__main__":
    main()
