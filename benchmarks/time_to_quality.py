"""Seconds of training until validation NDCG@10 is near the best that a textbook's training reaches at all.

Three trainings of SASRec take turns on one log, each in a process of its own with as many threads: RecTools
0.19 in its own environment (`make bench-peers` makes it; left out without --peer-python), a textbook's loop
(benchmarks/peers/textbook_quality.py), and ours with this project's defaults. All have the same sequences and
sizes (width, blocks, heads, dropout, length; the last two are Kang and McAuley's for the log), cross-entropy
over the catalogue, and batches of 128 sequences, of ours in the mean. --set changes hparams of ours; a size
changes on all sides.

The metric is one: leave-one-out, each user's last item but one among all items that the user has not had,
ties by expectation over random orders. RecTools does not know items that occur in no window it trains on:
they are not among its candidates, and gain nothing as targets (of Games' 30,901 at least 764). Each side is
validated after every epoch and stops after --patience epochs without a better value. The seconds are of
training alone: neither validation is in them nor what is prepared before the first step.

A level is 95 % or 99 % of the best value that a textbook reached in the same repeat; "times ours" is a side's
seconds to it by ours in that repeat, of the repeats where both reached it. A level never reached is later
than any time, and shown as a dash. --curves keeps finished repeats in a file, and takes those that it holds.

It takes long, most of all RecTools, which scores padding too. Measured in steps on a busy machine, an epoch
costs one thread 16 s on ML-100K, 3 minutes on ML-1M and 21 minutes on Games (the textbook's loop 8 s, and
about 1.5 minutes on either), and trainings have some 50 to 100 epochs. By that estimate three repeats with
two threads take two hours on ML-100K, a night on ML-1M and days on Games, where --repeats 1, --max-epochs or
no RecTools are of use. A small --patience is not: RecTools stands still for several epochs before it learns.

python -m benchmarks.time_to_quality --peer-python .venv-peers/bin/python [--logs ml-100k] [--repeats 3]
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bench_peers import run
from benchmarks.cases import Case, log_path, open_case
from benchmarks.record import (
    HERE,
    Row,
    add_settings,
    choose_device,
    in_child,
    measured,
    prepare_process,
    show,
    write,
)
from seqsweep.data_pipeline.store import SequenceLog
from seqsweep.sweep.cli.flags import pairs
from seqsweep.sweep.engine.hparams import typed_configs
from seqsweep.sweep.engine.state import build_model, new_state
from seqsweep.sweep.engine.training import train
from seqsweep.sweep.settings.budgets import TrainBudget

OURS, TEXTBOOK, RECTOOLS = "ours", "textbook", "RecTools"
SHARES = (0.95, 0.99)
NDCG = "valid_ndcg@10"
SIZES = ("hidden_dim", "num_blocks", "num_heads", "dropout", "max_len")  # equal on all sides

Hparams = dict[str, Any]
Curve = list[dict[str, float]]  # an epoch each: epoch, train_s and eval_s so far, valid_ndcg@10

# Length and dropout of Kang and McAuley 2018 on MovieLens and on Amazon's logs.
LOGS: dict[str, Hparams] = {
    "ml-100k": {"max_len": 200, "dropout": 0.2},
    "games": {"max_len": 50, "dropout": 0.5},
    "ml-1m": {"max_len": 200, "dropout": 0.2},
    "demo": {"max_len": 50, "dropout": 0.2},
}


def train_ours(name: str, hparams: Hparams, seed: int, cache: Path, arguments: argparse.Namespace) -> Curve:
    device = prepare_process(torch.device(arguments.device), arguments.threads)
    data = open_case(Case(name, hparams["max_len"]), cache, device)
    model_class, model_config, config = typed_configs(hparams)
    model = build_model(model_class, model_config, data.log.num_items, seed=seed, device=device)
    state = new_state(model, config)
    budget = TrainBudget(patience=arguments.patience, eval_schedule="every")
    curve: Curve = []
    train_s = eval_s = 0.0
    for report in train(
        state, config, budget, data.sequences, data.valid_ranker, max_epochs=arguments.max_epochs, seed=seed
    ):
        train_s += report.seconds
        eval_s += report.eval_seconds
        times = {"epoch": report.epoch, "train_s": round(train_s, 4), "eval_s": round(eval_s, 4)}
        curve.append({**times, NDCG: report.objective})
    return curve


def train_peer(
    command: list[str], log_file: Path, hparams: Hparams, seed: int, arguments: argparse.Namespace
) -> Curve:
    _, model_config, _ = typed_configs(hparams)
    values = {size: getattr(model_config, size) for size in SIZES} | {"seed": seed}
    values |= {name: getattr(arguments, name) for name in ("max_epochs", "patience", "threads", "device")}
    flags = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    lines = run([*command, str(log_file), *flags]).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def write_sequences(log: SequenceLog, path: Path) -> None:
    """A user's items a line: what the peers read."""
    item_id = np.concatenate(log.item_chunks())
    sequences = np.split(item_id, log.offset_U[1:-1])
    path.write_text("".join(" ".join(map(str, sequence.tolist())) + "\n" for sequence in sequences))


def train_all(
    name: str, repeat: int, peers: dict[str, list[str]], cache: Path, arguments: argparse.Namespace
) -> dict[str, Curve]:
    """One training of each side; they take turns in going first."""
    hparams = {"model": "sasrec", **LOGS[name], **pairs(arguments.set, "--set")}
    log_file = cache / f"{name}.txt"
    if not log_file.exists():
        case = Case(name, hparams["max_len"])
        write_sequences(open_case(case, cache, torch.device("cpu")).log, log_file)
    sides = [OURS, *peers]
    first = repeat % len(sides)
    curves = {}
    for side in [*sides[first:], *sides[:first]]:
        if side == OURS:
            curves[side] = in_child(train_ours, name, hparams, repeat, cache, arguments)
        else:
            curves[side] = train_peer(peers[side], log_file, hparams, repeat, arguments)
        last = curves[side][-1]
        print(
            f"  {name} repeat {repeat} {side}: best {best(curves[side]):.4f}, {last['epoch']} epochs, "
            f"{last['train_s']:.0f} + {last['eval_s']:.0f} s",
            flush=True,
        )
    return {side: curves[side] for side in sides}


def best(curve: Curve) -> float:
    return max(point[NDCG] for point in curve)


def point_at(curve: Curve, level: float) -> dict[str, float] | None:
    """The first epoch that is as good as that."""
    return next((point for point in curve if point[NDCG] >= level), None)


def seconds_to(curve: Curve, level: float) -> float | None:
    point = point_at(curve, level)
    return None if point is None else point["train_s"]


def measured_times(seconds: Iterable[float | None]) -> Row:
    """Median and spread where some may never have come (None): they are later than any other."""
    summary = measured((math.inf if value is None else value for value in seconds), digits=2)

    def plain(value: float) -> float | None:
        return value if math.isfinite(value) else None

    values = [plain(value) for value in summary["values"]]
    return {"values": values, **{key: plain(summary[key]) for key in ("median", "low", "high")}}


def rows_of(name: str, repeats: list[dict[str, Curve]]) -> list[Row]:
    """One a side. `repeats` has the curves of each."""
    rows = []
    for side in repeats[0]:
        curves = [by_side[side] for by_side in repeats]
        tops = [point for curve in curves if (point := point_at(curve, best(curve)))]
        row: Row = {
            "log": name,
            "side": side,
            "best_ndcg@10": measured((top[NDCG] for top in tops), digits=4),
            "epochs": measured((len(curve) for curve in curves), digits=0),
            "s_an_epoch": measured(curve[-1]["train_s"] / len(curve) for curve in curves),
            "s_to_best": measured((top["train_s"] for top in tops), digits=2),
        }
        levels = [(peer, share) for peer in repeats[0] if peer != OURS for share in SHARES]
        for peer, share in levels:
            row[f"s_to_{share:.0%}_of_{peer}"] = measured_times(times_to(repeats, side, peer, share))
        for peer, share in levels:
            row[f"times_ours_to_{share:.0%}_of_{peer}"] = ratios(repeats, side, peer, share)
        rows.append(row)
    return rows


def times_to(repeats: list[dict[str, Curve]], side: str, peer: str, share: float) -> list[float | None]:
    """Of each repeat, a side's seconds to a share of the peer's best."""
    return [seconds_to(by_side[side], share * best(by_side[peer])) for by_side in repeats]


def ratios(repeats: list[dict[str, Curve]], side: str, peer: str, share: float) -> Row | None:
    """A side's seconds by ours, of the repeats where both are there; None for ours."""
    if side == OURS:
        return None
    their, our = times_to(repeats, side, peer, share), times_to(repeats, OURS, peer, share)
    both = [(t, o) for t, o in zip(their, our, strict=True) if t is not None and o is not None]
    return measured((t / o for t, o in both), digits=2) if both else None


def read_curves(path: Path | None) -> dict[tuple[str, int], dict[str, Curve]]:
    if path is None or not path.exists():
        return {}
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    return {(line["log"], line["repeat"]): line["curves"] for line in kept}


def keep_curves(path: Path | None, name: str, repeat: int, curves: dict[str, Curve]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps({"log": name, "repeat": repeat, "curves": curves}) + "\n")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", help="of the environment that has RecTools")
    parser.add_argument("--logs", nargs="*", choices=LOGS, default=["ml-100k", "games", "ml-1m"])
    parser.add_argument("--max-epochs", type=int, default=300)
    parser.add_argument("--patience", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], metavar="HPARAM=VALUE")
    parser.add_argument("--curves", type=Path, help="file of JSON lines: repeats that are there are not run")
    add_settings(parser, repeats=3)
    arguments = parser.parse_args(argv)
    for name in arguments.logs:
        if not Case(name, LOGS[name]["max_len"]).is_there:
            raise SystemExit(f"{log_path(name)} is not there: name a folder of logs in SEQSWEEP_DATA")
    device = choose_device(arguments.device)
    arguments.device = device.type  # the same for all sides
    peers = {TEXTBOOK: [sys.executable, str(HERE / "peers" / "textbook_quality.py")]}
    if arguments.peer_python:
        peers = {RECTOOLS: [arguments.peer_python, str(HERE / "peers" / "rectools_quality.py")], **peers}
    kept = read_curves(arguments.curves)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as cache:
        for name in arguments.logs:
            repeats = []
            for repeat in range(arguments.repeats):
                curves = kept.get((name, repeat), {})
                if set(curves) != {OURS, *peers}:
                    curves = train_all(name, repeat, peers, Path(cache), arguments)
                    keep_curves(arguments.curves, name, repeat, curves)
                repeats.append(curves)
            for row in rows_of(name, repeats):
                rows.append(row)
                show(row)
    write("time_to_quality", rows, arguments, device=device)


if __name__ == "__main__":
    main()
