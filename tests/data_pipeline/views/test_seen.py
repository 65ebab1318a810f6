import numpy as np
import pytest
import torch

from seqsweep.data_pipeline.split import leave_one_out
from seqsweep.data_pipeline.views import seen
from seqsweep.data_pipeline.views.device import DeviceSequences
from seqsweep.data_pipeline.views.seen import count_items, seen_keys
from tests.logs import log_of, random_log

CPU = torch.device("cpu")


def test_the_training_part_alone_is_counted() -> None:
    log = log_of([[1, 2, 1, 5], [4, 2], [], [3, 5, 5, 5, 4]], num_items=6)
    sequences = DeviceSequences(log, CPU, np.array([3, 5, 6, 9]))  # without 5; without 2; none; without 5, 4
    assert count_items(sequences).tolist() == [2, 1, 1, 1, 2, 0]
    # user * 6 + item - 1; item 1 of the first user and item 5 of the last come twice
    assert seen_keys(sequences).tolist() == [0, 1, 9, 20, 22]


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("interactions_per_chunk", [1, 7, 10_000])
def test_equals_the_naive_ones_in_any_chunks(
    num_shards: int, interactions_per_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen, "INTERACTIONS_PER_CHUNK", interactions_per_chunk)
    log = random_log(num_shards=num_shards)
    sequences = DeviceSequences(log, CPU, leave_one_out(log.offset_U).train_end_U)
    item_id = np.concatenate(log.item_chunks())
    pairs = [
        (user, int(item))
        for user in range(log.num_users)
        for item in item_id[log.offset_U[user] : sequences.train_end_U[user]]
    ]
    assert count_items(sequences).tolist() == [
        sum(item == one for _, item in pairs) for one in range(1, log.num_items + 1)
    ]
    assert seen_keys(sequences).tolist() == sorted({user * log.num_items + item - 1 for user, item in pairs})


def test_without_users_nothing_is_seen() -> None:
    sequences = DeviceSequences(log_of([], num_items=2), CPU, np.zeros(0, np.int64))
    assert count_items(sequences).tolist() == [0, 0]
    assert seen_keys(sequences).tolist() == []
