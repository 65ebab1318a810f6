"""Commands on a trained model, and the one that trains it without a search."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqsweep.sweep.cli.completion import complete_study
from seqsweep.sweep.cli.console import say
from seqsweep.sweep.cli.flags import (
    FILTERS,
    FORMAT,
    GENERAL,
    PROTOCOL,
    Flag,
    Runs,
    default_name,
    pairs,
    takes,
)
from seqsweep.sweep.settings.study_config import StudyConfig, merge
from seqsweep.sweep.storage.study_folder import relative

if TYPE_CHECKING:
    from seqsweep.data_pipeline.preparing.raw_log import OpenSequences
    from seqsweep.sweep.best_model.evaluate import Evaluation
    from seqsweep.sweep.best_model.model_folder import Exported

MODEL = "Model"
RUNS = Path("runs")
CACHE = Path(".cache/prepared")

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A study's name or folder, or a best/ folder.", autocompletion=complete_study
    ),
]
Log = Annotated[
    str | None, typer.Argument(metavar="[LOG]", help="Any log.  [default: the one that was trained on]")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1.  [default: a GPU if there is one]")]


@takes(*FORMAT, *(flag for flag in FILTERS if flag.variable in ("min_rating", "drop_duplicates")))
def recommend(
    model: ModelName,
    log: Log = None,
    out: Annotated[Path, typer.Option(help="Where to write: .parquet or .csv.")] = Path(
        "recommendations.parquet"
    ),
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Items a user.")] = 10,
    users: Annotated[Path | None, typer.Option(help="Only these users: a file of one id a line.")] = None,
    candidates: Annotated[
        Path | None, typer.Option(help="Only these items: a file of one id a line.")
    ] = None,
    keep_seen: Annotated[
        bool | None,
        typer.Option(
            "--keep-seen/--remove-seen",
            help="Whether items that a user had may come again.  [default: as the model was compared]",
        ),
    ] = None,
    device: Device = None,
    runs: Runs = RUNS,
    *,
    given: dict[str, Any],
) -> None:
    """The best items for every user of a log, from all that the user did, to a Parquet or CSV file."""
    from seqsweep.data_pipeline.preparing.raw_log import read_raw_log
    from seqsweep.sweep.best_model.evaluate import data_settings, own_data, own_log
    from seqsweep.sweep.best_model.recommend_files import (
        check_apart,
        check_output,
        chosen_users,
        known_candidates,
        write_output,
    )
    from seqsweep.sweep.best_model.recommender import Recommender

    check_output(out)
    exported = _exported(model, runs, device)
    config = data_settings(own_data(exported), log or own_log(exported), given.get("data", {}))
    check_apart(out, config)
    started = time.perf_counter()
    raw = read_raw_log(config)
    wanted = chosen_users(users, raw.raw_user_id, say)
    items = known_candidates(candidates, exported, say)
    recommender = Recommender(exported)
    known = recommender.known(raw, wanted)
    ready = time.perf_counter()
    found = recommender.best_items(
        known, top_k, exclude_seen=None if keep_seen is None else not keep_seen, candidates=items
    )
    ended = time.perf_counter()
    table = found.table(raw.raw_user_id.take(known.row_U), exported.item_ids)
    write_output(table, out)
    _say_what_is_left_out(known, num_users=len(raw.offset_U) - 1 if wanted is None else int(wanted.sum()))
    num_items = exported.config.num_items if items is None else len(items)
    say(
        f"{table.num_rows:,} recommendations for {len(known.row_U):,} users among {num_items:,} items: "
        f"read in {ready - started:.1f} s, ranked in {ended - ready:.1f} s ({exported.device})"
    )
    say(f"written to {relative(out)}")


def _say_what_is_left_out(known: OpenSequences, num_users: int) -> None:
    if known.num_dropped:
        say(
            f"dropped {known.num_dropped:,} interactions with {known.num_dropped_items:,} items that the "
            "model does not know"
        )
    if num_users > len(known.row_U):
        say(f"left out {num_users - len(known.row_U):,} users who have no item that the model knows")


@takes(*FORMAT, *FILTERS, Flag("cache"))
def evaluate(
    model: ModelName,
    log: Log = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    device: Device = None,
    runs: Runs = RUNS,
    *,
    given: dict[str, Any],
) -> None:
    """Measure a trained model as its study did: the same split, ranking and numbers. Nothing is trained."""
    from seqsweep.data_pipeline.split import silent
    from seqsweep.sweep.best_model.evaluate import evaluate as evaluate_model

    exported = _exported(model, runs, device)
    cache, data = Path(given.get("cache", CACHE)), given.get("data", {})
    outcome = evaluate_model(exported, log, data, cache, silent if as_json else say)
    if as_json:
        say(json.dumps(outcome.as_record(), indent=2))
        return
    for line in evaluation_lines(outcome, exported):
        say(line)


def evaluation_lines(outcome: Evaluation, exported: Exported) -> list[str]:
    lines = [f"{exported.config.model}, trial {exported.config.trial}; {outcome.protocol}"]
    if not outcome.is_own_log:
        lines.append(
            f"{outcome.log} is another log than the model was trained on, or prepared otherwise (fingerprint "
            f"{outcome.fingerprint[:12]}, not {exported.config.fingerprint[:12]}): "
            f"{'ranked among the items of both; ' if 'ranking=full' in outcome.protocol else ''}"
            f"{outcome.num_unknown_items:,} items of the log are unknown to the model and lose; "
            f"{outcome.num_unread_users:,} targets come after none but such items and are ranked by chance"
        )
    lines.append(f"{'':<8}  {'valid':>10}  {'test':>10}")
    lines.append(f"{'users':<8}  {outcome.num_users['valid']:>10,}  {outcome.num_users['test']:>10,}")
    lines += [
        f"{name:<8}  {value:>10.6f}  {outcome.metrics['test'][name]:>10.6f}"
        for name, value in outcome.metrics["valid"].items()
    ]
    if outcome.is_own_log:
        lines.append(_compared_with_record(outcome, exported))
    return lines


def _compared_with_record(outcome: Evaluation, exported: Exported) -> str:
    differences = [
        abs(value - exported.metrics[part][name])
        for part, metrics in outcome.metrics.items()
        for name, value in metrics.items()
        if name in exported.metrics.get(part, {})
    ]
    if not differences:
        return "nothing was recorded to compare with"
    largest = max(differences)
    return (
        "all as recorded in metrics.json, to the last digit"
        if largest == 0
        else f"the largest difference to metrics.json is {largest:.2g}: another device rounds otherwise"
    )


@takes(
    *(flag for flag in GENERAL if flag.flag in ("runs", "cache")),
    Flag("name", default="the log's and the model's"),
    Flag("training.patience", MODEL),
    Flag("seed"),
    *FORMAT,
    *FILTERS,
    *PROTOCOL,
)
def train(
    log: Annotated[str, typer.Argument(help="A log, or `demo`, a generated one.")] = "demo",
    model: Annotated[
        str, typer.Option(help="sasrec, tisasrec, gru4rec, bert4rec, hstu, lrurec", rich_help_panel=MODEL)
    ] = "sasrec",
    residual: Annotated[
        str | None,
        typer.Option(help="Of sasrec and tisasrec: plain, gated, mhc.", rich_help_panel=MODEL),
    ] = None,
    hparams: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A hparam: lr=1e-3", rich_help_panel=MODEL),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Maximum epochs.", rich_help_panel=MODEL)] = 300,
    *,
    given: dict[str, Any],
) -> None:
    """Train one model without a search; a study of one trial. The same command goes on after a kill."""
    from rich.console import Console

    from seqsweep.sweep.cli.leaderboard import print_leaderboard, say_what_is_there
    from seqsweep.sweep.cli.live import Progress
    from seqsweep.sweep.driver.local import one_training, pinned_space, train_alone
    from seqsweep.sweep.driver.run_study import run_study

    pinned = pairs(hparams or [], "--set") | ({} if residual is None else {"residual": residual})
    space = pinned_space(model, pinned)
    joined = "" if space.fix.get("residual", "plain") == "plain" else f"-{space.fix['residual']}"
    config = StudyConfig.build(
        {
            "name": f"{default_name(log)}-{model}{joined}",
            **merge(given, {"data": {"path": log}}),
            "space": space,
            "search": one_training(epochs),
            "finalists": {"count": 0},
        }
    )
    with Progress(Console(), config.training.objective) as progress:
        outcome = run_study(config, progress, train_trials=train_alone)
    if not outcome.exported:
        say(
            f"\nstopped ({outcome.stopped_because}); the same command goes on"
            if outcome.stopped_because
            else f"\nthe training failed: seqsweep show {config.name} 0 says why"
        )
        raise typer.Exit(1)
    print_leaderboard(config.folder)
    say_what_is_there(config.folder)


def export(
    model: ModelName,
    onnx: Annotated[Path, typer.Option(help="The file to write.")],
    runs: Runs = RUNS,
) -> None:
    """Write a model as ONNX, compared with PyTorch before it is there. Needs the extra `onnx`."""
    from seqsweep.sweep.best_model.onnx_file import export_onnx
    from seqsweep.sweep.best_model.recommend_files import check_folder

    check_folder(onnx, "--onnx")
    difference = export_onnx(_exported(model, runs, "cpu"), onnx)
    say(
        f"written to {relative(onnx)}; scores differ from PyTorch's by at most {difference:.1g} of their "
        "standard deviation"
    )


def _exported(model: str, runs: Path, device: str | None) -> Exported:
    from seqsweep.sweep.best_model.model_folder import find_model, read_exported

    return read_exported(find_model(model, runs), device)


COMMANDS = (train, evaluate, recommend, export)
