"""Seconds of one training epoch and of one full ranking, on the logs in $SEQSWEEP_DATA or the generated one.

Setting of the published reference: SASRec D=50, 2 blocks, 1 head, batch 128, bce, 1 negative, dropout .2.
python benchmarks/train_epoch.py [--epochs 3] [--threads 2]
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import torch

from data_pipeline.config import DataConfig
from data_pipeline.prepare import prepare
from data_pipeline.store import open_log
from models.sasrec import SASRec, SASRecConfig
from sweep.evaluation import ProtocolConfig
from sweep.training import TrainBudget, TrainConfig, build_model, new_state, train
from sweep.trial import open_data

LOGS = {
    "games": ("games/Video.txt", 50),
    "ml-1m": ("ml-1m/ml-1m.txt.gz", 200),
    "ml-100k": ("ml-100k/u.data", 50),
}


def measure(path: str, max_len: int, epochs: int, device: torch.device, cache: Path) -> dict[str, object]:
    log = open_log(prepare(DataConfig(path=path), cache))
    data = open_data(log, ProtocolConfig(), device)
    model_config = SASRecConfig(hidden_dim=50, num_blocks=2, num_heads=1, dropout=0.2, max_len=max_len)
    config = TrainConfig(loss="bce", num_negatives=1, batch_size=128)
    state = new_state(build_model(SASRec, model_config, log.num_items, seed=0, device=device), config)
    reports = list(
        train(
            state,
            config,
            TrainBudget(patience=epochs),
            data.sequences,
            data.valid_ranker,
            max_epochs=epochs + 1,  # the first one warms up
            seed=0,
        )
    )[1:]
    return {
        "users": log.num_users,
        "items": log.num_items,
        "max_len": max_len,
        "epoch_s": [round(report.seconds, 3) for report in reports],
        "median_epoch_s": round(statistics.median(report.seconds for report in reports), 3),
        "median_rank_s": round(statistics.median(report.eval_seconds for report in reports), 3),
        "ranked_users": len(data.valid_ranker.user_id_U),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--logs", nargs="*", choices=LOGS, default=list(LOGS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = Path(os.environ.get("SEQSWEEP_DATA", "../shared/data"))
    chosen = {name: LOGS[name] for name in arguments.logs}
    present = {
        name: (str(folder / file), n) for name, (file, n) in chosen.items() if (folder / file).exists()
    }
    record: dict[str, object] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": str(device),
        "processor": platform.processor() or platform.machine(),
        "threads": arguments.threads,
        "torch": torch.__version__,
    }
    with tempfile.TemporaryDirectory() as cache:
        for name, (path, max_len) in (present or {"demo": ("demo", 50)}).items():
            row = measure(path, max_len, arguments.epochs, device, Path(cache))
            record[name] = row
            print(
                f"{name:8} epoch {row['median_epoch_s']} s, full ranking {row['median_rank_s']} s", flush=True
            )
    print(json.dumps(record))


if __name__ == "__main__":
    main()
