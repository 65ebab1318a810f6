"""What must survive a power cut is flushed to the disk: a file's content, and a folder's list of names."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
