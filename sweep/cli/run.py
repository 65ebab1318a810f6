"""`seqsweep run`: flags and a settings file in, StudyConfig out; sweep/driver/run_study.py does the rest."""

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from seqsweep.sweep.cli.completion import complete_models, complete_settings, complete_study
from seqsweep.sweep.cli.console import say, user_errors
from seqsweep.sweep.cli.flags import (
    BUDGET,
    HARDWARE,
    SEARCH,
    Cache,
    Columns,
    Cuts,
    Data,
    DropDuplicates,
    EndTime,
    Format,
    KCore,
    MaxUsers,
    MinItem,
    MinRating,
    MinUser,
    Ranking,
    Seen,
    SplitName,
    StartTime,
    column_names,
    default_name,
    pairs,
    protocol_settings,
    resolve,
    without_none,
)
from seqsweep.sweep.cli.leaderboard import print_leaderboard, say_what_is_there
from seqsweep.sweep.environment import COMMAND_VARIABLE
from seqsweep.sweep.storage.study_folder import study_folder

# What is done with the arguments of `run`: settings file or study, flags, a study to warm-start from.
Act = Callable[[str | None, dict[str, Any], str | None], int]


def run(
    context: typer.Context,
    settings: Annotated[
        str | None,
        typer.Argument(
            help="A study.toml, or a study to go on with; flags win over it.",
            autocompletion=complete_settings,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The study's name.  [default: the log's]")] = None,
    data: Data = None,
    format: Format = None,
    columns: Columns = None,
    min_rating: MinRating = None,
    min_user_interactions: MinUser = None,
    min_item_interactions: MinItem = None,
    start_time: StartTime = None,
    end_time: EndTime = None,
    drop_duplicates: DropDuplicates = None,
    k_core: KCore = None,
    max_users: MaxUsers = None,
    models: Annotated[
        str | None,
        typer.Option(
            help="Families to search, by commas, or `all`.",
            rich_help_panel=SEARCH,
            autocompletion=complete_models,
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Trials in all.  [default: 20]", rich_help_panel=SEARCH)
    ] = None,
    fix: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Pin a hparam: loss=ce", rich_help_panel=SEARCH),
    ] = None,
    narrow: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUES",
            help="Move a hparam less: dropout=0.1:0.4, loss=ce,gbce",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="A space of your own, FILE:NAME.", rich_help_panel=SEARCH)
    ] = None,
    warm_start: Annotated[
        str | None,
        typer.Option(
            help="A new study tries the best hparams of this one first.",
            rich_help_panel=SEARCH,
            autocompletion=complete_study,
        ),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="auto, tpe, random, nsga2, gp, cmaes", rich_help_panel=SEARCH)
    ] = None,
    pruner: Annotated[
        str | None, typer.Option(help="auto, asha, median, patient, none", rich_help_panel=SEARCH)
    ] = None,
    max_epochs: Annotated[
        int | None, typer.Option(help="Of a trial.  [default: 100]", rich_help_panel=SEARCH)
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a better value.  [default: 10]", rich_help_panel=SEARCH)
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="Of validation; several by commas, as ndcg@10,num_parameters.  [default: ndcg@10]",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    finalists: Annotated[
        int | None,
        typer.Option(
            help="Best trials trained again over several seeds.  [default: 3]", rich_help_panel=SEARCH
        ),
    ] = None,
    finalist_seeds: Annotated[
        int | None, typer.Option(help="Trainings of each finalist.  [default: 3]", rich_help_panel=SEARCH)
    ] = None,
    max_hours: Annotated[
        float | None, typer.Option(help="Stop this start after so long.", rich_help_panel=BUDGET)
    ] = None,
    max_device_hours: Annotated[
        float | None, typer.Option(help="Of all trials together.", rich_help_panel=BUDGET)
    ] = None,
    max_trial_minutes: Annotated[
        float | None, typer.Option(help="Stop a trial that trains longer.", rich_help_panel=BUDGET)
    ] = None,
    max_disk_gb: Annotated[
        float | None, typer.Option(help="Of the study's folder.", rich_help_panel=BUDGET)
    ] = None,
    tensorboard: Annotated[
        bool | None, typer.Option("--tensorboard", help="Write event files too.", rich_help_panel=SEARCH)
    ] = None,
    split: SplitName = None,
    cuts: Cuts = None,
    ranking: Ranking = None,
    seen: Seen = None,
    seed: Annotated[
        int | None, typer.Option(help="Of everything random.  [default: 0]", rich_help_panel=SEARCH)
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster, or auto.", rich_help_panel=HARDWARE)
    ] = None,
    gpus_per_trial: Annotated[
        float | None, typer.Option(help="May be a fraction, or several.", rich_help_panel=HARDWARE)
    ] = None,
    workers_per_trial: Annotated[
        int | None,
        typer.Option(
            help="Processes that train one model together.  [default: one a GPU]", rich_help_panel=HARDWARE
        ),
    ] = None,
    cpus_per_trial: Annotated[
        float | None, typer.Option(help="Of each worker.", rich_help_panel=HARDWARE)
    ] = None,
    max_concurrent: Annotated[
        int | None, typer.Option(help="Trials at a time.", rich_help_panel=HARDWARE)
    ] = None,
    wait_minutes: Annotated[
        float | None,
        typer.Option(help="For an autoscaler's first node that holds a trial.", rich_help_panel=HARDWARE),
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder of all studies.  [default: runs]")] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="Object store for a cluster that shares no folder: s3://bucket/prefix"),
    ] = None,
    cache: Cache = None,
) -> None:
    """Start a study, or go on with it: the same command after any crash."""
    with user_errors():
        given = {
            "name": name or (None if settings is not None else default_name(data)),
            "tensorboard": tensorboard,
            "seed": seed,
            "runs": runs,
            "storage": storage,
            "cache": cache,
            "data": {
                "path": data,
                "format": format,
                "columns": column_names(columns),
                "min_rating": min_rating,
                "min_user_interactions": min_user_interactions,
                "min_item_interactions": min_item_interactions,
                "start_time": start_time,
                "end_time": end_time,
                "drop_duplicates": drop_duplicates,
                "k_core": k_core,
                "max_users": max_users,
            },
            "protocol": protocol_settings(split, cuts, ranking, seen),
            "space": {
                "models": models.split(",") if models else None,
                "function": resolve(space),
                "fix": pairs(fix or [], "--fix"),
                "narrow": pairs(narrow or [], "--set", text=True),
            },
            "search": {
                "trials": trials,
                "sampler": sampler,
                "pruner": pruner,
                "max_epochs": max_epochs,
                "objectives": objective.split(",")[1:] if objective else None,
            },
            "training": {"patience": patience, "objective": objective.split(",")[0] if objective else None},
            "finalists": {"count": finalists, "seeds": finalist_seeds},
            "budget": {
                "max_hours": max_hours,
                "max_device_hours": max_device_hours,
                "max_trial_minutes": max_trial_minutes,
                "max_disk_gb": max_disk_gb,
            },
            "hardware": {
                "address": address,
                "gpus_per_trial": gpus_per_trial,
                "workers_per_trial": workers_per_trial,
                "cpus_per_trial": cpus_per_trial,
                "max_concurrent": max_concurrent,
                "wait_minutes": wait_minutes,
            },
        }
        act: Act = context.obj or run_here  # `submit` has other plans with them
        raise typer.Exit(act(settings, without_none(given), warm_start))


COMMANDS = (run,)


def run_here(settings: str | None, given: dict[str, Any], warm_start: str | None) -> int:
    runs = given.get("runs", Path("runs"))
    path = None
    if settings is not None:
        path, folder = settings_path(settings, runs)
        given = {**({} if folder is None else {"runs": folder.absolute().parent}), **given}
    return run_settings(path, given, None if warm_start is None else study_folder(warm_start, runs))


def settings_path(settings: str, runs: Path) -> tuple[Path, Path | None]:
    """Of a study.toml, or of a study by its name; and the study's folder, where it is one's."""
    from seqsweep.sweep.storage.study_folder import JOURNAL_NAME

    path = Path(settings)
    if not path.is_file() and (runs / settings / "study.toml").is_file():
        path = runs / settings / "study.toml"
    elif path.is_dir() or (not path.exists() and path.suffix != ".toml"):  # a pipe is there, and no file
        path = study_folder(settings, runs) / "study.toml"
    return path, path.parent if (path.parent / JOURNAL_NAME).is_file() else None


def run_settings(path: Path | None, given: dict[str, Any], warm_start: Path | None = None) -> int:
    """Run the study of a settings file, or of flags alone; the exit status."""
    from seqsweep.sweep.cli.live import Progress
    from seqsweep.sweep.driver.run_study import run_study
    from seqsweep.sweep.settings.study_config import StudyConfig

    config = StudyConfig.build(given) if path is None else StudyConfig.load(path, given)
    with Progress(Console(), config.training.objective) as progress:
        outcome = run_study(config, progress, warm_start)
    print_leaderboard(config.folder)
    if outcome.stopped_because is not None:
        say(f"\nstopped ({outcome.stopped_because}); nothing is lost. Go on with the same command:")
        say(f"  {os.environ.get(COMMAND_VARIABLE) or shlex.join(['seqsweep', *sys.argv[1:]])}")
    elif outcome.best is None:
        say("\nno trial came to a result; see the column error of the leaderboard")
    if not outcome.exported:
        return 1
    say_what_is_there(config.folder)
    return 0
