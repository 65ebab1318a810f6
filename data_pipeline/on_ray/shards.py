"""Orders and writes shards, each in a task."""

from __future__ import annotations

import os
import pickle
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
from ray.data import Dataset

from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.on_ray.files import results
from seqsweep.data_pipeline.on_ray.rows import Ints, Stored, column, update_groups
from seqsweep.data_pipeline.preparing.order import ShardRows, neighbours, order_by_hash, order_by_row
from seqsweep.data_pipeline.preparing.shards import write_shard
from seqsweep.data_pipeline.schema import Neighbours, Shard

MAX_PARTITIONS = 1000
ATTEMPT = "attempt-"


@dataclass(frozen=True)
class Written:
    """One shard, and what there is to say of its rows. time_range: None for a log without times."""

    shard: Shard
    neighbours: Neighbours
    time_range: tuple[int, int] | None


def write_shards(rows: Dataset, folder: Path, cuts: list[tuple[int, int]], rank_V: Ints) -> list[Written]:
    """All shards, in order; equal times as the rows came. rows: with the final ids and the shard of each.

    cuts: [first, end) of the users in each shard. rank_V: place of every item among the raw ids.
    """
    writer = _WriteShard(folder, cuts, Stored(rank_V))
    num_partitions = min(2 * len(cuts), MAX_PARTITIONS)  # by a hash: in more, fewer shards meet
    outcomes = update_groups(rows, "shard", num_partitions, writer.update).take_all()
    written: list[Written] = results(pickle.loads(outcome["outcome"]) for outcome in outcomes)
    return sorted(written, key=lambda one: one.shard.first_user)


def write_by_hash(folder: Path, shards: Sequence[Shard], seed: int) -> list[Shard]:
    """The shards again, with equal times by a seeded hash."""
    return results(
        ray.get([_order_by_hash.remote(folder, *numbered, seed) for numbered in enumerate(shards)])
    )


@dataclass(frozen=True)
class _WriteShard:
    """Orders one shard's rows and writes them; gives the pickled Written, or what went wrong."""

    folder: Path
    cuts: list[tuple[int, int]]
    rank_V: Stored[Ints]

    def update(self, block: pa.Table) -> pa.Table:
        try:
            outcome: Written | Exception = self._write(block)
        except (DataError, OSError) as error:  # as a value: raised here it would come out as Ray's
            outcome = error
        return pa.table({"outcome": pa.array([pickle.dumps(outcome)], pa.binary())})

    def _write(self, block: pa.Table) -> Written:
        number = block["shard"][0].as_py()
        row = np.argsort(column(block, "place"))
        time = column(block, "timestamp")[row] if "timestamp" in block.column_names else None
        rows = ShardRows(column(block, "user")[row], column(block, "item")[row], time)
        order = order_by_row(rows)
        first, end = self.cuts[number]
        length_U = np.bincount(rows.user - np.int32(first), minlength=end - first)
        return Written(
            shard=_write_in_place(self.folder, number, first, length_U, rows, order),
            neighbours=neighbours(rows, order, self.rank_V.get()),
            time_range=None if time is None else (int(time.min()), int(time.max())),
        )


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def _order_by_hash(folder: Path, number: int, shard: Shard, seed: int) -> Shard | Exception:
    """Writes a shard again, its ties by hash; as it lies by (user, time, place), no places are needed."""
    try:
        with pa.memory_map(str(folder / shard.name)) as source:
            table = pa.ipc.open_file(source).read_all()
            item_U, time_U = (
                cast("pa.ListArray[Any]", table[name].chunk(0)) for name in ("item_id", "timestamp")
            )
            length_U = np.diff(item_U.offsets.to_numpy())
            user = np.repeat(table["user_id"].to_numpy(), length_U)
            rows = ShardRows(user, item_U.values.to_numpy() - np.int32(1), time_U.values.to_numpy())
            order = order_by_hash(rows, seed)
            return _write_in_place(folder, number, shard.first_user, length_U, rows, order)
    except (DataError, OSError) as error:
        return error


def _write_in_place(
    folder: Path, number: int, first_user: int, length_U: Ints, rows: ShardRows, order: Ints
) -> Shard:
    """Written beside its place and renamed: Ray may do a task twice, even at the same time."""
    if not folder.is_dir():
        raise DataError(_not_shared(folder))
    attempt = folder / f"{ATTEMPT}{uuid.uuid4().hex}"
    attempt.mkdir()
    try:
        time = None if rows.timestamp is None else rows.timestamp[order]
        shard = write_shard(attempt, number, first_user, length_U, rows.item[order] + np.int32(1), time)
        os.replace(attempt / shard.name, folder / shard.name)
        return shard
    finally:
        shutil.rmtree(attempt, ignore_errors=True)


def check_arrived(folder: Path, shards: Sequence[Shard]) -> None:
    """What the workers wrote must be here, and nothing else: a worker that died leaves its attempt behind."""
    for shard in shards:
        path = folder / shard.name
        if not path.is_file() or path.stat().st_size != shard.size:
            raise DataError(_not_shared(folder))
    for attempt in folder.glob(f"{ATTEMPT}*"):
        shutil.rmtree(attempt)


def _not_shared(folder: Path) -> str:
    return (
        f"{folder.parent}: the cache must be a folder that all nodes share, but what a node writes there is "
        "not seen by another; give another cache"
    )
