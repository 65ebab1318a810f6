"""`seqsweep run`: flags and a settings file in, StudyConfig out; sweep/driver/run_study.py does the rest."""

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from seqsweep.sweep.cli.completion import complete_settings, complete_study
from seqsweep.sweep.cli.console import say
from seqsweep.sweep.cli.flags import (
    BUDGET,
    DATA,
    GENERAL,
    HARDWARE,
    SEARCH,
    SEARCH_PANEL,
    default_name,
    takes,
)
from seqsweep.sweep.cli.leaderboard import print_leaderboard, say_what_is_there
from seqsweep.sweep.environment import COMMAND_VARIABLE
from seqsweep.sweep.settings.study_config import StudyConfig
from seqsweep.sweep.storage.study_folder import JOURNAL_NAME, study_folder

# What is done with the arguments of `run`: settings file or study, flags, a study to warm-start from.
Act = Callable[[str | None, dict[str, Any], str | None], int]


@takes(*GENERAL, *DATA, *SEARCH, *BUDGET, *HARDWARE)
def run(
    context: typer.Context,
    settings: Annotated[
        str | None,
        typer.Argument(
            help="A study.toml, or a study to go on with; flags win over it.",
            autocompletion=complete_settings,
        ),
    ] = None,
    *,
    warm_start: Annotated[
        str | None,
        typer.Option(
            help="Try the best hyperparameters of this study first, in a new one.",
            rich_help_panel=SEARCH_PANEL,
            autocompletion=complete_study,
        ),
    ] = None,
    given: dict[str, Any],
) -> None:
    """Start a study, or go on with it: the same command after any crash."""
    if settings is None and "name" not in given:
        given["name"] = default_name(given.get("data", {}).get("path"))
    act: Act = context.obj or run_here  # `submit` has other plans with them
    raise typer.Exit(act(settings, given, warm_start))


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
    path = Path(settings)
    if not path.is_file() and (runs / settings / "study.toml").is_file():
        path = runs / settings / "study.toml"
    elif path.is_dir() or (not path.exists() and path.suffix != ".toml"):  # a pipe is there, and no file
        path = study_folder(settings, runs) / "study.toml"
    return path, path.parent if (path.parent / JOURNAL_NAME).is_file() else None


def read_config(path: Path | None, given: dict[str, Any]) -> StudyConfig:
    """The settings of a file, with flags over them, or those of flags alone."""
    return StudyConfig.build(given) if path is None else StudyConfig.load(path, given)


def run_settings(path: Path | None, given: dict[str, Any], warm_start: Path | None = None) -> int:
    """Run the study of a settings file, or of flags alone; the exit status."""
    from seqsweep.sweep.cli.live import Progress
    from seqsweep.sweep.driver.run_study import run_study

    config = read_config(path, given)
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
