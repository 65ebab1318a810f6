"""A trial's files, `trials/<number>/`: the checkpoint it goes on from, and in the end its best weights.

There is one checkpoint a trial, replaced after each validation. It carries the reports of all before:
whatever the study had not yet recorded when something died is reported again from there.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from seqsweep.results.metrics import Ranks
from seqsweep.sweep.storage.bucket import BucketPath, StudyPath
from seqsweep.sweep.storage.files import open_whole, write_whole
from seqsweep.sweep.storage.study_folder import TRIALS

FORMAT_VERSION = 1
CHECKPOINT = "checkpoint.pt"

Place = TypeVar("Place", Path, BucketPath, StudyPath)


def checkpoint_path(study_folder: Place, trial_number: int) -> Place:
    return study_folder / TRIALS / f"{trial_number:05d}" / CHECKPOINT


def save_checkpoint(path: StudyPath, content: dict[str, Any]) -> None:
    """Complete or not there. Raises OSError where the disk is full."""
    try:
        write_whole(path, lambda file: torch.save({"format_version": FORMAT_VERSION, **content}, file))
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # which torch hides behind a failure to end its archive
            raise error.__context__ from None
        raise


def remove_left_overs(folder: StudyPath) -> None:
    """What attempts left in a trial's folder that were killed while they wrote. Called before the next one
    writes: an older one that still runs somewhere must not take away what a newer one is about to rename.
    """
    if isinstance(folder, Path):
        for left_over in folder.glob("*.staging"):
            left_over.unlink(missing_ok=True)


def load_checkpoint(path: StudyPath, device: torch.device) -> dict[str, Any]:
    """Tensors and plain values only (`weights_only=True`).

    Raises FileNotFoundError, and ValueError for another format.
    """
    with open_whole(path) as file:
        content: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"checkpoint format must be {FORMAT_VERSION}, got {content.get('format_version')} in {path}"
        )
    return content


def trials_with_checkpoint(study_folder: StudyPath) -> set[int]:
    """By their numbers; one look at the folder for all of them."""
    below = study_folder / TRIALS
    if isinstance(below, Path):
        return {int(path.parent.name) for path in below.glob(f"*/{CHECKPOINT}")}
    names = [name.split("/") for name in below.names_below()]
    return {int(folder) for folder, *rest in names if rest == [CHECKPOINT]}


def remove_trial_files(study_folder: StudyPath, trial_number: int) -> None:
    folder = checkpoint_path(study_folder, trial_number).parent
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    folder.remove_all()


SPLITS = ("valid", "test")


COLUMNS: dict[str, pa.DataType] = {
    "split": pa.string(), "user_id": pa.int64(), "better": pa.int64(), "tied": pa.int64(),
}  # fmt: skip


SCHEMA = pa.schema(COLUMNS)


@dataclass(frozen=True)
class UserRanks:
    user_id_U: npt.NDArray[np.integer[Any]]
    ranks: Ranks  # in the same order


def ranks_path(study_folder: Place, trial_number: int) -> Place:
    """Beside the checkpoint."""
    return checkpoint_path(study_folder, trial_number).with_name("ranks.parquet")


def write_ranks(path: StudyPath, *, valid: UserRanks, test: UserRanks) -> None:
    """Complete or not there."""
    table = pa.concat_tables([_table("valid", valid), _table("test", test)])
    write_whole(path, lambda file: pq.write_table(table, file))


def read_ranks(path: StudyPath) -> dict[str, Ranks]:
    """By split, `valid` and `test`; users in the order of their ids, the same for all trials of a study.

    Raises FileNotFoundError when the trial has none: it is no finalist, or has not come to its end.
    """
    with open_whole(path) as file:
        table = pq.read_table(file, schema=SCHEMA).sort_by("user_id")
    split_U = table["split"].to_numpy()
    better_U, tied_U = table["better"].to_numpy(), table["tied"].to_numpy()
    return {split: Ranks(better_U[split_U == split], tied_U[split_U == split]) for split in SPLITS}


def _table(split: str, user_ranks: UserRanks) -> pa.Table:
    ranks, num_users = user_ranks.ranks, len(user_ranks.user_id_U)
    columns: list[pa.Array[Any]] = [
        pa.array([split] * num_users, pa.string()),
        pa.array(user_ranks.user_id_U.astype(np.int64)),
        pa.array(ranks.better_U),
        pa.array(ranks.tied_U),
    ]
    return pa.table(columns, schema=SCHEMA)
