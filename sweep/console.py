"""What every command does alike: speak, find a study, and turn a user's mistake into one message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console

COMMAND_VARIABLE = "SEQSWEEP_COMMAND"  # of a job: what the user typed, to be typed again


def say(text: str) -> None:
    Console().print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def user_errors() -> Iterator[None]:
    """A user's mistake is one message and exit status 1; only a mistake of ours is a traceback."""
    from data_pipeline.schema import DataError
    from search_spaces.errors import SpaceError
    from sweep.errors import CANNOT_WRITE, UserError

    try:
        yield
    except (DataError, SpaceError, UserError, FileNotFoundError, PermissionError) as error:
        _say_error(str(error))
        raise typer.Exit(1) from None
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        where = "" if error.filename is None else f" ({error.filename})"
        _say_error(
            f"{error.strerror}{where}. What was recorded before is safe: mend that and start the same "
            "command again"
        )
        raise typer.Exit(1) from None


def _say_error(text: str) -> None:
    console = Console(stderr=True)
    console.print(f"error: {text}", style="red", markup=False, highlight=False, soft_wrap=True)


def study_folder(study: str, runs: Path) -> Path:
    """Of a study named by its folder, or by its name below `runs`. Raises StudyError if there is none."""
    from sweep.study import JOURNAL_NAME, StudyError

    folder = Path(study) if (Path(study) / JOURNAL_NAME).is_file() else runs / study
    if not (folder / JOURNAL_NAME).is_file():
        there = sorted(path.parent.name for path in runs.glob(f"*/{JOURNAL_NAME}"))
        known = f"; below {runs} are {', '.join(there)}" if there else f"; below {runs} there is none"
        raise StudyError(f"there is no study {study!r}{known}")
    return folder


def relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
