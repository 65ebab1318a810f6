"""From interactions to all that a prepared folder holds: shards, id tables and the manifest's facts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline import demo
from data_pipeline.config import DataConfig
from data_pipeline.filters import Interactions, apply_filters, codes
from data_pipeline.fingerprint import preparation_settings
from data_pipeline.order import time_order
from data_pipeline.schema import SCHEMA_VERSION, Counts, DataError, Manifest, TimeUnit
from data_pipeline.shards import write_ids, write_shards
from data_pipeline.sources import read_interactions, source_format
from data_pipeline.store import ITEM_IDS, USER_IDS
from data_pipeline.text_file import strip_compression

Notify = Callable[[str], None]
Ceilings = dict[str, dict[str, dict[str, float]]]

MIN_INTERACTIONS = 3  # a history, a validation and a test target
MANY_TIES = 0.05


def build_log(config: DataConfig, folder: Path, fingerprint: str, notify: Notify) -> Manifest:
    """Read, filter, map ids, order; write shards and id tables into `folder`, and return the manifest."""
    rows, raw_user_id, raw_item_id, unit = _read(config)
    rows, counts = apply_filters(rows, config, unit)
    user, raw_user_id = renumber(rows.user, raw_user_id)
    item, raw_item_id = renumber(rows.item, raw_item_id)
    num_U, num_V = np.bincount(user), np.bincount(item)
    _check_lengths(num_U, counts)
    order = time_order(user, item, rows.timestamp, raw_item_id, config.seed)
    offset_U = np.concatenate([np.zeros(1, np.int64), np.cumsum(num_U)])
    shards = write_shards(folder, offset_U, order.row, item + 1, rows.timestamp, config.shard_bytes)
    tables = (
        write_ids(folder / ITEM_IDS, "item", 1, raw_item_id, num_V),
        write_ids(folder / USER_IDS, "user", 0, raw_user_id, num_U),
    )
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        fingerprint=fingerprint,
        name=strip_compression(Path(config.path)).stem,
        origin=Path(config.path).name,
        settings=preparation_settings(config),
        counts=counts,
        num_users=len(num_U),
        num_items=len(num_V),
        num_interactions=len(user),
        has_timestamps=rows.timestamp is not None,
        time_unit=unit,
        time_range=_time_range(rows.timestamp),
        tie_share=order.tie_share,
        tie_order=order.tie_order,
        test_targets_tied=share_of_tied_targets(offset_U, order.tied),
        repeat_share=share_of_repeats(user, item, len(num_V)),
        shards=shards,
        tables=tables,
        ceilings=_ceilings(config, counts),
    )
    _tell(manifest, notify)
    return manifest


def _read(config: DataConfig) -> tuple[Interactions, pa.Array[Any], pa.Array[Any], TimeUnit | None]:
    table = read_interactions(config)
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


def renumber(code: NDArray[np.int32], raw_id: pa.Array[Any]) -> tuple[NDArray[np.int32], pa.Array[Any]]:
    """Ids 0, 1, ... in order of first appearance, and the raw id of each. Codes of no row are dropped."""
    encoded = pa.array(code).dictionary_encode()
    return encoded.indices.to_numpy(), raw_id.take(encoded.dictionary)


def _check_lengths(num_U: NDArray[np.int64], counts: tuple[Counts, ...]) -> None:
    if num_U.max() < MIN_INTERACTIONS:
        raise DataError(
            f"fewer than {MIN_INTERACTIONS} interactions for every user: the longest of {len(num_U)} "
            f"sequences has {num_U.max()} (after {counts[-1].step}); expected users with a history, a "
            "validation and a test target; see whether user and item are exchanged, or relax the filters"
        )


def _time_range(timestamp: NDArray[np.int64] | None) -> tuple[int, int] | None:
    return None if timestamp is None else (int(timestamp.min()), int(timestamp.max()))


def share_of_tied_targets(offset_U: NDArray[np.int64], tied: NDArray[np.bool_]) -> float:
    """Of the users with at least 3 interactions, the share whose test target is as old as the one before."""
    end_U = offset_U[1:][np.diff(offset_U) >= MIN_INTERACTIONS]
    return float(tied[end_U - 2].mean())


def share_of_repeats(user: NDArray[np.int32], item: NDArray[np.int32], num_items: int) -> float:
    """Share of the interactions whose (user, item) pair occurred before."""
    pair = user.astype(np.int64) * num_items + item
    pair.sort()
    return float((pair[1:] == pair[:-1]).sum() / len(pair))


def _ceilings(config: DataConfig, counts: tuple[Counts, ...]) -> Ceilings | None:
    """Known only for the generated log, and only where no filter changed what the process drew."""
    if source_format(config) != "demo" or counts[-1].num_rows != counts[0].num_rows:
        return None
    return demo.ceilings(demo.generate(demo.DemoConfig(seed=config.seed)))


def _tell(manifest: Manifest, notify: Notify) -> None:
    for before, after in zip(manifest.counts, manifest.counts[1:], strict=False):
        notify(
            f"{after.step} left {after.num_rows} of {before.num_rows} interactions, {after.num_users} users "
            f"and {after.num_items} items"
        )
    if manifest.tie_order == "hash":
        notify(
            "the log is stored by item id, so its rows say nothing about time: interactions of a user with "
            "equal timestamps are ordered by a seeded hash"
        )
    if manifest.tie_share > MANY_TIES:
        notify(
            f"warning: {manifest.tie_share:.0%} of neighbouring interactions have equal timestamps, and "
            f"{manifest.test_targets_tied:.0%} of the test targets tie with the validation target: "
            "their order is not known"
        )
