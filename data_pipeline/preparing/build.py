"""From interactions to all that a prepared folder holds: shards, id tables and the manifest's facts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.preparing.filters import Interactions, apply_filters, codes
from seqsweep.data_pipeline.preparing.manifest import Content, check_lengths, describe
from seqsweep.data_pipeline.preparing.order import (
    Rows,
    ShardRows,
    is_stored_by_item,
    neighbours,
    order_by_hash,
    order_by_row,
    raw_ranks,
)
from seqsweep.data_pipeline.preparing.shards import cut_users, write_ids, write_shard
from seqsweep.data_pipeline.schema import Counts, Manifest, Neighbours, Shard, TimeUnit
from seqsweep.data_pipeline.store import ITEM_IDS, USER_IDS

Notify = Callable[[str], None]
Codes = NDArray[np.int32]
T = TypeVar("T")

MAX_THREADS = 4  # each takes some 50 bytes for every interaction of the shard it works at
TOLD_ROWS = 5_000_000  # from here on it takes long enough that one wants to know what goes on


@dataclass(frozen=True)
class Origin:
    """What identifies the log that is prepared: see Manifest."""

    fingerprint: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Columns:
    """Interactions in the input's row order, and the raw id of every code."""

    rows: Interactions
    raw_user_id: pa.Array[Any]
    raw_item_id: pa.Array[Any]
    time_unit: TimeUnit | None


def build_log(config: DataConfig, origin: Origin, table: pa.Table, folder: Path, notify: Notify) -> Manifest:
    """Filter, map ids, order; write shards and id tables into `folder`, and return the manifest.

    table: as `sources.read_interactions` gives it.
    """
    tell = notify if table.num_rows >= TOLD_ROWS else _silent
    tell(f"filtering {table.num_rows:,} interactions")
    columns, counts = filtered(table, config)
    del table
    ordered = Ordered(columns, config.shard_bytes)
    check_lengths(ordered.length_U, counts)
    tell(f"ordering {len(columns.rows.user):,} interactions of {len(ordered.length_U):,} users")
    total = ordered.by_row()
    if is_stored_by_item(total):
        ordered.by_hash(config.seed)
    tell(f"writing {len(ordered.cuts)} shards")
    return ordered.write(config, origin, counts, total, folder, notify)


def filtered(table: pa.Table, config: DataConfig) -> tuple[Columns, tuple[Counts, ...]]:
    """What the filters leave, users and items numbered in order of first appearance."""
    columns = _columns(table)
    rows, counts = apply_filters(columns.rows, config, columns.time_unit)
    user, raw_user_id = renumber(rows.user, columns.raw_user_id)
    item, raw_item_id = renumber(rows.item, columns.raw_item_id)
    rows = Interactions(user, item, rows.timestamp, None)
    return Columns(rows, raw_user_id, raw_item_id, columns.time_unit), counts


def _silent(message: str) -> None:
    """For logs that are prepared at once."""


def _columns(table: pa.Table) -> Columns:
    names = table.column_names
    rows = Interactions(
        user=codes(table["user"]),
        item=codes(table["item"]),
        timestamp=table["timestamp"].to_numpy() if "timestamp" in names else None,
        rating=table["rating"].to_numpy() if "rating" in names else None,
    )
    unit = (table.schema.metadata or {}).get(b"time_unit")
    raw_user_id, raw_item_id = (
        cast("pa.DictionaryArray[Any, Any]", table[name].chunk(0)).dictionary for name in ("user", "item")
    )
    return Columns(rows, raw_user_id, raw_item_id, cast(TimeUnit, unit.decode()) if unit else None)


def renumber(code: Codes, raw_id: pa.Array[Any]) -> tuple[Codes, pa.Array[Any]]:
    """Ids 0, 1, ... in order of first appearance, and the raw id of each. Codes of no row are dropped."""
    first = np.full(len(raw_id), len(code))  # row in which a code appears first
    first[code[::-1]] = np.arange(len(code) - 1, -1, -1)  # of repeated places the last assignment counts
    there = np.flatnonzero(first < len(code))
    by_appearance = there[np.argsort(first[there])]
    if len(by_appearance) == len(raw_id) and np.all(by_appearance == np.arange(len(raw_id))):
        return code, raw_id
    new = np.empty(len(raw_id), np.int32)
    new[by_appearance] = np.arange(len(by_appearance), dtype=np.int32)
    return new[code], raw_id.take(by_appearance)


class Ordered:
    """Row numbers in order of (user, time), shard after shard; first `by_row`, then `by_hash` if need be."""

    def __init__(self, columns: Columns, shard_bytes: int) -> None:
        self._columns, rows = columns, columns.rows
        self._user, self._item, self._timestamp = rows.user, rows.item, rows.timestamp
        self.length_U = np.bincount(rows.user)
        offset_U = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.length_U)])
        self.cuts = cut_users(offset_U, rows.timestamp is not None, shard_bytes)
        self._row = rows_by_shard(rows.user, self.cuts)
        self._begins = [int(offset_U[first]) for first, _ in self.cuts] + [int(offset_U[-1])]
        self._hashed = False

    def by_row(self) -> Neighbours:
        """Equal times as the rows came; what there is to say of neighbours."""
        rank_V = raw_ranks(self._columns.raw_item_id)
        return sum(self._map(lambda number: self._order(number, rank_V)), Neighbours())

    def by_hash(self, seed: int) -> None:
        """Equal times by a seeded hash."""
        self._hashed = True
        for _ in self._map(lambda number: self._order_by_hash(number, seed)):
            pass

    def write(
        self,
        config: DataConfig,
        origin: Origin,
        counts: tuple[Counts, ...],
        total: Neighbours,
        folder: Path,
        notify: Notify,
    ) -> Manifest:
        """Shards and id tables into `folder`; the manifest of it all. total: what `by_row` gave."""
        columns, time = self._columns, self._timestamp
        num_V = np.bincount(self._item)
        shards = tuple(self._map(lambda number: self._write(number, folder)))
        tables = (
            write_ids(folder / ITEM_IDS, "item", 1, columns.raw_item_id, num_V),
            write_ids(folder / USER_IDS, "user", 0, columns.raw_user_id, self.length_U),
        )
        content = Content(
            counts=counts,
            num_items=len(num_V),
            length_U=self.length_U,
            time_unit=columns.time_unit,
            time_range=None if time is None else (int(time.min()), int(time.max())),
            neighbours=total,
            tie_order=None if time is None else "hash" if self._hashed else "rows",
            shards=shards,
            tables=tables,
        )
        return describe(config, origin.fingerprint, origin.inputs, content, folder, notify)

    def _write(self, number: int, folder: Path) -> Shard:
        first, end = self.cuts[number]
        row = self._row[self._part(number)]
        time = None if self._timestamp is None else self._timestamp[row]
        return write_shard(folder, number, first, self.length_U[first:end], self._item[row] + 1, time)

    def _order(self, number: int, rank_V: Rows) -> Neighbours:
        """Puts the shard's rows in order."""
        part = self._part(number)
        row = self._row[part]
        shard = self._take(row)
        order = order_by_row(shard)
        self._row[part] = row[order]
        return neighbours(shard, order, rank_V)

    def _order_by_hash(self, number: int, seed: int) -> None:
        """Of rows in any order: those whose hashes are equal are equal themselves."""
        part = self._part(number)
        row = self._row[part]
        self._row[part] = row[order_by_hash(self._take(row), seed)]

    def _take(self, row: Rows) -> ShardRows:
        time = None if self._timestamp is None else self._timestamp[row]
        return ShardRows(self._user[row], self._item[row], time)

    def _part(self, number: int) -> slice:
        return slice(self._begins[number], self._begins[number + 1])

    def _map(self, do: Callable[[int], T]) -> Iterator[T]:
        with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
            yield from pool.map(do, range(len(self.cuts)))


def rows_by_shard(user: Codes, cuts: list[tuple[int, int]]) -> Rows:
    """Row numbers, those of the first shard's users first; within a shard as they came.

    Sorts shard numbers of 16 bits, for which NumPy has a radix sort, where there are few enough.
    """
    if len(cuts) == 1:
        return np.arange(len(user))
    number = np.uint16 if len(cuts) <= 2**16 else np.int32
    shard_U = np.repeat(np.arange(len(cuts), dtype=number), [end - first for first, end in cuts])
    return np.argsort(shard_U[user], kind="stable")
