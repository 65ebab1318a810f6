"""Whole files: a file that exists is complete, and survives a power cut."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4


def replace_file(path: Path, write: Callable[[Path], Any], *, has_many_writers: bool = False) -> None:
    """Have `write` make a file beside `path`, then put it there: a reader finds the old or the new one.

    What is left over by a killed writer is written over by the next one; of many writers at once each has a
    staging name of its own.
    """
    own = f".{uuid4().hex}" if has_many_writers else ""
    staging = path.with_name(f".{path.name}{own}.staging")
    try:
        write(staging)
        sync(staging)
        os.replace(staging, path)
        sync(path.parent)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise


def replace_text(path: Path, text: str) -> None:
    replace_file(path, lambda staging: staging.write_text(text, encoding="utf-8"))


def sync(path: Path) -> None:
    """Flush a file's content to the disk, or a folder's list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
