"""A finalist's file `trials/<number>/ranks.parquet`: every user's rank, of which its metrics are means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from seqsweep.results.metrics import Ranks
from seqsweep.sweep.checkpoint import Place, checkpoint_path
from seqsweep.sweep.files import StudyPath, open_whole, write_whole

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
