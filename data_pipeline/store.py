"""The prepared folder, opened: memory mapped, checksums verified, sequences as flat arrays without a copy."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.schema import SCHEMA_VERSION, Manifest, StoredFile

MANIFEST = "manifest.json"
ITEM_IDS = "item_ids.parquet"
USER_IDS = "user_ids.parquet"
REBUILD = "prepare the log again"


class NewerManifestError(DataError):
    """The folder is sound, but of a newer version: it must not be rebuilt over."""


@dataclass(frozen=True)
class SequenceLog:
    """All users' sequences, user after user; rebuilt anywhere as `SequenceLog(Manifest(**d), (table, ...))`.

    A position is flat: it counts interactions over all users and shards.
    """

    manifest: Manifest
    shards: tuple[pa.Table, ...]

    @property
    def num_users(self) -> int:
        return self.manifest.num_users

    @property
    def num_items(self) -> int:
        """Real items; their ids are 1..num_items."""
        return self.manifest.num_items

    @property
    def has_timestamps(self) -> bool:
        return self.manifest.has_timestamps

    @cached_property
    def offset_U(self) -> NDArray[np.int64]:
        """num_users + 1 flat positions: user u has [offset_U[u], offset_U[u + 1])."""
        parts = [np.zeros(1, dtype=np.int64)]
        for shard in self.shards:
            ends = _list_column(shard, "item_id").offsets.to_numpy()[1:]
            parts.append(ends.astype(np.int64) + parts[-1][-1])
        return np.concatenate(parts)

    def item_chunks(self) -> list[NDArray[np.int32]]:
        """Item ids by flat position, one array a shard, mapped and not copied."""
        return [_list_column(shard, "item_id").values.to_numpy(zero_copy_only=True) for shard in self.shards]

    def timestamp_chunks(self) -> list[NDArray[np.int64]]:
        """Timestamps by flat position, one array a shard; none for a log without time."""
        if not self.has_timestamps:
            return []
        return [
            _list_column(shard, "timestamp").values.to_numpy(zero_copy_only=True) for shard in self.shards
        ]


def _list_column(shard: pa.Table, name: str) -> pa.ListArray[Any]:
    """A shard is written as one record batch, so its columns are one chunk that starts at 0."""
    chunks = cast("list[pa.ListArray[Any]]", shard.column(name).chunks)
    assert len(chunks) == 1 and chunks[0].offset == 0, "a shard must be one whole record batch"
    return chunks[0]


def open_log(folder: Path) -> SequenceLog:
    """Map a folder that `prepare` returned. Raises DataError if a part is missing or its checksum differs."""
    manifest = read_manifest(folder)
    if damaged := damaged_files(folder, manifest):
        raise DataError(f"{folder / damaged[0]}: checksum or size differs from the manifest's; {REBUILD}")
    return SequenceLog(manifest, map_shards(folder, manifest))


def map_shards(folder: Path, manifest: Manifest) -> tuple[pa.Table, ...]:
    """The shards' tables, memory mapped; their checksums are not looked at."""
    return tuple(
        pa.ipc.open_file(pa.memory_map(str(folder / shard.name))).read_all() for shard in manifest.shards
    )


def read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no readable manifest ({error}); {REBUILD}") from error
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise NewerManifestError(
            f"{path}: written by a newer seqsweep (schema_version {version}, this one reads "
            f"{SCHEMA_VERSION}): update seqsweep, or give another cache"
        )
    if version != SCHEMA_VERSION:
        raise DataError(f"{path}: schema_version must be {SCHEMA_VERSION}, got {version}; {REBUILD}")
    try:
        return Manifest(**fields)
    except ValidationError as error:
        raise DataError(f"{path}: not a manifest: {error.errors()[0]}; {REBUILD}") from error


def damaged_files(folder: Path, manifest: Manifest) -> list[str]:
    """Names of the stored files that are missing or differ from what the manifest says."""
    files: list[StoredFile] = [*manifest.shards, *manifest.tables]
    with ThreadPoolExecutor(max_workers=4) as pool:  # hashing releases the interpreter lock
        sound = pool.map(lambda file: _is_sound(folder / file.name, file), files)
        return [file.name for file, is_sound in zip(files, sound, strict=True) if not is_sound]


def _is_sound(path: Path, file: StoredFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size and hash_file(path) == file.sha256


def hash_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_item_ids(folder: Path) -> pa.Table:
    """item_id, raw_item_id and count, in order of item_id from 1."""
    return pq.read_table(folder / ITEM_IDS)


def read_user_ids(folder: Path) -> pa.Table:
    """user_id, raw_user_id and count, in order of user_id from 0."""
    return pq.read_table(folder / USER_IDS)
