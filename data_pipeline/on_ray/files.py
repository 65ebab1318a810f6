"""Reads every file in a task of its own, and makes the files' ids those of one log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pyarrow as pa
import ray
from ray.data import Dataset

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.formats.recognise import source_format
from seqsweep.data_pipeline.formats.sources import read_interactions
from seqsweep.data_pipeline.on_ray.rows import FILE_SHIFT, Codes, Recode, Stored, dataset, update
from seqsweep.data_pipeline.preparing.filters import codes
from seqsweep.data_pipeline.schema import TimeUnit
from seqsweep.data_pipeline.store import hash_file

T = TypeVar("T")

BLOCK_ROWS = 2**20  # of 24 bytes with times: a task works at one block, or at the rows of one shard
EMPTY = "the file is empty; expected one interaction a row"  # sources.py says so of files without rows
PENDING_IDS = 2**20  # so many ids of files are gathered, at least, before they are merged


@dataclass(frozen=True)
class _FileIds:
    """What one file's codes mean, and what all files must have in common."""

    num_rows: int
    raw_user_id: pa.Array[Any]
    raw_item_id: pa.Array[Any]
    time_unit: TimeUnit | None


_NO_ROWS = _FileIds(0, pa.array([], pa.int64()), pa.array([], pa.int64()), None)


@dataclass(frozen=True)
class Log:
    """rows: columns user, item (codes of the whole log), place and, if there, timestamp and rating."""

    rows: Dataset
    num_rows: int
    raw_user_id: pa.Array[Any]
    raw_item_id: pa.Array[Any]
    time_unit: TimeUnit | None


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def _hash_file(file: Path) -> str | Exception:
    try:
        check_seen(file)
        return hash_file(file)
    except (DataError, OSError) as error:  # as a value: raised in a task it would come out as Ray's
        return error


def hash_files(files: Sequence[Path]) -> tuple[str, ...]:
    """As fingerprint.hash_inputs."""
    hashes = ray.get([_hash_file.remote(file.absolute()) for file in files])
    return tuple(results(_as_given(digest, file) for digest, file in zip(hashes, files, strict=True)))


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def _read_file(config: DataConfig, number: int, block_rows: int) -> Iterator[_FileIds | Exception | pa.Table]:
    """The file's ids or what is wrong with it, then its rows in blocks with codes of this file.

    A file that is sound but without rows is passed over, as `read_interactions` does where others have some.
    """
    try:
        check_seen(Path(config.path))
        table = read_interactions(config)
    except (DataError, OSError) as error:
        yield _NO_ROWS if f"{config.path}: {EMPTY}" in str(error) else error
        return
    unit = (table.schema.metadata or {}).get(b"time_unit")
    yield _FileIds(
        num_rows=table.num_rows,
        raw_user_id=_dictionary(table["user"]),
        raw_item_id=_dictionary(table["item"]),
        time_unit=cast(TimeUnit, unit.decode()) if unit else None,
    )
    place = np.arange(table.num_rows) + (number << FILE_SHIFT)
    columns: dict[str, pa.Array[Any]] = {name: pa.array(codes(table[name])) for name in ("user", "item")}
    columns |= {name: table[name].combine_chunks() for name in table.column_names if name not in columns}
    del table
    rows = pa.table({**columns, "place": pa.array(place)})
    for first in range(0, rows.num_rows, block_rows):
        yield rows.slice(first, block_rows)


def _dictionary(column: pa.ChunkedArray[Any]) -> pa.Array[Any]:
    return cast("pa.DictionaryArray[Any, Any]", column.chunk(0)).dictionary


def read_files(config: DataConfig, files: Sequence[Path]) -> Log:
    """Raises the DataError of the first file that has one, and where files don't go together."""
    form = source_format(config)
    each = enumerate(_of_file(config, file, form) for file in files)
    tasks = [cast(Any, _read_file.remote(one, number, BLOCK_ROWS)) for number, one in each]  # generators
    user, item = _MergedIds(), _MergedIds()
    blocks: list[ray.ObjectRef[Any]] = []
    units: dict[Path, TimeUnit | None] = {}
    num_rows = 0
    try:
        for file, task in zip(files, tasks, strict=True):
            (ids,) = results([_as_given(cast("_FileIds | Exception", ray.get(next(task))), file)])
            user.add(ids.raw_user_id)
            item.add(ids.raw_item_id)
            if ids.num_rows:
                units[file] = ids.time_unit
            num_rows += ids.num_rows
            blocks.extend(task)
    except BaseException:
        for task in tasks:  # only here: what a cancelled task gave is not made again when a node is lost
            ray.cancel(task)
        raise
    if not blocks:
        raise DataError(f"{config.path}: {EMPTY}, at least user and item")
    recode = Recode(user.finish(), item.finish())
    rows = update(dataset(blocks), recode.update)
    return Log(rows, num_rows, user.raw_id, item.raw_id, _common_unit(config, units))


class _MergedIds:
    """The raw ids of all files in order, each once, and every file's codes in terms of them.

    They are gathered until there are more than were merged before, so that few merges are made.
    """

    def __init__(self) -> None:
        self._known: list[pa.Array[Any]] = []  # none or one
        self._pending: list[pa.Array[Any]] = []
        self._codes: list[Stored[Codes]] = []

    def add(self, raw_id: pa.Array[Any]) -> None:
        self._pending.append(raw_id)
        if sum(map(len, self._pending)) > max(PENDING_IDS, sum(map(len, self._known))):
            self._merge()

    def finish(self) -> list[Stored[Codes]]:
        """File by file, the code in the whole log of every code in the file."""
        self._merge()
        return self._codes

    @property
    def raw_id(self) -> pa.Array[Any]:
        return self._known[0]

    def _merge(self) -> None:
        if not self._pending:
            return
        gathered = _of_one_type([*self._known, *self._pending])
        encoded = pa.chunked_array(gathered).dictionary_encode()
        chunks = [cast("pa.DictionaryArray[Any, Any]", chunk) for chunk in encoded.chunks]  # no empty ones
        code = np.concatenate([np.zeros(0, np.int32), *(chunk.indices.to_numpy() for chunk in chunks)])
        parts = np.split(code, np.cumsum([len(array) for array in gathered])[:-1])
        self._codes += [Stored(part) for part in parts[len(self._known) :]]
        self._known, self._pending = [chunks[0].dictionary if chunks else gathered[0]], []


def _of_one_type(ids: list[pa.Array[Any]]) -> list[pa.Array[Any]]:
    """As a log in one file would have it: text as soon as one id is no plain integer of 64 bits."""
    types = {array.type for array in ids if len(array)}
    if len(types) > 1 and pa.string() not in types:
        try:
            return [array.cast(pa.int64()) for array in ids]
        except pa.ArrowInvalid:
            types.add(pa.string())
    kind = next(iter(types), pa.int64()) if len(types) <= 1 else pa.string()
    return [array.cast(kind) for array in ids]


def _common_unit(config: DataConfig, units: dict[Path, TimeUnit | None]) -> TimeUnit | None:
    first, *others = units
    for other in others:
        if units[other] != units[first]:
            (one, two) = (units[file] or "no timestamps" for file in (first, other))
            raise DataError(
                f"{config.path}: {first.name} has {one} and {other.name} has {two}; expected timestamps of "
                "one unit in all files; convert them"
            )
    return units[first]


def _of_file(config: DataConfig, file: Path, form: str) -> DataConfig:
    """Workers start in folders of their own: they need the whole path."""
    return config.model_copy(update={"path": str(file.absolute()), "format": form})


def _as_given(outcome: T | Exception, file: Path) -> T | Exception:
    """An error with the path as the user wrote it."""
    if isinstance(outcome, DataError):
        return DataError(str(outcome).replace(str(file.absolute()), str(file)))
    return outcome


def check_seen(file: Path) -> None:
    if not file.is_file():
        raise DataError(
            f"{file}: not seen by every node of the cluster; put the log into a folder that all nodes share"
        )


def results(outcomes: Iterable[T | Exception]) -> list[T]:
    """Raises the first that is an error."""
    results = []
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
        results.append(outcome)
    return results
