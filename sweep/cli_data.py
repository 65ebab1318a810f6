"""Commands on a log: what it is taken for and what it holds, and preparing it ahead of a study."""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from seqsweep.sweep.arguments import (
    HARDWARE,
    Cache,
    Columns,
    Data,
    DropDuplicates,
    EndTime,
    Format,
    KCore,
    MaxUsers,
    MinItem,
    MinRating,
    MinUser,
    StartTime,
    column_names,
    without_none,
)
from seqsweep.sweep.console import relative, say, user_errors


def prepare(
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
    append: Annotated[
        str | None,
        typer.Option(help="Newer interactions to add to the log, or prepared folder, that --data names."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Prepare on this Ray cluster (or auto), with Ray Data.", rich_help_panel=HARDWARE),
    ] = None,
    cache: Cache = None,
) -> None:
    """Read a log, order it and write the shards that studies train on; print what was found."""
    from seqsweep.data_pipeline.append import append as append_to
    from seqsweep.data_pipeline.prepare import prepare as prepare_log
    from seqsweep.data_pipeline.store import open_log
    from seqsweep.sweep.config import StudyConfig
    from seqsweep.sweep.log_report import log_lines

    with user_errors():
        section = {
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
        }
        config = StudyConfig.build(without_none({"data": section, "cache": cache}))
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
    from seqsweep.data_pipeline.distributed import prepare_distributed
    from seqsweep.sweep.cluster import connect
    from seqsweep.sweep.config import HardwareConfig

    with connect(HardwareConfig(address=address), say):
        return prepare_distributed(data, cache, say)


def inspect(
    log: Annotated[str, typer.Argument(help="A file, a folder or a glob.")],
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
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """What a log would be taken for, and what it holds; nothing is kept."""
    from seqsweep.data_pipeline.describe import describe_source
    from seqsweep.data_pipeline.prepare import prepare as prepare_log
    from seqsweep.data_pipeline.store import open_log
    from seqsweep.sweep.config import StudyConfig
    from seqsweep.sweep.log_report import as_record, guess_lines, log_lines

    with user_errors(), tempfile.TemporaryDirectory() as folder:
        section = {
            "path": log,
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
        }
        config = StudyConfig.build(without_none({"data": section})).data
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


COMMANDS = (prepare, inspect)
