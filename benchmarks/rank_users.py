"""Seconds of ranking every user's held-out item among the whole catalogue, beside the floor.

SASRec as drawn at the start, D = 50, 2 blocks, 1 head: what weights say does not change the work.

python -m benchmarks.rank_users [--cases games ml-1m] [--repeats 3] [--threads 2]
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.cases import NUM_BLOCKS, RANKED, Case, chosen, model_of, open_case
from benchmarks.floor import ranking_floor, window_lengths
from benchmarks.record import Row, add_settings, measured, set_up, show, wait, write
from seqsweep.sweep.engine.opened_log import TrialData
from seqsweep.sweep.engine.ranking import ModelScorer


def history_lengths(data: TrialData, max_len: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Of the users that are ranked."""
    valid = data.split.valid
    ranked_U = np.isin(valid.user_id, data.valid_ranker.user_id_U)
    begin_U = data.log.offset_U[valid.user_id[ranked_U]]
    return window_lengths(begin_U, valid.position[ranked_U], max_len)


def measure(name: str, case: Case, repeats: int, device: torch.device, cache: Path) -> Row:
    data = open_case(case, cache, device)
    state, _ = model_of(case, data, device)
    scorer = ModelScorer(state.model.eval(), autocast=device.type == "cuda")
    seconds = []
    for _ in range(repeats + 1):  # the first one warms up
        wait(device)
        started = time.perf_counter()
        data.valid_ranker.rank(scorer)
        wait(device)
        seconds.append(time.perf_counter() - started)
    length_U = history_lengths(data, case.max_len)
    floor = ranking_floor(
        length_U,
        width=case.hidden_dim,
        num_blocks=NUM_BLOCKS,
        num_items=data.log.num_items,
        device=device,
    )
    rank_s = measured(seconds[1:], digits=4)
    num_users = len(length_U)
    return {
        "log": name,
        "ranked_users": num_users,
        "items": data.log.num_items,
        "rank_s": rank_s,
        "ms_a_user": round(1e3 * rank_s["median"] / num_users, 4),
        "users_a_second": round(num_users / rank_s["median"]),
        "floor_operations_s": round(floor.operations_s, 4),
        "floor_memory_s": round(floor.memory_s, 4),
        "share_of_floor": floor.share(rank_s["median"]),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="*", choices=RANKED)
    add_settings(parser, repeats=3)
    arguments = parser.parse_args(argv)
    device = set_up(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for name, case in chosen(RANKED, arguments.cases).items():
            rows.append(measure(name, case, arguments.repeats, device, Path(cache)))
            show(rows[-1])
    write("rank_users", rows, arguments, device=device)


if __name__ == "__main__":
    main()
