"""Writes sequences and id tables into a folder; the same input gives the same bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqsweep.data_pipeline.schema import SEQUENCES, SEQUENCES_WITHOUT_TIME, Shard, StoredFile
from seqsweep.data_pipeline.store import hash_file

MAX_SHARD_INTERACTIONS = 2**31 - 1  # list offsets are int32


def write_shard(
    folder: Path,
    number: int,
    first_user: int,
    length_U: NDArray[np.int64],
    item_id: NDArray[np.int32],
    timestamp: NDArray[np.int64] | None,
) -> Shard:
    """One Arrow IPC file of whole users, one record batch, uncompressed so that it can be mapped.

    length_U: interactions of the users from `first_user` on. item_id, timestamp: theirs, one after the other.
    """
    offsets = pa.array(np.concatenate([np.zeros(1, np.int32), np.cumsum(length_U, dtype=np.int32)]))
    columns = [
        pa.array(np.arange(first_user, first_user + len(length_U), dtype=np.int32)),
        pa.ListArray.from_arrays(offsets, pa.array(item_id)),
    ]
    if timestamp is not None:
        columns.append(pa.ListArray.from_arrays(offsets, pa.array(timestamp)))
    schema = SEQUENCES_WITHOUT_TIME if timestamp is None else SEQUENCES
    path = folder / f"sequences-{number:05d}.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    return Shard(
        **describe_file(path).model_dump(),
        first_user=first_user,
        num_users=len(length_U),
        num_interactions=len(item_id),
    )


def cut_users(offset_U: NDArray[np.int64], has_timestamps: bool, shard_bytes: int) -> list[tuple[int, int]]:
    """[first, end) of the users in each shard: as many whole users as fit, always at least one."""
    num_users = len(offset_U) - 1
    item_bytes, user_bytes = (12, 12) if has_timestamps else (4, 8)  # values; user id and list offsets
    size_U = offset_U * item_bytes + np.arange(num_users + 1) * user_bytes
    cuts, first = [], 0
    while first < num_users:
        fits = int(np.searchsorted(size_U, size_U[first] + shard_bytes, side="right")) - 1
        most = int(np.searchsorted(offset_U, offset_U[first] + MAX_SHARD_INTERACTIONS, side="right")) - 1
        end = max(first + 1, min(fits, most))
        cuts.append((first, end))
        first = end
    return cuts


def write_ids(
    path: Path, name: str, first_id: int, raw_id: pa.Array[Any], count: NDArray[np.int64]
) -> StoredFile:
    """raw id and number of interactions of every id, in order of id from `first_id`."""
    ids = np.arange(first_id, first_id + len(raw_id), dtype=np.int32)
    columns = {f"{name}_id": pa.array(ids), f"raw_{name}_id": raw_id, "count": pa.array(count)}
    pq.write_table(pa.table(columns), path)
    return describe_file(path)


def describe_file(path: Path) -> StoredFile:
    """Name, size and checksum of a file that is safely on disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    return StoredFile(name=path.name, size=path.stat().st_size, sha256=hash_file(path))
