"""The command line: all commands in one application. `run` is in run.py, the others lie beside it."""

from typing import Annotated

import typer

from seqsweep.sweep.cli import data, doctor, jobs, leaderboard, model, run, study
from seqsweep.sweep.cli.console import without_traceback
from seqsweep.sweep.cli.help import Command, Commands, print_version

app = typer.Typer(
    name="seqsweep",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    cls=Commands,
)


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print it and exit.", is_eager=True, callback=print_version)
    ] = False,
) -> None:
    """Find the best sequential recommender for an interaction log."""


for module in (run, data, leaderboard, study, model, doctor, jobs):
    for command in module.COMMANDS:
        name = command.__name__.replace("_", "-")
        app.command(name, cls=Command, **jobs.SETTINGS.get(name, {}))(without_traceback(command))


def main() -> None:
    app()
