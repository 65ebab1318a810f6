"""A log for a model that is there already: nothing is left out for being rare, and unknown items are dropped.

Shapes: U users, S interactions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from torch import Tensor

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.formats.sources import read_interactions
from seqsweep.data_pipeline.ids import PAD_ITEM_ID
from seqsweep.data_pipeline.preparing.build import filtered
from seqsweep.data_pipeline.preparing.order import (
    ShardRows,
    is_stored_by_item,
    neighbours,
    order_by_hash,
    order_by_row,
    raw_ranks,
)
from seqsweep.data_pipeline.preparing.prepare import checked_log, is_prepared
from seqsweep.data_pipeline.schema import UNITS_PER_SECOND, TimeUnit
from seqsweep.data_pipeline.store import open_log, read_item_ids, read_user_ids

Ints = NDArray[np.int64]
Times = TypeVar("Times", Ints, Tensor)

# Of a log to recommend for: they choose what is trained on, not who may be recommended something.
NOT_APPLIED = ("min_user_interactions", "min_item_interactions", "start_time", "end_time", "max_users")


@dataclass(frozen=True)
class RawLog:
    """Interactions user after user, each user's in order of time, under raw ids."""

    raw_user_id: pa.Array[Any]  # of users 0, 1, ...
    raw_item_id: pa.Array[Any]  # of the codes in item_S
    offset_U: Ints  # one more than users
    item_S: NDArray[np.int32]
    time_S: Ints | None
    time_unit: TimeUnit | None


def read_raw_log(config: DataConfig) -> RawLog:
    """Of the filters `min_rating` and `drop_duplicates` alone count: they say what an interaction is.

    A prepared folder is taken as it is. Raises DataError.
    """
    if is_prepared(config):
        return _prepared(checked_log(config))
    defaults = {name: DataConfig.model_fields[name].default for name in NOT_APPLIED}
    config = config.model_copy(update=defaults)
    columns, _ = filtered(read_interactions(config), config)
    rows = ShardRows(columns.rows.user, columns.rows.item, columns.rows.timestamp)
    order = order_by_row(rows)
    if rows.timestamp is not None:
        total = neighbours(rows, order, raw_ranks(columns.raw_item_id))
        if is_stored_by_item(total):
            order = order_by_hash(rows, config.seed)
    return RawLog(
        columns.raw_user_id,
        columns.raw_item_id,
        _offsets(np.bincount(rows.user)),
        rows.item[order],
        None if rows.timestamp is None else rows.timestamp[order],
        columns.time_unit,
    )


def _prepared(folder: Path) -> RawLog:
    log = open_log(folder)
    return RawLog(
        read_user_ids(folder)["raw_user_id"].combine_chunks(),
        read_item_ids(folder)["raw_item_id"].combine_chunks(),
        log.offset_U,
        np.concatenate(log.item_chunks()) - np.int32(1),
        np.concatenate(log.timestamp_chunks()) if log.has_timestamps else None,
        log.manifest.time_unit,
    )


def places_among(raw_id: pa.Array[Any], known: pa.Array[Any]) -> Ints:
    """Where each raw id is among the known ones; -1 where it is not. 7 and "7" are the same id."""
    if raw_id.type != known.type:
        raw_id, known = (ids.cast(pa.string()) for ids in (raw_id, known))
    place = pc.index_in(raw_id, value_set=known).fill_null(-1)
    return cast(Ints, place.to_numpy().astype(np.int64))


@dataclass(frozen=True)
class OpenSequences:
    """Sequences that end in one place more: that of the item to be told, at the last interaction's time.

    In the form of `store.SequenceLog`, for `device.DeviceSequences`. Users without a known item are left out.
    """

    num_items: int
    offset_U: Ints  # one more than users
    item_P: NDArray[np.int32]
    time_P: Ints | None
    row_U: Ints  # each user's number in the log
    num_dropped: int  # interactions with items that the model does not know
    num_dropped_items: int

    @property
    def has_timestamps(self) -> bool:
        return self.time_P is not None

    def item_chunks(self) -> list[NDArray[np.int32]]:
        return [self.item_P]

    def timestamp_chunks(self) -> list[Ints]:
        return [] if self.time_P is None else [self.time_P]

    @property
    def target_U(self) -> Ints:
        """The places of the items to be told."""
        return self.offset_U[1:] - 1


def known_sequences(
    raw: RawLog,
    known: pa.Array[Any],
    time_unit: TimeUnit | None = None,
    chosen_U: NDArray[np.bool_] | None = None,
) -> OpenSequences:
    """Of a raw log what a model knows; `known` has the raw id of item 1, 2, ...

    Times come out in `time_unit`, where it is given. chosen_U: the users that are wanted; all if None.
    """
    item_id_V = places_among(raw.raw_item_id, known) + 1
    item_id_S = item_id_V[raw.item_S]
    num_users = len(raw.offset_U) - 1
    user_S = np.repeat(np.arange(num_users), np.diff(raw.offset_U))
    wanted_S = np.ones(len(user_S), np.bool_) if chosen_U is None else chosen_U[user_S]
    kept_S = wanted_S & (item_id_S != PAD_ITEM_ID)
    dropped_S = wanted_S & ~kept_S
    length_U = np.bincount(user_S[kept_S], minlength=num_users)
    row_U = np.flatnonzero(length_U)
    length_U = length_U[row_U]
    offset_U = _offsets(length_U + 1)
    place_S = np.arange(length_U.sum()) + np.repeat(np.arange(len(row_U)), length_U)
    item_P = np.full(offset_U[-1], PAD_ITEM_ID, np.int32)
    item_P[place_S] = item_id_S[kept_S]
    time_P = None
    if raw.time_S is not None:
        time_P = np.zeros(offset_U[-1], np.int64)
        time_P[place_S] = in_unit(raw.time_S[kept_S], raw.time_unit, time_unit)
        time_P[offset_U[1:] - 1] = time_P[offset_U[1:] - 2]
    return OpenSequences(
        num_items=len(known),
        offset_U=offset_U,
        item_P=item_P,
        time_P=time_P,
        row_U=row_U,
        num_dropped=int(dropped_S.sum()),
        num_dropped_items=len(np.unique(raw.item_S[dropped_S])),
    )


def in_unit(time: Times, unit: TimeUnit | None, wanted: TimeUnit | None) -> Times:
    """Times in another unit; as they are where one of the units is not known."""
    if unit is None or wanted is None:
        return time
    have, want = UNITS_PER_SECOND[unit], UNITS_PER_SECOND[wanted]
    return time * (want // have) if want >= have else time // (have // want)


def read_ids(path: Path) -> pa.Array[Any]:
    """One raw id a line; blank lines count for nothing. Raises DataError where there is none."""
    if not path.is_file():
        raise DataError(f"{path} must be a file of one id a line, got none there; check the path")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{path} must be text with one id a line, got bytes that are not UTF-8") from None
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise DataError(f"{path} must have one id a line, got none")
    return pa.array(ids, pa.string())


def _offsets(length_U: NDArray[np.integer[Any]]) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(length_U, dtype=np.int64)])
