"""The manifest of a log whose shards are written, and what of it a user should be told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqsweep.data_pipeline import demo
from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.formats.recognise import source_format
from seqsweep.data_pipeline.formats.text_file import strip_compression
from seqsweep.data_pipeline.preparing.fingerprint import preparation_settings
from seqsweep.data_pipeline.schema import (
    MIN_INTERACTIONS,
    SCHEMA_VERSION,
    Counts,
    Manifest,
    Neighbours,
    Shard,
    StoredFile,
    TieOrder,
    TimeUnit,
)
from seqsweep.data_pipeline.split import count_cold_targets, leave_one_out
from seqsweep.data_pipeline.store import SequenceLog, map_shards

Notify = Callable[[str], None]
Ceilings = dict[str, dict[str, dict[str, float]]]

MANY_TIES = 0.05
MANY_COLD = 0.05
LENGTHS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Content:
    """What was found in the input and written: see Manifest. length_U: interactions of every user."""

    counts: tuple[Counts, ...]
    num_items: int
    length_U: NDArray[np.int64]
    time_unit: TimeUnit | None
    time_range: tuple[int, int] | None
    neighbours: Neighbours
    tie_order: TieOrder | None
    shards: tuple[Shard, ...]
    tables: tuple[StoredFile, ...]


def describe(
    config: DataConfig,
    fingerprint: str,
    inputs: Sequence[str],
    content: Content,
    folder: Path,
    notify: Notify,
) -> Manifest:
    """The manifest of what lies in `folder`."""
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        fingerprint=fingerprint,
        name=strip_compression(Path(config.path)).stem,
        origin=Path(config.path).name,
        settings=preparation_settings(config),
        inputs=tuple(inputs),
        counts=content.counts,
        num_users=len(content.length_U),
        num_items=content.num_items,
        num_interactions=int(content.length_U.sum()),
        has_timestamps=content.tie_order is not None,
        time_unit=content.time_unit,
        time_range=content.time_range,
        tie_order=content.tie_order,
        neighbours=content.neighbours,
        lengths=histogram(content.length_U),
        leave_one_out={},
        shards=content.shards,
        tables=content.tables,
        ceilings=_ceilings(config, content.counts),
    )
    log = SequenceLog(manifest, map_shards(folder, manifest))
    split = leave_one_out(log.offset_U)
    manifest = manifest.model_copy(
        update={"leave_one_out": {**split.counts, **count_cold_targets(log, split)}}
    )
    tell(manifest, notify)
    return manifest


def check_lengths(length_U: NDArray[np.int64], counts: Sequence[Counts]) -> None:
    """Raises DataError where no user has a history, a validation and a test target."""
    if length_U.max() < MIN_INTERACTIONS:
        raise DataError(
            f"fewer than {MIN_INTERACTIONS} interactions for every user: the longest of {len(length_U)} "
            f"sequences has {length_U.max()} (after {counts[-1].step}); expected users with a history, a "
            "validation and a test target; see whether user and item are exchanged, or relax the filters"
        )


def histogram(length_U: NDArray[np.int64]) -> dict[int, int]:
    """Users by length; each entry counts from its number up to the next one's."""
    number, _ = np.histogram(length_U, bins=[*LENGTHS, np.iinfo(np.int64).max])
    return {low: int(count) for low, count in zip(LENGTHS, number, strict=True)}


def length_ranges(lengths: dict[int, int]) -> list[tuple[str, int]]:
    """The histogram for readers: "1", "3-4", "1000 or more"; without empty ends."""
    ranges = [
        (str(low) if high == low + 1 else f"{low}-{high - 1}", lengths[low])
        for low, high in pairwise(lengths)
    ]
    ranges.append((f"{max(lengths)} or more", lengths[max(lengths)]))
    there = [place for place, (_, count) in enumerate(ranges) if count]
    return ranges[there[0] : there[-1] + 1]


def _ceilings(config: DataConfig, counts: Sequence[Counts]) -> Ceilings | None:
    """Known only for the generated log, and only where no filter changed what the process drew."""
    if source_format(config) != "demo" or counts[-1].num_rows != counts[0].num_rows:
        return None
    return demo.ceilings(demo.generate(demo.DemoConfig(seed=config.seed)))


def tell(manifest: Manifest, notify: Notify) -> None:
    for before, after in pairwise(manifest.counts):
        notify(f"{after.step} left {after.num_rows} of {before.num_rows} interactions{_who(after)}")
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
    cold = manifest.leave_one_out["num_cold_test_targets"] / manifest.leave_one_out["num_eval_users"]
    if cold > MANY_COLD:
        notify(
            f"warning: {cold:.0%} of the test targets are items that no training part has: they always lose"
        )


def _who(counts: Counts) -> str:
    return "" if counts.num_users is None else f", {counts.num_users} users and {counts.num_items} items"
