"""Adds newer interactions to a prepared log without reading the old ones from their source again.

The result is what preparing both together gives, down to the fingerprint (but for the numbers of users and
items before a filter, which are not known any more). That holds only where what is new cannot change what was
decided about the old; everything else is refused with the reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.formats.recognise import input_files
from seqsweep.data_pipeline.formats.sources import read_interactions
from seqsweep.data_pipeline.preparing.build import Columns, Notify, Ordered, Origin, filtered
from seqsweep.data_pipeline.preparing.filters import Interactions, has_core
from seqsweep.data_pipeline.preparing.fingerprint import compute_fingerprint, hash_inputs
from seqsweep.data_pipeline.preparing.order import is_stored_by_item
from seqsweep.data_pipeline.preparing.prepare import prepare_with
from seqsweep.data_pipeline.schema import Counts, Manifest
from seqsweep.data_pipeline.store import SequenceLog, open_log, read_item_ids, read_user_ids

TOGETHER = "prepare both together"


def append(folder: Path, new: str, cache: Path, notify: Notify) -> Path:
    """The prepared folder of the log in `folder` and, after it, the interactions of `new`.

    new: a path like DataConfig's; it is read with the settings of the old log. Raises DataError where the
    result could differ from preparing both together.
    """
    old = open_log(folder)
    config = DataConfig.model_validate({**old.manifest.settings, "path": new})
    _check_settings(old.manifest, config)
    inputs = (*old.manifest.inputs, *hash_inputs(input_files(config)))
    origin = Origin(compute_fingerprint(config, inputs), inputs)

    def build(staging: Path) -> Manifest:
        return _build(config, origin, old, folder, staging, notify)

    return prepare_with(build, origin.fingerprint, cache, notify)


def _check_settings(old: Manifest, config: DataConfig) -> None:
    if not old.inputs:
        raise DataError(f"append needs a log that was read from a file, got {old.name}, which is generated")
    reasons = {
        "min_user_interactions or min_item_interactions": has_core(config),
        "max_users": config.max_users is not None,
    }
    for name, is_set in reasons.items():
        if is_set:
            raise DataError(
                f"append goes with no {name}, and the old log has it: what it left out might now stay in; "
                f"{TOGETHER}"
            )


def _build(
    config: DataConfig, origin: Origin, old: SequenceLog, folder: Path, staging: Path, notify: Notify
) -> Manifest:
    new, new_counts = filtered(read_interactions(config), config)
    _check_times(config, old.manifest, new)
    user, raw_user_id = _joined_ids(
        read_user_ids(folder)["raw_user_id"], new.raw_user_id, new.rows.user, "user"
    )
    item, raw_item_id = _joined_ids(
        read_item_ids(folder)["raw_item_id"], new.raw_item_id, new.rows.item, "item"
    )
    old_user = np.repeat(np.arange(old.num_users, dtype=np.int32), np.diff(old.offset_U))
    old_item = np.concatenate(old.item_chunks()) - np.int32(1)
    time = new.rows.timestamp
    joined = Interactions(
        user=np.concatenate([old_user, user]),
        item=np.concatenate([old_item, item]),
        timestamp=None if time is None else np.concatenate([*old.timestamp_chunks(), time]),
        rating=None,
    )
    ordered = Ordered(Columns(joined, raw_user_id, raw_item_id, new.time_unit), config.shard_bytes)
    total = ordered.by_row()
    if old.manifest.tie_order == "hash":
        # The old ties don't lie as their rows did: take what was counted then, and count the new rows alone.
        alone = Ordered(new, config.shard_bytes).by_row()
        before = old.manifest.neighbours
        total = total.model_copy(
            update={
                name: getattr(before, name) + getattr(alone, name)
                for name in ("num_telling", "num_ascending")
            }
        )
    if is_stored_by_item(total):
        ordered.by_hash(config.seed)
    elif old.manifest.tie_order == "hash":
        raise DataError(
            f"{config.path}: with these interactions the log's ties don't ascend by item id any more, and "
            f"the old rows' order is not known here; {TOGETHER}"
        )
    counts = _joined_counts(old.manifest.counts, new_counts, len(raw_user_id), len(raw_item_id))
    notify(f"{len(time) if time is not None else len(user):,} interactions appended")
    return ordered.write(config, origin, counts, total, staging, notify)


def _check_times(config: DataConfig, old: Manifest, new: Columns) -> None:
    time = new.rows.timestamp
    if old.has_timestamps != (time is not None) or old.time_unit != new.time_unit:
        had, has = old.time_unit or "no timestamps", new.time_unit or "no timestamps"
        raise DataError(f"{config.path}: the old log has {had}, got {has}; convert the times, or {TOGETHER}")
    if time is None:
        if config.drop_duplicates:
            raise DataError(f"append goes with no drop_duplicates where there are no timestamps; {TOGETHER}")
        return
    assert old.time_range is not None
    start, end = int(time.min()), old.time_range[1]
    strict = config.drop_duplicates or old.tie_order == "hash"  # else equal times are as the rows
    if start < end or (strict and start == end):
        raise DataError(
            f"{config.path}: appended interactions must be {'after' if strict else 'at or after'} the old "
            f"log's end, got {start} and an end of {end} (in {old.time_unit}); leave out older ones, or "
            f"{TOGETHER}"
        )


def _joined_ids(
    old: pa.ChunkedArray[Any], new: pa.Array[Any], code: NDArray[np.int32], role: str
) -> tuple[NDArray[np.int32], pa.Array[Any]]:
    """Codes of the new rows where old ids keep theirs, and the raw ids of all.

    Raises DataError where old ids were read as integers and the new ones are text.
    """
    known = old.combine_chunks()
    if new.type != known.type:
        if not pa.types.is_string(known.type):
            raise DataError(
                f"append found {role} ids that are {new.type}, such as {new[0].as_py()!r}, and the old log's "
                f"are {known.type}; {TOGETHER}"
            )
        new = new.cast(pa.string())
    place = pc.index_in(new, value_set=known)
    unknown = place.is_null().to_numpy(zero_copy_only=False)
    number = place.fill_null(0).to_numpy().astype(np.int32)
    number[unknown] = len(known) + np.arange(unknown.sum(), dtype=np.int32)
    return number[code], pa.concat_arrays([known, new.filter(pa.array(unknown))])


def _joined_counts(
    old: tuple[Counts, ...], new: tuple[Counts, ...], num_users: int, num_items: int
) -> tuple[Counts, ...]:
    """The last step's users and items are counted; of those before a filter only the rows are known."""
    rows = [before.num_rows + added.num_rows for before, added in zip(old, new, strict=True)]
    earlier = [
        Counts(step=step.step, num_rows=number, num_users=None, num_items=None)
        for step, number in zip(old, rows, strict=True)
    ][:-1]
    last = Counts(step=old[-1].step, num_rows=rows[-1], num_users=num_users, num_items=num_items)
    return (*earlier, last)
