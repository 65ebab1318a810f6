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

from data_pipeline.config import DataConfig
from data_pipeline.facts import Content, check_lengths, describe
from data_pipeline.filters import Interactions, apply_filters, codes
from data_pipeline.order import (
    Rows,
    ShardRows,
    is_stored_by_item,
    neighbours,
    order_by_hash,
    order_by_row,
    raw_ranks,
)
from data_pipeline.schema import Manifest, Neighbours, Shard, TieOrder, TimeUnit
from data_pipeline.shards import cut_users, write_ids, write_shard
from data_pipeline.store import ITEM_IDS, USER_IDS

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


def build_log(config: DataConfig, origin: Origin, table: pa.Table, folder: Path, notify: Notify) -> Manifest:
    """Filter, map ids, order; write shards and id tables into `folder`, and return the manifest.

    table: as `sources.read_interactions` gives it.
    """
    tell = notify if table.num_rows >= TOLD_ROWS else _silent
    tell(f"filtering {table.num_rows:,} interactions")
    rows, raw_user_id, raw_item_id, unit = _columns(table)
    del table
    rows, counts = apply_filters(rows, config, unit)
    user, raw_user_id = renumber(rows.user, raw_user_id)
    item, raw_item_id = renumber(rows.item, raw_item_id)
    length_U, num_V = np.bincount(user), np.bincount(item)
    check_lengths(length_U, counts)
    tell(f"ordering {len(user):,} interactions of {len(length_U):,} users")
    ordered = _Ordered(user, item, rows.timestamp, length_U, config.shard_bytes)
    total, tie_order = ordered.decide(raw_ranks(raw_item_id), config.seed)
    tell(f"writing {len(ordered.cuts)} shards")
    shards = ordered.write(folder)
    tables = (
        write_ids(folder / ITEM_IDS, "item", 1, raw_item_id, num_V),
        write_ids(folder / USER_IDS, "user", 0, raw_user_id, length_U),
    )
    time = rows.timestamp
    content = Content(
        counts=counts,
        num_items=len(num_V),
        length_U=length_U,
        time_unit=unit,
        time_range=None if time is None else (int(time.min()), int(time.max())),
        neighbours=total,
        tie_order=tie_order,
        shards=shards,
        tables=tables,
    )
    return describe(config, origin.fingerprint, origin.inputs, content, folder, notify)


def _silent(message: str) -> None:
    """For logs that are prepared at once."""


def _columns(table: pa.Table) -> tuple[Interactions, pa.Array[Any], pa.Array[Any], TimeUnit | None]:
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
    return rows, raw_user_id, raw_item_id, cast(TimeUnit, unit.decode()) if unit else None


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
    return new[code], raw_id.take(pa.array(by_appearance))


class _Ordered:
    """Row numbers in order of (user, time), shard after shard."""

    def __init__(
        self, user: Codes, item: Codes, timestamp: Rows | None, length_U: Rows, shard_bytes: int
    ) -> None:
        self._user, self._item, self._timestamp, self._length_U = user, item, timestamp, length_U
        offset_U = np.concatenate([np.zeros(1, np.int64), np.cumsum(length_U)])
        self.cuts = cut_users(offset_U, timestamp is not None, shard_bytes)
        self._row = rows_by_shard(user, self.cuts)
        self._begins = [int(offset_U[first]) for first, _ in self.cuts] + [int(offset_U[-1])]

    def decide(self, rank_V: Rows, seed: int) -> tuple[Neighbours, TieOrder | None]:
        """Order all shards, with ties as they should be; what there is to say of neighbours."""
        total = sum(self._map(lambda number: self._order(number, rank_V)), Neighbours())
        if self._timestamp is None:
            return total, None
        if not is_stored_by_item(total):
            return total, "rows"
        for _ in self._map(lambda number: self._order_by_hash(number, seed)):
            pass
        return total, "hash"

    def write(self, folder: Path) -> tuple[Shard, ...]:
        def write(number: int) -> Shard:
            first, end = self.cuts[number]
            row = self._row[self._part(number)]
            time = None if self._timestamp is None else self._timestamp[row]
            return write_shard(folder, number, first, self._length_U[first:end], self._item[row] + 1, time)

        return tuple(self._map(write))

    def _order(self, number: int, rank_V: Rows) -> Neighbours:
        """Puts the shard's rows in order."""
        part = self._part(number)
        row = np.sort(self._row[part])
        shard = self._take(row)
        order = order_by_row(shard)
        self._row[part] = row[order]
        return neighbours(shard, order, rank_V)

    def _order_by_hash(self, number: int, seed: int) -> None:
        part = self._part(number)
        row = np.sort(self._row[part])
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
