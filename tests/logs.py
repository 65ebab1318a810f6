"""Small prepared logs for tests, without a file."""

import numpy as np
import pyarrow as pa

from seqsweep.data_pipeline.schema import SCHEMA_VERSION, Manifest, Neighbours, Shard
from seqsweep.data_pipeline.store import SequenceLog


def log_of(
    sequences: list[list[int]], num_items: int, num_shards: int = 1, times: list[list[int]] | None = None
) -> SequenceLog:
    """Users' item ids (and times in seconds) as they are given, spread over shards."""
    repeats = sum(len(sequence) - len(set(sequence)) for sequence in sequences)
    total = sum(map(len, sequences))
    tables, shards, first = [], [], 0
    for part in np.array_split(np.arange(len(sequences)), num_shards):
        chosen = [sequences[user] for user in part]
        columns = {
            "user_id": pa.array(part.astype(np.int32)),
            "item_id": pa.array(chosen, pa.list_(pa.int32())),
        }
        if times is not None:
            columns["timestamp"] = pa.array([times[user] for user in part], pa.list_(pa.int64()))
        tables.append(pa.table(columns))
        shards.append(
            Shard(
                name=f"sequences-{first:05d}.arrow",
                size=1,
                sha256="",
                first_user=first,
                num_users=len(part),
                num_interactions=sum(map(len, chosen)),
            )
        )
        first += len(part)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        fingerprint="f" * 64,
        name="test",
        origin="test",
        settings={},
        inputs=(),
        counts=(),
        num_users=len(sequences),
        num_items=num_items,
        num_interactions=total,
        has_timestamps=times is not None,
        time_unit=None if times is None else "s",
        time_range=None,
        tie_order=None,
        neighbours=Neighbours(num_repeats=repeats),
        lengths={},
        leave_one_out={},
        shards=tuple(shards),
        tables=(),
    )
    return SequenceLog(manifest, tuple(tables))


def random_log(
    num_users: int = 40, num_items: int = 25, num_shards: int = 1, seed: int = 0, *, with_times: bool = False
) -> SequenceLog:
    """Every user walks around a ring of items, with some noise: there is something to learn."""
    generator = np.random.default_rng(seed)
    sequences, times = [], []
    for _ in range(num_users):
        start, length = generator.integers(num_items), generator.integers(1, 15)
        walk = (start + np.arange(length)) % num_items
        noisy = np.where(generator.random(length) < 0.2, generator.permutation(num_items)[:length], walk)
        sequences.append([int(item) + 1 for item in dict.fromkeys(noisy.tolist())])
        gaps = np.random.default_rng(len(sequences)).integers(0, 5000, len(sequences[-1]))
        times.append([int(time) for time in 1_000_000 + gaps.cumsum()])
    return log_of(sequences, num_items, num_shards, times if with_times else None)
