"""Our training epoch and full ranking beside RecTools', taking turns in one run; ratios are what counts.

RecTools ranks all users for their top 10 (no metric); we rank every held-out item among the whole catalogue.
`make bench-peers` makes the environment that --peer-python is in.

python benchmarks/bench_peers.py --peer-python .venv-peers/bin/python [--repeats 3] [--threads 2]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LOGS = {"games": ("games/Video.txt", 50), "ml-1m": ("ml-1m/ml-1m.txt.gz", 200)}


def last_record(command: list[str]) -> dict[str, Any]:
    """The JSON that a script prints last."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    record: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return record


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--logs", nargs="*", choices=LOGS, default=list(LOGS))
    arguments = parser.parse_args()
    folder = Path(os.environ.get("SEQSWEEP_DATA", "../shared/data"))
    common = ["--epochs", str(arguments.epochs), "--threads", str(arguments.threads)]
    result: dict[str, Any] = {"benchmark": "peers", "threads": arguments.threads, "cpus": os.cpu_count()}
    for name in arguments.logs:
        file, max_len = LOGS[name]
        ours, theirs = [], []
        for _ in range(arguments.repeats):
            ours.append(
                last_record([sys.executable, str(HERE / "train_epoch.py"), "--logs", name, *common])[name]
            )
            peer = [arguments.peer_python, str(HERE / "peers" / "rectools_epoch.py"), str(folder / file)]
            theirs.append(last_record([*peer, "--max-len", str(max_len), *common]))
        epoch = [run["median_epoch_s"] for run in ours], [run["median_epoch_s"] for run in theirs]
        rank = [run["median_rank_s"] for run in ours], [run["rank_s"] for run in theirs]
        result[name] = {"epoch": compare(*epoch), "ranking": compare(*rank)}
        print(name, json.dumps(result[name]), flush=True)
    print(json.dumps(result))


def compare(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Seconds as they were, and the median of the ratios of neighbours in time."""
    ratio = statistics.median(their / our for our, their in zip(ours, theirs, strict=True))
    return {"seconds": ours, "rectools_seconds": theirs, "times_as_fast": round(ratio, 2)}


if __name__ == "__main__":
    main()
