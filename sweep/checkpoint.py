"""A trial's files, `trials/<number>/`: the checkpoint it goes on from, and in the end its best weights.

There is one checkpoint a trial, replaced after each validation. It carries the reports of all before:
whatever the study had not yet recorded when something died is reported again from there.
"""

import os
import uuid
from pathlib import Path
from typing import Any

import torch

FORMAT_VERSION = 1


def checkpoint_path(study_folder: Path, trial_number: int) -> Path:
    return study_folder / "trials" / f"{trial_number:05d}" / "checkpoint.pt"


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Complete or not there: written beside its place, synced, then renamed.

    On a node that was given up an older attempt may still be writing: each has its own staging name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f"{path.name}.{uuid.uuid4().hex}.staging")
    try:
        with staging.open("wb") as file:
            torch.save({"format_version": FORMAT_VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise


def remove_left_overs(folder: Path) -> None:
    """What attempts left in a trial's folder that were killed while they wrote. Called before the next one
    writes: an older one that still runs somewhere must not take away what a newer one is about to rename.
    """
    for left_over in folder.glob("*.staging"):
        left_over.unlink(missing_ok=True)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Tensors and plain values only (`weights_only=True`). Raises ValueError for another format."""
    content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"checkpoint format must be {FORMAT_VERSION}, got {content.get('format_version')} in {path}"
        )
    return content
