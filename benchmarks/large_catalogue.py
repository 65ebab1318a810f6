"""A catalogue of a million items: a short training with sampled losses, a full ranking, and their memory.

The generated log has as many users as --steps batches hold, and enough interactions for every item. Peak
memory is that of a process of its own, above what it held with its log open, beside a bound that is counted:

    weights, two moments of Adam, gradient, the best epoch's weights: five tables of num_parameters numbers;
    on a GPU two more gradients of the item table, while those of its look-ups (history, target, negatives)
    add up; on a CPU theirs are sparse;
    what a step keeps for its backward pass: NUMBERS_A_TOKEN * D a token and block, and of a sampled loss
    NUMBERS_A_SCORE a score, at most MAX_NEGATIVE_ELEMENTS in all;
    scores of the users that are ranked at a time, SCORES_AT_A_TIME or ROWS_STEP users: and the comparison;
    on a CPU what the process keeps of freed memory beyond that, 2 * KEPT_BLOCK bytes.

Never tokens x items: that would be the last line.

python -m benchmarks.large_catalogue [--items 1000000] [--steps 20] [--threads 2]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.floor import FLOAT_BYTES, epoch_floor, ranking_floor
from benchmarks.generated import prepared_log
from benchmarks.record import (
    Row,
    add_settings,
    choose_device,
    held_bytes,
    in_child,
    measured,
    peak_bytes,
    prepare_process,
    show,
    write,
)
from seqsweep.data_pipeline.split import Targets
from seqsweep.data_pipeline.store import open_log
from seqsweep.models.losses import MAX_NEGATIVE_ELEMENTS, NUMBERS_A_SCORE
from seqsweep.models.sasrec import SASRec, SASRecConfig
from seqsweep.sweep.engine.hparams import TrainConfig
from seqsweep.sweep.engine.opened_log import open_data
from seqsweep.sweep.engine.process import KEPT_BLOCK
from seqsweep.sweep.engine.ranking import ROWS_STEP, SCORES_AT_A_TIME, Ranker
from seqsweep.sweep.engine.state import TrainState, build_model, new_state
from seqsweep.sweep.engine.training import train
from seqsweep.sweep.settings.budgets import TrainBudget
from seqsweep.sweep.settings.protocol import ProtocolConfig

WIDTH, NUM_BLOCKS, MAX_LEN, BATCH_SIZE = 64, 2, 50, 128
# Of a block: input, two norms, 3 of the projection, attention's and its projection's output, two layers of
# the feed-forward before and after dropout and ReLU, two sums; and as many gradients at the most.
NUMBERS_A_TOKEN = 32
LOSSES = {
    "bce": TrainConfig(loss="bce", num_negatives=1, batch_size=BATCH_SIZE),
    "sampled_softmax": TrainConfig(
        loss="sampled_softmax", num_negatives=512, negatives="batch", batch_size=BATCH_SIZE
    ),
}


def bound_bytes(
    state: TrainState, config: TrainConfig, num_items: int, device: torch.device
) -> dict[str, int]:
    """Each part of the bound."""
    num_tokens = BATCH_SIZE * MAX_LEN
    own = WIDTH if config.negatives == "position" else 0
    scores = num_tokens * config.num_negatives * (own + NUMBERS_A_SCORE)
    numbers = {
        "weights": state.num_parameters,
        "moments": 2 * state.num_parameters,
        "gradient": state.num_parameters,
        "best_weights": state.num_parameters,
        "look_ups": 2 * num_items * WIDTH if device.type == "cuda" else 0,
        "step": NUM_BLOCKS * NUMBERS_A_TOKEN * WIDTH * num_tokens + min(scores, MAX_NEGATIVE_ELEMENTS),
        "ranking": 2 * max(SCORES_AT_A_TIME, ROWS_STEP * num_items),
    }
    parts = {part: FLOAT_BYTES * number for part, number in numbers.items()}
    return {**parts, "kept": 2 * KEPT_BLOCK if device.type == "cpu" else 0}


def load_libraries(device: torch.device) -> None:
    """What they load and set up at a first step is no part of a training's memory."""
    layer = torch.nn.Linear(8, 8).to(device)
    layer(torch.ones(8, 8, device=device)).sum().backward()
    torch.optim.AdamW(layer.parameters(), fused=True).step()


def measure(
    loss: str, steps: int, rank_users: int, prepared: Path, device: torch.device, threads: int
) -> Row:
    prepare_process(device, threads)
    config = LOSSES[loss]
    log = open_log(prepared)
    num_items = log.num_items
    data = open_data(log, ProtocolConfig(), device)
    valid = data.split.valid
    ranked = Targets(valid.user_id[:rank_users], valid.position[:rank_users])
    ranker = Ranker(log, data.sequences, ranked, ProtocolConfig(), "valid")
    load_libraries(device)
    before = held_bytes(device)
    model_config = SASRecConfig(hidden_dim=WIDTH, num_blocks=NUM_BLOCKS, max_len=MAX_LEN, dropout=0.2)
    state = new_state(build_model(SASRec, model_config, num_items, seed=0, device=device), config)
    # The first epoch warms up, and leaves the best weights, which are held beside all else from then on.
    budget = TrainBudget(patience=2)
    report = list(train(state, config, budget, data.sequences, ranker, max_epochs=2, seed=0))[-1]
    peak = peak_bytes(device) - before
    bound = bound_bytes(state, config, num_items, device)
    training = epoch_floor(
        log,
        data.split.train_end_U,
        max_len=MAX_LEN,
        width=WIDTH,
        num_blocks=NUM_BLOCKS,
        batch_size=BATCH_SIZE,
        num_parameters=state.num_parameters,
        num_negatives=config.num_negatives,
        shares_negatives=config.negatives == "batch",
        device=device,
    )
    length_U = np.full(len(ranker.user_id_U), MAX_LEN)
    ranking = ranking_floor(length_U, width=WIDTH, num_blocks=NUM_BLOCKS, num_items=num_items, device=device)
    step_s, user_s = report.seconds / steps, report.eval_seconds / len(length_U)
    return {
        "loss": loss,
        "items": num_items,
        "steps": steps,
        "step_ms": round(1e3 * step_s, 1),
        "step_share_of_floor": training.share(report.seconds),
        "ranked_users": len(length_U),
        "ms_a_user": round(1e3 * user_s, 2),
        "ranking_share_of_floor": ranking.share(report.eval_seconds),
        "peak_mb": round(peak / 1e6),
        "bound_mb": round(sum(bound.values()) / 1e6),
        "bound_parts_mb": {part: round(size / 1e6) for part, size in bound.items()},
        "tokens_x_items_mb": round(FLOAT_BYTES * BATCH_SIZE * MAX_LEN * num_items / 1e6),
    }


def median_row(runs: list[Row]) -> Row:
    """One row of several runs."""
    row = dict(runs[0])
    for key in ("step_ms", "ms_a_user", "peak_mb"):
        row[key] = measured((run[key] for run in runs), digits=2)
    return row


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rank-users", type=int, default=1000)
    parser.add_argument("--losses", nargs="*", choices=LOSSES, default=list(LOSSES))
    add_settings(parser, repeats=1)
    arguments = parser.parse_args(argv)
    device = choose_device(arguments.device)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        num_users = arguments.steps * BATCH_SIZE
        length = max(MAX_LEN + 3, -(-2 * arguments.items // num_users))
        prepared = in_child(prepared_log, Path(folder), num_users, arguments.items, length)
        for loss in arguments.losses:
            runs = [
                in_child(
                    measure, loss, arguments.steps, arguments.rank_users, prepared, device, arguments.threads
                )
                for _ in range(arguments.repeats)
            ]
            rows.append(median_row(runs))
            show(rows[-1])
    write("large_catalogue", rows, arguments, device=device)


if __name__ == "__main__":
    main()
