"""Rows as blocks of a Ray Data set: what is done to one block at a time, and counted over all.

A block has the columns user and item (codes), place (number of the row's file, and row in the file, in one
integer) and, where the log has them, timestamp and rating. Blocks come in any order, and what a step does to
them is not carried out until rows are counted or written, and then every time: that takes less than a second
copy of the rows would.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data import Dataset, from_arrow_refs
from ray.data.context import ShuffleStrategy

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.preparing.filters import Interactions, mask_of
from seqsweep.data_pipeline.schema import Counts, TimeUnit

Codes = NDArray[np.int32]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Update = Callable[[pa.Table], pa.Table]
T = TypeVar("T")

FILE_SHIFT = 40  # a file may have 10^12 rows
SORTED_BLOCKS = 200  # see `dataset`
UNSEEN = np.iinfo(np.int64).max  # the first place of a code that no row has


class Stored(Generic[T]):
    """Something that many tasks need, in the object store once: a node maps it without a copy."""

    def __init__(self, value: T) -> None:
        self._ref = ray.put(value)

    def get(self) -> T:
        return ray.get(self._ref)


def dataset(blocks: list[ray.ObjectRef[Any]]) -> Dataset:
    """Its settings go with all that is made of it; those of the process stay as they are.

    Rows are brought together as Ray Data chooses, which starts processes for that (seconds); few blocks by a
    sort, which would move the square of so many pieces.
    """
    with warnings.catch_warnings():  # Ray Data warns of a default of its own
        warnings.simplefilter("ignore", DeprecationWarning)
        rows = from_arrow_refs(cast(Any, blocks))
    rows.context.enable_progress_bars = rows.context.print_on_execution_start = False
    if len(blocks) <= SORTED_BLOCKS:
        rows.context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
    return rows


def update(rows: Dataset, update: Update) -> Dataset:
    return rows.map_batches(cast(Any, update), batch_size=None, batch_format="pyarrow")


def update_groups(rows: Dataset, key: str, num_partitions: int, update: Update) -> Dataset:
    """All rows of a group at once, in any order."""
    grouped = rows.groupby(key, num_partitions=num_partitions)
    return grouped.map_groups(cast(Any, update), batch_format="pyarrow")


@dataclass(frozen=True)
class Recode:
    """From codes of a file to codes of the log."""

    user: list[Stored[Codes]]
    item: list[Stored[Codes]]

    def update(self, block: pa.Table) -> pa.Table:
        number, last = (block["place"][row].as_py() >> FILE_SHIFT for row in (0, block.num_rows - 1))
        assert number == last, "blocks are those that the files were read into"
        user = self.user[number].get()[column(block, "user")]
        item = self.item[number].get()[column(block, "item")]
        return _replace(_replace(block, "user", user), "item", item)


@dataclass(frozen=True)
class Masked:
    """Rows of a block that pass one of FILTERS; equal ones must be in the same block."""

    name: str
    config: DataConfig
    unit: TimeUnit | None

    def update(self, block: pa.Table) -> pa.Table:
        if self.name == "drop_duplicates":
            block = block.take(np.argsort(column(block, "place")))
        rows = Interactions(
            user=column(block, "user"),
            item=column(block, "item"),
            timestamp=column(block, "timestamp") if "timestamp" in block.column_names else None,
            rating=block["rating"].to_numpy() if "rating" in block.column_names else None,
        )
        mask = mask_of(self.name, rows, self.config, self.unit)
        assert mask is not None, "the settings ask for it"
        return block.filter(pa.array(mask))


@dataclass(frozen=True)
class Alive:
    """Which users and items are in. One that is out stays out."""

    user: Mask
    item: Mask

    def rows(self, block: pa.Table) -> Mask:
        mask: Mask = self.user[column(block, "user")] & self.item[column(block, "item")]
        return mask


@dataclass(frozen=True)
class Keep:
    alive: Stored[Alive]

    def update(self, block: pa.Table) -> pa.Table:
        return block.filter(pa.array(self.alive.get().rows(block)))


@dataclass(frozen=True)
class Lost:
    """Rows that were in and are no more."""

    before: Stored[Alive]
    after: Stored[Alive]

    def update(self, block: pa.Table) -> pa.Table:
        return block.filter(pa.array(self.before.get().rows(block) & ~self.after.get().rows(block)))


def column(block: pa.Table, name: str) -> NDArray[Any]:
    return block[name].to_numpy()


def _replace(block: pa.Table, name: str, value: NDArray[Any]) -> pa.Table:
    return block.set_column(block.column_names.index(name), name, pa.array(value))


@dataclass(frozen=True)
class GroupUsers:
    num_groups: int

    def update(self, block: pa.Table) -> pa.Table:
        return block.append_column("group", pa.array(column(block, "user") % np.int32(self.num_groups)))


@dataclass(frozen=True)
class Number:
    """Final ids, and the shard of every row."""

    numbers: Stored[tuple[Codes, Codes, Codes]]  # new_U, new_V and the shard by new user

    def update(self, block: pa.Table) -> pa.Table:
        new_U, new_V, shard_U = self.numbers.get()
        user, item = new_U[column(block, "user")], new_V[column(block, "item")]
        block = _replace(_replace(block, "user", user), "item", item)
        kept = [name for name in ("user", "item", "timestamp", "place") if name in block.column_names]
        return block.select(kept).append_column("shard", pa.array(shard_U[user]))


@dataclass(frozen=True)
class Tally:
    """Rows by user (U) and item (V), by code; and the first place of each."""

    num_U: Ints
    first_U: Ints
    num_V: Ints
    first_V: Ints

    @property
    def num_rows(self) -> int:
        return int(self.num_U.sum())

    def count(self, step: str) -> Counts:
        num_users, num_items = (int(np.count_nonzero(num)) for num in (self.num_U, self.num_V))
        return Counts(step=step, num_rows=self.num_rows, num_users=num_users, num_items=num_items)


def count_rows(rows: Dataset, num_users: int, num_items: int) -> Tally:
    """Blocks are counted where they are; here their counts are added."""
    num = [np.zeros(size, np.int64) for size in (num_users, num_items)]
    first = [np.full(size, UNSEEN) for size in (num_users, num_items)]
    counted = update(rows, _count_block)
    for batch in counted.iter_batches(batch_size=None, batch_format="pyarrow"):
        part = cast(pa.Table, batch)
        is_item = part["is_item"].to_numpy()
        for role, here in enumerate((~is_item, is_item)):
            code = column(part, "code")[here]
            np.add.at(num[role], code, column(part, "num")[here])
            np.minimum.at(first[role], code, column(part, "first")[here])
    return Tally(num[0], first[0], num[1], first[1])


def _count_block(block: pa.Table) -> pa.Table:
    place = column(block, "place")
    return pa.concat_tables(
        _count_codes(column(block, name), place, name == "item") for name in ("user", "item")
    )


def _count_codes(code: Codes, place: Ints, is_item: bool) -> pa.Table:
    """By one sort of (code, row): its first rows begin the codes."""
    key = (code.astype(np.int64) << 32) | np.arange(len(code))
    key.sort()
    ordered = key >> 32
    begin = np.flatnonzero(np.diff(ordered, prepend=-1))
    first = np.minimum.reduceat(place[key & 0xFFFFFFFF], begin) if len(begin) else begin
    return pa.table(
        {
            "is_item": pa.array(np.full(len(begin), is_item)),
            "code": pa.array(ordered[begin].astype(np.int32)),
            "num": pa.array(np.diff(begin, append=len(code))),
            "first": pa.array(first),
        }
    )
