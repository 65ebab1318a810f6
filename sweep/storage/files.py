"""Whole files: in a folder, or in an object store that the nodes of a cluster reach without sharing one.

A file that exists is complete. In a folder it is written beside its place, synced, then renamed; an object
store shows an object when all of it is there.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from seqsweep.results.files import replace_file
from seqsweep.sweep.storage.bucket import BucketPath, StudyPath


def write_whole(path: StudyPath, write: Callable[[IO[bytes]], Any]) -> None:
    """The file is there with all that `write` gives it, or as it was before.

    On a node that was given up an older attempt may still be writing: each has its own staging name.
    """
    if isinstance(path, BucketPath):
        buffer = io.BytesIO()
        write(buffer)
        path.write_bytes(buffer.getbuffer())
        return
    path.parent.mkdir(parents=True, exist_ok=True)

    def write_staging(staging: Path) -> None:
        with staging.open("wb") as file:
            write(file)

    replace_file(path, write_staging, has_many_writers=True)


def open_whole(path: StudyPath) -> IO[bytes]:
    """Raises FileNotFoundError."""
    return path.open("rb") if isinstance(path, Path) else io.BytesIO(path.read_bytes())
