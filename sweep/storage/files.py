"""Whole files: in a folder, or in an object store that the nodes of a cluster reach without sharing one.

A file that exists is complete. In a folder it is written beside its place, synced, then renamed; an object
store shows an object when all of it is there.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from seqsweep.results.files import sync
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
    staging = path.with_name(f"{path.name}.{uuid4().hex}.staging")
    try:
        with staging.open("wb") as file:
            write(file)
        sync(staging)
        os.replace(staging, path)
        sync(path.parent)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise


def open_whole(path: StudyPath) -> IO[bytes]:
    """Raises FileNotFoundError."""
    return path.open("rb") if isinstance(path, Path) else io.BytesIO(path.read_bytes())


def write_text(path: Path, text: str) -> None:
    staging = path.with_name(f".{path.name}.staging")
    staging.write_text(text, encoding="utf-8")
    os.replace(staging, path)
