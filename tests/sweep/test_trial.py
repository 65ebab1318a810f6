"""The border to Ray: shards come out of the object store as they lie there."""

import numpy as np
import ray

from data_pipeline.store import SequenceLog
from tests.logs import random_log


def test_trials_map_the_shards_without_a_copy(ray_address: str) -> None:
    log = random_log(num_shards=2)
    references = [ray.put(shard) for shard in log.shards]
    first, second = (
        SequenceLog(log.manifest, tuple(ray.get(list(references)))).item_chunks() for _ in range(2)
    )
    for one, other, original in zip(first, second, log.item_chunks(), strict=True):
        np.testing.assert_array_equal(one, original)
        assert not one.flags.writeable  # it is the store's memory
        assert one.ctypes.data == other.ctypes.data  # and the same each time
