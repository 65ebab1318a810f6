"""Commands on a log: what it is taken for and what it holds, and preparing it ahead of a study."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from seqsweep.sweep.cli.completion import complete_models
from seqsweep.sweep.cli.console import say
from seqsweep.sweep.cli.flags import DATA, FILTERS, FORMAT, HARDWARE_PANEL, Flag, takes
from seqsweep.sweep.settings.study_config import HardwareConfig, SpaceConfig, StudyConfig, merge
from seqsweep.sweep.storage.study_folder import relative


@takes(*DATA, Flag("cache"))
def prepare(
    *,
    append: Annotated[
        str | None,
        typer.Option(help="Newer interactions to add to the log, or prepared folder, that --data names."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Prepare on this Ray cluster (or auto) by Ray Data.", rich_help_panel=HARDWARE_PANEL
        ),
    ] = None,
    given: dict[str, Any],
) -> None:
    """Read a log, order it and write the shards that studies train on; print what was found."""
    from seqsweep.data_pipeline.preparing.append import append as append_to
    from seqsweep.data_pipeline.preparing.prepare import prepare as prepare_log
    from seqsweep.data_pipeline.store import open_log
    from seqsweep.sweep.cli.log_summary import log_lines

    config = StudyConfig.build(given)
    place = config.cache.absolute()
    if address is None:
        folder = prepare_log(config.data, place, say)
    else:
        folder = _on_cluster(config.data, place, address)
    if append is not None:
        folder = append_to(folder, append, place, say)
    for line in log_lines(open_log(folder).manifest):
        say(line)
    say(f"prepared in {relative(folder)}")


def _on_cluster(data: Any, cache: Path, address: str) -> Path:
    from seqsweep.data_pipeline.on_ray.prepare import prepare_distributed
    from seqsweep.sweep.cluster.connect import connect

    with connect(HardwareConfig(address=address), say):
        return prepare_distributed(data, cache, say)


@takes(*FORMAT, *FILTERS)
def inspect(
    log: Annotated[str, typer.Argument(help="A file, a folder or a glob.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")] = False,
    *,
    given: dict[str, Any],
) -> None:
    """What a log would be taken for, and what it holds; nothing is kept."""
    from seqsweep.data_pipeline.formats.describe import describe_source
    from seqsweep.data_pipeline.preparing.prepare import prepare as prepare_log
    from seqsweep.data_pipeline.store import open_log
    from seqsweep.sweep.cli.log_summary import as_record, guess_lines, log_lines

    with tempfile.TemporaryDirectory() as folder:
        config = StudyConfig.build(merge(given, {"data": {"path": log}})).data
        guess = describe_source(config)
        if not as_json:
            for line in guess_lines(guess):
                say(line)
        manifest = open_log(prepare_log(config, Path(folder), say if not as_json else _silent)).manifest
        if as_json:
            say(json.dumps(as_record(guess, manifest), indent=2))
            return
        for line in log_lines(manifest):
            say(line)


def _silent(message: str) -> None:
    """For scripts, which read the record alone."""


def spaces(
    models: Annotated[
        str, typer.Option(help="Families to show, by commas.", autocompletion=complete_models)
    ] = "all",
    points: Annotated[bool, typer.Option("--points", help="Also the points that are tried first.")] = False,
) -> None:
    """What a study may move, by family: bounds, and what depends on what."""
    from seqsweep.search_spaces import KNOWN_GOOD, SEARCH_SPACES
    from seqsweep.search_spaces.describe import describe_space
    from seqsweep.sweep.cli.render import points_table, space_table

    config: SpaceConfig = StudyConfig.build({"space": {"models": models.split(",")}}).space
    console = Console(width=None if sys.stdout.isatty() else 160)
    for name in config.names():
        console.print(space_table(name, describe_space(SEARCH_SPACES[name])), highlight=False)
        if points:
            console.print(points_table(name, KNOWN_GOOD[name]), highlight=False)


COMMANDS = (prepare, inspect, spaces)
