"""Our training epoch and full ranking beside RecTools' and pmixer's, taking turns in one run.

RecTools 0.19 is itself, in an environment of its own (`make bench-peers`); "as pmixer does it" is
benchmarks/peers/as_pmixer.py, our own short form of pmixer/SASRec.pytorch, of whose epoch some steps are
measured and multiplied. All train SASRec, D = 50, 2 blocks, 1 head, batches of 128, bce with one negative,
dropout .2. Rankings differ: RecTools' is the top 10 of a user, pmixer's 101 candidates, ours the rank of each
held-out item among the whole catalogue. Machines are noisy: of times_as_fast each value is one of
neighbours in time.

python -m benchmarks.bench_peers [--peer-python .venv-peers/bin/python] [--repeats 3] [--threads 2]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, log_path
from benchmarks.record import HERE, Row, add_settings, choose_device, measured, show, write

LOGS = {"games": Case("games", 50), "ml-1m": Case("ml-1m", 200)}
WORKS = {"epoch_s": "training epoch, s", "rank_ms_a_user": "ranking, ms a user"}
Times = dict[str, float]  # by the keys of WORKS


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def ours(name: str, settings: list[str]) -> Times:
    """Medians of three: an epoch of ours is short, and a neighbour's work weighs more in it."""
    with tempfile.TemporaryDirectory() as folder:
        common = ["--repeats", "3", "--records", folder, *settings]
        for script, case in (("train_epoch", f"{name}-bce"), ("rank_users", name)):
            run([sys.executable, "-m", f"benchmarks.{script}", "--cases", case, *common])
        rows = [json.loads(path.read_text())["rows"][0] for path in sorted(Path(folder).glob("*.json"))]
    ranking, training = rows
    return {"epoch_s": training["epoch_s"]["median"], "rank_ms_a_user": ranking["ms_a_user"]}


def theirs(command: list[str], case: Case, settings: list[str]) -> Times:
    output = run([*command, str(log_path(case.log)), "--max-len", str(case.max_len), *settings])
    times: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return {work: times[work] for work in WORKS}


def compare(name: str, peer: str, our: list[Times], their: list[Times]) -> list[Row]:
    rows = []
    for work, title in WORKS.items():
        pairs = [(ours[work], theirs[work]) for ours, theirs in zip(our, their, strict=True)]
        rows.append(
            {
                "log": name,
                "work": title,
                "ours": measured(our for our, _ in pairs),
                "peer": peer,
                "theirs": measured(their for _, their in pairs),
                "times_as_fast": measured((their / our for our, their in pairs), digits=1),
            }
        )
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer-python", help="of the environment that has RecTools; without it pmixer's alone"
    )
    parser.add_argument("--logs", nargs="*", choices=LOGS, default=list(LOGS))
    parser.add_argument("--steps", type=int, default=100, help="at most, of pmixer's epoch")
    parser.add_argument("--users", type=int, default=500, help="at most, of pmixer's evaluation")
    add_settings(parser, repeats=3)
    arguments = parser.parse_args(argv)
    for name in arguments.logs:
        if not LOGS[name].is_there:
            raise SystemExit(f"{log_path(name)} is not there: name a folder of logs in SEQSWEEP_DATA")
    device = choose_device(arguments.device)
    settings = ["--threads", str(arguments.threads), "--device", device.type]
    peers_folder = HERE / "peers"
    part = ["--steps", str(arguments.steps), "--users", str(arguments.users)]
    peers = {"as pmixer does it": ([sys.executable, str(peers_folder / "as_pmixer.py")], part)}
    if arguments.peer_python:
        peers["RecTools 0.19"] = ([arguments.peer_python, str(peers_folder / "rectools_epoch.py")], [])
    rows = []
    for name in arguments.logs:
        our: list[Times] = []
        their: dict[str, list[Times]] = {peer: [] for peer in peers}
        for _ in range(arguments.repeats):
            our.append(ours(name, settings))
            for peer, (command, more) in peers.items():
                their[peer].append(theirs(command, LOGS[name], [*settings, *more]))
        for peer, times in their.items():
            for row in compare(name, peer, our, times):
                rows.append(row)
                show(row)
    write("bench_peers", rows, arguments, device=device)


if __name__ == "__main__":
    main()
