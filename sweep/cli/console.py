"""What every command does alike: speak, find a study, and turn a user's mistake into one message."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console


def say(text: str) -> None:
    Console().print(text, highlight=False, markup=False, soft_wrap=True)


def without_traceback(command: Callable[..., None]) -> Callable[..., None]:
    """Have a user's mistake end in one message and exit status 1; only a mistake of ours is a traceback."""

    @functools.wraps(command)
    def guarded(*arguments: Any, **values: Any) -> None:
        try:
            command(*arguments, **values)
        except Exception as error:
            text = _mistake(error)
            if text is None:
                raise
            console = Console(stderr=True)
            console.print(f"error: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(1) from None

    return guarded


def _mistake(error: Exception) -> str | None:
    """What to tell a user; None of a mistake of ours. The classes are imported when there is an error."""
    from seqsweep.data_pipeline.errors import DataError
    from seqsweep.results.errors import TableError
    from seqsweep.search_spaces.errors import SpaceError
    from seqsweep.sweep.errors import CANNOT_WRITE, UserError

    if isinstance(
        error, DataError | SpaceError | TableError | UserError | FileNotFoundError | PermissionError
    ):
        return str(error)
    if isinstance(error, NotADirectoryError | FileExistsError) and error.filename is not None:
        return f"no folder can be at {error.filename}: a file is in the way ({error.strerror})"
    if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
        where = "" if error.filename is None else f" ({error.filename})"
        return (
            f"{error.strerror}{where}. What was recorded before is safe: mend that and start the same "
            "command again"
        )
    return None
