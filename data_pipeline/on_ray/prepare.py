"""`prepare` on a Ray cluster: the same fingerprint and the same bytes, and no process holds all rows.

Every file is read by one task, into Arrow blocks that stay in the object store (and spill to disk where it is
full); so a cluster wants a large log as several files. Ray Data filters the blocks and brings the rows of a
shard together, to be ordered and written. The calling process holds what there is for every user and every
item: raw ids, counts, first places; never the rows (but, for a moment, 3 bytes for each: `describe` counts
cold targets).

Whatever depends on the input's order (ids by first appearance, the first of equal rows, ties in time) goes by
the rows' places in it (distributed_rows.py): the blocks themselves come in any order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import Dataset
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    WorkerCrashedError,
)

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.formats.progress import TOLD_BYTES
from seqsweep.data_pipeline.formats.recognise import input_files, source_format
from seqsweep.data_pipeline.on_ray.files import Log, hash_files, read_files
from seqsweep.data_pipeline.on_ray.rows import (
    UNSEEN,
    Alive,
    Codes,
    GroupUsers,
    Ints,
    Keep,
    Lost,
    Masked,
    Number,
    Stored,
    Tally,
    count_rows,
    update,
    update_groups,
)
from seqsweep.data_pipeline.on_ray.shards import Written, check_arrived, write_by_hash, write_shards
from seqsweep.data_pipeline.preparing.build import TOLD_ROWS, Origin
from seqsweep.data_pipeline.preparing.filters import FILTERS, has_core, nothing_left, sample_users
from seqsweep.data_pipeline.preparing.fingerprint import compute_fingerprint
from seqsweep.data_pipeline.preparing.manifest import Content, check_lengths, describe
from seqsweep.data_pipeline.preparing.order import is_stored_by_item, raw_ranks
from seqsweep.data_pipeline.preparing.prepare import Notify, is_prepared, prepare, prepare_with
from seqsweep.data_pipeline.preparing.shards import cut_users, write_ids
from seqsweep.data_pipeline.schema import Counts, Manifest, Neighbours, TimeUnit
from seqsweep.data_pipeline.store import ITEM_IDS, USER_IDS

GROUP_ROWS = 2**20  # so many rows, on average, are searched for equal ones at a time
CLUSTER_FAILURES = (
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    WorkerCrashedError,
)


def prepare_distributed(config: DataConfig, cache: Path, notify: Notify) -> Path:
    """As `prepare`, with the work done by the Ray cluster that this process is connected to.

    The log and `cache` must lie in folders that all nodes share. The generated log and prepared folders are
    left to `prepare`. Raises DataError on a mistake in the log or the settings, and where the cluster fails.
    """
    assert ray.is_initialized(), "connect first: else Ray would start or join whatever cluster it finds"
    if is_prepared(config) or source_format(config) == "demo":
        return prepare(config, cache, notify)
    files = input_files(config)
    try:
        with _silent_ray_data():
            inputs = hash_files(files)
            origin = Origin(compute_fingerprint(config, inputs), inputs)

            def build(staging: Path) -> Manifest:
                return _build(config, origin, files, staging.absolute(), notify)

            return prepare_with(build, origin.fingerprint, cache, notify)
    except CLUSTER_FAILURES as error:
        raise DataError(
            f"{config.path}: the cluster failed while preparing it ({_first_line(error)}); "
            "give it more memory or disk, cut the log into smaller files, or prepare it on one machine"
        ) from error


def _build(
    config: DataConfig, origin: Origin, files: Sequence[Path], staging: Path, notify: Notify
) -> Manifest:
    before = [_signature(file) for file in files]
    size = sum(size for size, _ in before)
    if size >= TOLD_BYTES:
        notify(f"reading {config.path} ({size / 1e9:.1f} GB in {len(files)} files, one task each)")
    log = read_files(config, files)
    tell = notify if log.num_rows >= TOLD_ROWS else _silent
    tell(f"filtering {log.num_rows:,} interactions")
    rows, tally, counts = _filtered(log, config)
    plan = _Plan.of(log, tally, config)
    check_lengths(plan.length_U, counts)
    tell(f"ordering {tally.num_rows:,} interactions of {len(plan.length_U):,} users")
    written = plan.write(rows, staging)
    total = sum((shard.neighbours for shard in written), Neighbours())
    shards, hashed = [shard.shard for shard in written], is_stored_by_item(total)
    if hashed:
        shards = write_by_hash(staging, shards, config.seed)
    check_arrived(staging, shards)
    tables = (
        write_ids(staging / ITEM_IDS, "item", 1, plan.raw_item_id, plan.num_V),
        write_ids(staging / USER_IDS, "user", 0, plan.raw_user_id, plan.length_U),
    )
    content = Content(
        counts=counts,
        num_items=len(plan.num_V),
        length_U=plan.length_U,
        time_unit=log.time_unit,
        time_range=_time_range(written),
        neighbours=total,
        tie_order=None if log.time_unit is None else "hash" if hashed else "rows",
        shards=tuple(shards),
        tables=tables,
    )
    if [_signature(file) for file in files] != before:
        raise DataError(
            f"{config.path}: the input changed while it was read; prepare it again when it is at rest"
        )
    return describe(config, origin.fingerprint, origin.inputs, content, staging, notify)


def _first_line(error: Exception) -> str:
    """What a task raised is the cause of what Ray raises."""
    cause = getattr(error, "cause", error)
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


def _silent(message: str) -> None:
    """For logs that are prepared at once."""


def _signature(file: Path) -> tuple[int, int]:
    return file.stat().st_size, file.stat().st_mtime_ns


@contextmanager
def _silent_ray_data() -> Iterator[None]:
    """Ray Data tells of every execution, and there are several; its errors come as exceptions, too."""
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _filtered(log: Log, config: DataConfig) -> tuple[Dataset, Tally, tuple[Counts, ...]]:
    """As filters.apply_filters. Raises DataError naming the filter after which nothing is left."""
    sizes = len(log.raw_user_id), len(log.raw_item_id)
    rows, tally = log.rows, count_rows(log.rows, *sizes)
    counts = [tally.count("read")]
    for name in FILTERS:
        passing = _passing(name, rows, tally, config, log.time_unit)
        if passing is None:
            continue
        rows, tally = passing, count_rows(passing, *sizes)
        if tally.num_rows == 0:
            raise nothing_left(name, config, counts[-1].num_rows)
        counts.append(tally.count(name))
    return rows, tally, tuple(counts)


def _passing(
    name: str, rows: Dataset, tally: Tally, config: DataConfig, unit: TimeUnit | None
) -> Dataset | None:
    """The rows that pass the filter; None where the settings don't ask for it."""
    masked = Masked(name, config, unit)
    if name == "min_rating" and config.min_rating is not None:
        return update(rows, masked.update)
    if name == "time_range" and (config.start_time is not None or config.end_time is not None):
        return update(rows, masked.update)
    if name == "drop_duplicates" and config.drop_duplicates:
        return _without_duplicates(rows, masked, tally.num_rows)
    if name == "k_core" and has_core(config):
        return update(rows, Keep(Stored(_core(rows, tally, config))).update)
    if name == "max_users" and config.max_users is not None:
        chosen = sample_users(tally.num_U, config.max_users, config.seed)
        return update(rows, Keep(Stored(Alive(chosen, np.ones(len(tally.num_V), np.bool_)))).update)
    return None


def _without_duplicates(rows: Dataset, masked: Masked, num_rows: int) -> Dataset:
    """Brings equal rows together, by user; carried out once, as it moves all rows."""
    num_groups = num_rows // GROUP_ROWS + 1
    grouped = update(rows, GroupUsers(num_groups).update)
    unique: Dataset = update_groups(grouped, "group", num_groups, masked.update).materialize()
    return unique


def _core(rows: Dataset, tally: Tally, config: DataConfig) -> Alive:
    """As filters.k_core. Only masks change until the fixed point: who has too few loses all rows."""
    num_U, num_V = tally.num_U.copy(), tally.num_V.copy()
    minima = config.min_user_interactions, config.min_item_interactions
    alive = Alive(np.ones(len(num_U), np.bool_), np.ones(len(num_V), np.bool_))
    while True:
        after = Alive(num_U >= minima[0], num_V >= minima[1])
        if not num_U[~after.user].any() and not num_V[~after.item].any():
            return alive
        if config.k_core == "single":
            return after
        lost = count_rows(update(rows, Lost(Stored(alive), Stored(after)).update), len(num_U), len(num_V))
        num_U -= lost.num_U
        num_V -= lost.num_V
        alive = after


@dataclass(frozen=True)
class _Plan:
    """Ids in order of first appearance and the shards they make. new_U, new_V: new number by code, or -1."""

    raw_user_id: pa.Array[Any]
    raw_item_id: pa.Array[Any]
    length_U: Ints
    num_V: Ints
    new_U: Codes
    new_V: Codes
    cuts: list[tuple[int, int]]

    @classmethod
    def of(cls, log: Log, tally: Tally, config: DataConfig) -> _Plan:
        user, new_U = _by_appearance(tally.first_U)
        item, new_V = _by_appearance(tally.first_V)
        length_U = tally.num_U[user]
        offset_U = np.concatenate([np.zeros(1, np.int64), np.cumsum(length_U)])
        return cls(
            raw_user_id=log.raw_user_id.take(user),
            raw_item_id=log.raw_item_id.take(item),
            length_U=length_U,
            num_V=tally.num_V[item],
            new_U=new_U,
            new_V=new_V,
            cuts=cut_users(offset_U, log.time_unit is not None, config.shard_bytes),
        )

    def write(self, rows: Dataset, folder: Path) -> list[Written]:
        """All shards, in order."""
        shard_U = np.repeat(
            np.arange(len(self.cuts), dtype=np.int32), [end - first for first, end in self.cuts]
        )
        numbered = update(rows, Number(Stored((self.new_U, self.new_V, shard_U))).update)
        return write_shards(numbered, folder, self.cuts, raw_ranks(self.raw_item_id))


def _by_appearance(first: Ints) -> tuple[Ints, Codes]:
    """Codes in order of their first place, and the new number of every code (-1 where it has no row)."""
    there = np.flatnonzero(first < UNSEEN)
    code = there[np.argsort(first[there])]
    new = np.full(len(first), -1, np.int32)
    new[code] = np.arange(len(code), dtype=np.int32)
    return code, new


def _time_range(written: Sequence[Written]) -> tuple[int, int] | None:
    ranges = [one.time_range for one in written if one.time_range is not None]
    return (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None
