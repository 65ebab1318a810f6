"""Wall time to a validation NDCG@10: `seqsweep run` against plain Ray Tune around a textbook SASRec.

The plain side is what Tune's guides lead to: OptunaSearch and ASHAScheduler, a report and a checkpoint an
epoch, around the model of Kang and McAuley 2018 with cross-entropy over the catalogue (pre-norm, one head,
Adam). Both sides get the same sequences, split, metric, bounds of the hparams that both have, first point,
numbers of trials and epochs, patience, rungs and trials at a time. seqsweep moves further hparams (residual,
norm, heads, window, ..); --same-model pins them to the textbook's. seqsweep validates the epochs of its
schedule, the plain side each. CPU only.

`training_share` is how much of wall time and trials at a time is training and ranking: the rest is overhead.
Each side is a process of its own, timed from its start; sides take turns in going first. A report counts when
the driver has it: for Tune in a callback, for seqsweep when a reader of its journal first sees it.

python -m benchmarks.sweep_vs_plain_tune [--data demo] [--trials 40] [--repeats 1] [--same-model]
"""

import argparse
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.record import add_folder, write
from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.preparing.prepare import prepare
from seqsweep.data_pipeline.store import open_log
from seqsweep.search_spaces import KNOWN_GOOD
from seqsweep.search_spaces.points import points_to_enqueue
from seqsweep.sweep.errors import StudyError
from seqsweep.sweep.storage.study_folder import JOURNAL_NAME
from seqsweep.sweep.study.optuna_study import suggest_grace
from seqsweep.sweep.study.reader import StudyReader

POLL_S = 0.2
METRIC = "best_ndcg@10"  # the best so far: Tune's searcher learns a trial's last value
SAME_MODEL = (
    "residual=plain",
    "norm=pre",
    "num_heads=1",
    "position_std=0.15",
    "window=last",
    "weight_decay=0",
)
HIDDEN_DIMS, MAX_LENS, BATCH_SIZES = range(32, 129, 8), (50, 100, 200), (32, 64, 128, 256)
EVAL_USERS = 256  # at a time

Log = Mapping[str, npt.NDArray[Any]]  # item_id by flat position, and offset_U: user u has [u], [u + 1]


@dataclass(frozen=True)
class Report:
    """An epoch that was validated, as a side's driver came to know it."""

    at_s: float  # since the side's process was started
    trial: str
    epoch: int
    ndcg: float
    seconds: float  # of training and ranking, since the report before


class Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 1, dropout, batch_first=True)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, later_LL: Tensor) -> Tensor:
        y_BLD = self.attention_norm(x_BLD)
        y_BLD, _ = self.attention(y_BLD, y_BLD, y_BLD, attn_mask=later_LL, need_weights=False, is_causal=True)
        x_BLD = x_BLD + self.drop(y_BLD)
        y_BLD = self.feed_forward(self.feed_forward_norm(x_BLD))
        return x_BLD + self.drop(y_BLD)  # type: ignore[no-any-return]


class TextbookSASRec(nn.Module):
    """Windows are padded on the right, so that the causal mask alone keeps padding out of sight."""

    def __init__(self, num_items: int, width: int, num_blocks: int, dropout: float, max_len: int) -> None:
        super().__init__()
        self.item = nn.Embedding(num_items + 1, width, padding_idx=0)
        self.position = nn.Embedding(max_len + 1, width)  # counted from the window's end, as in the paper
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(num_blocks))
        self.last_norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
        with torch.no_grad():
            self.item.weight[0].zero_()

    def forward(self, item_BL: Tensor) -> Tensor:
        length_B1 = (item_BL > 0).sum(1, keepdim=True)
        place_L = torch.arange(item_BL.shape[1])
        position_BL = (length_B1 - place_L).clamp(min=0)
        x_BLD = self.item(item_BL) * self.item.embedding_dim**0.5 + self.position(position_BL)
        x_BLD = self.drop(x_BLD)
        later_LL = torch.triu(torch.ones(len(place_L), len(place_L), dtype=torch.bool), diagonal=1)
        for block in self.blocks:
            x_BLD = block(x_BLD, later_LL)
        return self.last_norm(x_BLD)  # type: ignore[no-any-return]


def nearest(allowed: range | tuple[int, ...], drawn: int) -> int:
    return min(allowed, key=lambda value: abs(math.log(value / drawn)))


def windows(sequences: list[npt.NDArray[np.int64]], max_len: int) -> Tensor:
    """The last `max_len` of each, padded on the right with zeros."""
    item_UL = np.zeros((len(sequences), max_len), np.int64)
    for row, sequence in zip(item_UL, sequences, strict=True):
        row[: min(len(sequence), max_len)] = sequence[-max_len:]
    return torch.from_numpy(item_UL)


def trimmed(item_BL: Tensor) -> Tensor:
    return item_BL[:, : int((item_BL > 0).sum(1).max())]


class Validation:
    """NDCG@10 of the item before the last, among all items that the user has not had."""

    def __init__(self, sequences: list[npt.NDArray[np.int64]], num_items: int, max_len: int) -> None:
        evaluated = [sequence for sequence in sequences if len(sequence) >= 3]
        self.item_UL = windows([sequence[:-2] for sequence in evaluated], max_len)
        self.target_U1 = torch.tensor([[int(sequence[-2])] for sequence in evaluated])
        self.seen_UV = torch.zeros(len(evaluated), num_items + 1, dtype=torch.bool)
        for row, sequence in enumerate(evaluated):
            self.seen_UV[row, sequence[:-2]] = True
        self.seen_UV[:, 0] = True

    @torch.inference_mode()
    def ndcg(self, model: TextbookSASRec) -> float:
        model.eval()
        total = 0.0
        for begin in range(0, len(self.item_UL), EVAL_USERS):
            some = slice(begin, begin + EVAL_USERS)
            item_BL = trimmed(self.item_UL[some])
            last_B = (item_BL > 0).sum(1) - 1
            state_BD = model(item_BL)[torch.arange(len(last_B)), last_B]
            score_BV = state_BD @ model.item.weight.T
            score_BV.masked_fill_(self.seen_UV[some], -torch.inf)
            target_score_B1 = score_BV.gather(1, self.target_U1[some])
            place_B = (score_BV > target_score_B1).sum(1) + 1
            total += float(torch.where(place_B <= 10, 1 / torch.log2(place_B + 1.0), 0.0).sum())
        return total / len(self.item_UL)


def epochs(
    config: Mapping[str, Any], log: Log, model: TextbookSASRec, optimizer: torch.optim.Optimizer
) -> Iterator[float]:
    """Train an epoch, give the validation NDCG@10; again and again."""
    max_len, batch_size = nearest(MAX_LENS, config["max_len"]), nearest(BATCH_SIZES, config["batch_size"])
    item_id, bounds = log["item_id"].astype(np.int64), itertools.pairwise(log["offset_U"])
    sequences = [item_id[begin:end] for begin, end in bounds]
    train = [s[:-2] if len(s) >= 3 else s for s in sequences]
    train = [s for s in train if len(s) >= 2]
    item_UL, target_UL = windows([s[:-1] for s in train], max_len), windows([s[1:] for s in train], max_len)
    validation = Validation(sequences, int(log["item_id"].max()), max_len)
    while True:
        model.train()
        order = torch.randperm(len(train))
        for begin in range(0, len(train), batch_size):
            row_B = order[begin : begin + batch_size]
            item_BL, target_BL = trimmed(item_UL[row_B]), trimmed(target_UL[row_B])
            state_TD = model(item_BL)[target_BL > 0]
            logits_TV = state_TD @ model.item.weight[1:].T
            loss = F.cross_entropy(logits_TV, target_BL[target_BL > 0] - 1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        yield validation.ndcg(model)


def train_textbook(config: dict[str, Any], log: Log, max_epochs: int, patience: int, seed: int) -> None:
    """Tune's trainable, as in its guide to checkpoints."""
    from ray import tune

    torch.manual_seed(seed)
    model = TextbookSASRec(
        int(log["item_id"].max()),
        nearest(HIDDEN_DIMS, config["hidden_dim"]),
        config["num_blocks"],
        config["dropout"],
        nearest(MAX_LENS, config["max_len"]),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"], betas=(0.9, 0.98))
    epoch, best, best_epoch = 0, 0.0, 0
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            saved = torch.load(Path(folder) / "state.pt")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        epoch, best, best_epoch = saved["epoch"], saved["best"], saved["best_epoch"]
    started = time.perf_counter()
    for ndcg in epochs(config, log, model, optimizer):
        epoch += 1
        seconds = time.perf_counter() - started
        if ndcg > best:
            best, best_epoch = ndcg, epoch
        with tempfile.TemporaryDirectory() as folder:
            weights = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            state = {**weights, "epoch": epoch, "best": best, "best_epoch": best_epoch}
            torch.save(state, Path(folder) / "state.pt")
            tune.report(
                {"epoch": epoch, "ndcg@10": ndcg, METRIC: best, "seconds": seconds},
                checkpoint=tune.Checkpoint.from_directory(folder),
            )
        if epoch >= max_epochs or epoch - best_epoch >= patience:
            break
        started = time.perf_counter()


def run_plain(arguments: argparse.Namespace) -> None:
    """The whole plain side; its reports are written to --out."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    reports: list[Report] = []

    class Clock(tune.Callback):
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            at_s = time.time() - arguments.started
            reports.append(
                Report(at_s, trial.trial_id, result["epoch"], result["ndcg@10"], result["seconds"])
            )

    log = dict(np.load(arguments.folder / "log.npz"))
    space = {
        "lr": tune.loguniform(3e-4, 1e-2),
        "dropout": tune.uniform(0.0, 0.6),
        "hidden_dim": tune.lograndint(32, 129),
        "num_blocks": tune.randint(1, 4),
        "max_len": tune.lograndint(50, 201),
        "batch_size": tune.lograndint(32, 257),
    }
    num_users = len(log["offset_U"]) - 1
    grace_epochs = min(suggest_grace(num_users, arguments.max_epochs), arguments.max_epochs)
    first, *_ = points_to_enqueue(
        KNOWN_GOOD,
        {"sasrec": {"loss": "ce"}},
        num_users=num_users,
        num_items=int(log["item_id"].max()),
        num_interactions=len(log["item_id"]),
    )
    trainable = tune.with_parameters(
        train_textbook,
        log=log,
        max_epochs=arguments.max_epochs,
        patience=arguments.patience,
        seed=arguments.seed,
    )
    ray.init(address="local", include_dashboard=False)
    results = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            search_alg=OptunaSearch(
                points_to_evaluate=[{name: first[name] for name in space}],
                seed=arguments.seed,
            ),
            scheduler=ASHAScheduler(
                max_t=arguments.max_epochs, grace_period=grace_epochs, reduction_factor=3
            ),
            num_samples=arguments.trials,
            max_concurrent_trials=arguments.concurrent,
            reuse_actors=arguments.reuse_actors,
        ),
        run_config=tune.RunConfig(storage_path=str(arguments.folder / "tune"), callbacks=[Clock()]),
    ).fit()
    if results.num_errors:
        raise RuntimeError(f"{results.num_errors} of {len(results)} trials failed: {results.errors[0]}")
    (arguments.folder / "plain.json").write_text(json.dumps([asdict(report) for report in reports]))


def time_plain(folder: Path, seed: int, arguments: argparse.Namespace) -> tuple[list[Report], float]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.sweep_vs_plain_tune",
        "--plain-side",
        "--folder",
        str(folder),
        "--seed",
        str(seed),
    ]
    for name in ("trials", "max_epochs", "patience", "concurrent"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    command += ["--reuse-actors"] if arguments.reuse_actors else []
    started = time.time()
    with open(folder / "plain.txt", "w") as output:
        run = subprocess.run([*command, f"--started={started}"], stdout=output, stderr=output)
    wall_s = time.time() - started
    if run.returncode:
        raise RuntimeError(f"plain Tune ended with {run.returncode}: {(folder / 'plain.txt').read_text()}")
    return [Report(**report) for report in json.loads((folder / "plain.json").read_text())], wall_s


def time_seqsweep(folder: Path, seed: int, arguments: argparse.Namespace) -> tuple[list[Report], float]:
    pins = ["loss=ce", *(SAME_MODEL if arguments.same_model else ())]
    settings = {
        "name": "ours",
        "data": arguments.data,
        "models": "sasrec",
        "trials": arguments.trials,
        "max-epochs": arguments.max_epochs,
        "patience": arguments.patience,
        "max-concurrent": arguments.concurrent,
        "finalists": 0,
        "seed": seed,
        "runs": folder,
        "cache": folder.parent / "cache",
    }
    command = [sys.executable, "-m", "seqsweep", "run"]
    command += [f"--{name}={value}" for name, value in settings.items()] + [f"--fix={pin}" for pin in pins]
    watch = Watch(folder / "ours")
    with open(folder / "ours.txt", "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        while process.poll() is None:
            watch.look()
            time.sleep(POLL_S)
    wall_s = time.time() - watch.started
    watch.look()
    if process.returncode:
        raise RuntimeError(f"seqsweep ended with {process.returncode}: {(folder / 'ours.txt').read_text()}")
    return list(watch.reports.values()), wall_s


class Watch:
    """The reports of a study that another process runs, with the time at which each was first seen."""

    def __init__(self, folder: Path) -> None:
        self.reports: dict[tuple[int, int], Report] = {}
        self.started = time.time()
        self._folder = folder
        self._size = 0
        self._reader: StudyReader | None = None

    def look(self) -> None:
        journal = self._folder / JOURNAL_NAME
        size = journal.stat().st_size if journal.exists() else 0
        if size == self._size:
            return
        if self._reader is None:
            try:
                self._reader = StudyReader.read(self._folder)
            except StudyError:  # its first lines are not there yet
                return
        self._size = size
        at_s = time.time() - self.started
        for record in self._reader.epoch_records():
            if (record.trial, record.epoch) not in self.reports:
                seconds = (record.seconds or 0) + (record.eval_seconds or 0)
                self.reports[record.trial, record.epoch] = Report(
                    at_s, str(record.trial), record.epoch, record.objective or 0.0, seconds
                )


def seconds_to(reports: list[Report], level: float) -> float | None:
    return next((round(report.at_s, 1) for report in reports if report.ndcg >= level), None)


def summary(reports: list[Report], wall_s: float, levels: list[float]) -> dict[str, Any]:
    return {
        "trials": len({report.trial for report in reports}),
        "epochs": sum({report.trial: report.epoch for report in reports}.values()),  # a trial's last counts
        "validations": len(reports),
        "train_s": round(sum(report.seconds for report in reports), 1),
        "best": round(max(report.ndcg for report in reports), 4),
        "first_report_s": round(reports[0].at_s, 1),
        "wall_s": round(wall_s, 1),
        "seconds_to": {f"{level:.4f}": seconds_to(reports, level) for level in levels},
    }


def compare(folder: Path, repeat: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both sides once."""
    sides = {"seqsweep": time_seqsweep, "plain": time_plain}
    order = list(sides)[:: 1 if repeat % 2 == 0 else -1]
    timed = {side: sides[side](folder, arguments.seed + repeat, arguments) for side in order}
    common = min(max(report.ndcg for report in reports) for reports, _ in timed.values())
    pair: dict[str, Any] = {"order": order}
    for side, (reports, wall_s) in timed.items():
        pair[side] = summary(reports, wall_s, arguments.levels) | {
            "seconds_to_common": seconds_to(reports, common)
        }
    return {**pair, "common": round(common, 4)}


def training_share(side: dict[str, Any], concurrent: int) -> str:
    return f"{100 * side['train_s'] / concurrent / side['wall_s']:.3g} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="demo")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--max-epochs", type=int, default=100)
    parser.add_argument("--patience", type=int, default=10)
    parser.add_argument("--concurrent", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--levels", type=float, nargs="*", default=[0.07, 0.08, 0.09])
    parser.add_argument("--same-model", action="store_true", help="seqsweep moves no more than the textbook")
    parser.add_argument("--reuse-actors", action="store_true", help="on the plain side; not Tune's default")
    for name, kind in (("--folder", Path), ("--started", float)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)  # what the plain side's process is told
    parser.add_argument("--plain-side", action="store_true", help=argparse.SUPPRESS)
    add_folder(parser)
    arguments = parser.parse_args()
    if arguments.plain_side:
        run_plain(arguments)
        return
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        log = open_log(prepare(DataConfig(path=arguments.data), Path(folder) / "cache"))
        for repeat in range(arguments.repeats):
            of_repeat = Path(folder) / str(repeat)
            of_repeat.mkdir()
            np.savez(of_repeat / "log.npz", item_id=np.concatenate(log.item_chunks()), offset_U=log.offset_U)
            pairs.append(compare(of_repeat, repeat, arguments))
            print(json.dumps(pairs[-1]), flush=True)
    ratios = {
        key: round(statistics.median(pair["plain"][key] / pair["seqsweep"][key] for pair in pairs), 2)
        for key in ("wall_s", "seconds_to_common", "epochs", "best")
    }
    rows = [
        {
            "repeat": number,
            "side": side,
            "common_ndcg": pair["common"],
            **pair[side],
            "training_share": training_share(pair[side], arguments.concurrent),
        }
        for number, pair in enumerate(pairs)
        for side in ("seqsweep", "plain")
    ]
    write("sweep_vs_plain_tune", rows, arguments, plain_to_seqsweep=ratios)


if __name__ == "__main__":
    main()
