"""What hyper-connections add to one training step of SASRec (2 blocks), as a ratio to the plain residual.

Forward and backward pass at the size of ML-1M: 128 sequences of 200 items, 3416 items in the catalogue, with
full cross-entropy (ce), or a sum of one channel of the states for the trunk alone (none). The two models take
turns, so that a busy machine slows both; the ratio is that of the medians.
python benchmarks/mhc_overhead.py [--steps 7] [--threads 2]
"""

import argparse
import json
import platform
import statistics
import time
from datetime import UTC, datetime

import torch

from data_pipeline.history import History
from models.losses import ce
from models.sasrec import SASRec, SASRecConfig
from sweep.training import MAX_LOGITS_CPU, MAX_LOGITS_GPU

NUM_ITEMS, BATCH, LENGTH = 3416, 128, 200
WIDTHS = (50, 128)
LOSSES = ("none", "ce")


def step(model: SASRec, history: History, loss: str) -> float:
    """Seconds of a forward and a backward pass; under autocast on a GPU, as training is."""
    device = history.length_B.device
    on_gpu = device.type == "cuda"
    model.zero_grad()
    if on_gpu:
        torch.cuda.synchronize()
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
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(width: int, loss: str, steps: int, device: torch.device) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    item_id_BL = torch.randint(1, NUM_ITEMS + 1, (BATCH, LENGTH), generator=generator)
    history = History(item_id_BL.to(device), torch.full((BATCH,), LENGTH, device=device))
    models, seconds = {}, {}
    for residual in ("plain", "mhc"):
        config = SASRecConfig(hidden_dim=width, max_len=LENGTH, dropout=0.2, residual=residual)
        models[residual] = SASRec(config, NUM_ITEMS).to(device).train()
        seconds[residual] = [step(models[residual], history, loss)]  # the first one warms up
    for _ in range(steps):
        for residual, model in models.items():
            seconds[residual].append(step(model, history, loss))
    median = {residual: statistics.median(times[1:]) for residual, times in seconds.items()}
    return {
        "hidden_dim": width,
        "loss": loss,
        "plain_ms": round(1e3 * median["plain"], 1),
        "mhc_ms": round(1e3 * median["mhc"], 1),
        "ratio": round(median["mhc"] / median["plain"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)  # as in training
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    print("width  loss   plain ms    mhc ms  ratio")
    for width in WIDTHS:
        for loss in LOSSES:
            row = measure(width, loss, arguments.steps, device)
            rows.append(row)
            print(f"{width:5}  {loss:4} {row['plain_ms']:>10} {row['mhc_ms']:>9}  {row['ratio']}", flush=True)
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": str(device),
        "processor": platform.processor() or platform.machine(),
        "threads": arguments.threads,
        "torch": torch.__version__,
        "steps": arguments.steps,
        "rows": rows,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
