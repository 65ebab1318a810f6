"""A log of any size, for the benchmarks that ask how cost grows: popular and rare items, nothing to learn."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.preparing.prepare import prepare

POPULARITY_POWER = 0.9  # of the rank


def prepared_log(folder: Path, num_users: int, num_items: int, length: int) -> Path:
    """Folder of a prepared log in which every user has `length` interactions and every item occurs.

    To be called in a process of its own where memory is measured. Raises ValueError where there are fewer
    interactions than items.
    """
    num_rows = num_users * length
    if num_rows < num_items:
        raise ValueError(
            "every item must occur, so num_users * length >= num_items must hold, "
            f"got num_users={num_users}, length={length} and num_items={num_items}"
        )
    generator = np.random.default_rng(0)
    cumulative = np.cumsum(np.arange(1.0, num_items + 1) ** -POPULARITY_POWER)
    drawn = np.searchsorted(cumulative, generator.random(num_rows - num_items) * cumulative[-1])
    item = generator.permutation(np.concatenate([np.arange(num_items), drawn]))
    table = pa.table(
        {
            "user": pa.array(np.repeat(np.arange(1, num_users + 1), length)),
            "item": pa.array(item + 1),
            "timestamp": pa.array(1_600_000_000 + 60 * np.arange(num_rows)),
        }
    )
    path = folder / f"{num_users}-{num_items}-{length}.parquet"
    pq.write_table(table, path)
    return prepare(DataConfig(path=str(path)), folder / "cache")
