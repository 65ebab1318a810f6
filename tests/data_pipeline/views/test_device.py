import numpy as np
import pytest
import torch

from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.ids import MASK_ITEM_ID
from seqsweep.data_pipeline.views.batches import MaskedItem, TrainBatches
from seqsweep.data_pipeline.views.device import DeviceSequences, personal_clocks
from tests.logs import log_of, random_log

CPU = torch.device("cpu")


def test_personal_clocks_look_at_the_training_part_alone() -> None:
    log = log_of(
        [[1, 2, 3, 4, 5], [1, 2, 3], [2, 3, 1, 4]],
        num_items=5,
        times=[[100, 110, 110, 140, 141], [7, 8, 9], [50, 50, 50, 60]],
        num_shards=2,
    )
    train_end_U = log.offset_U[1:] - 2
    origin_U, unit_U = personal_clocks(log, train_end_U)
    assert origin_U.tolist() == [100, 7, 50]
    # 30 and 1 lie in the held-out part. One item; no positive gap: the median of the others
    assert unit_U.tolist() == [10, 10, 10]
    _, unit_U = personal_clocks(log, log.offset_U[:-1] + 1)
    assert unit_U.tolist() == [1, 1, 1]


@pytest.mark.parametrize("num_shards", [1, 3])
def test_times_lie_beside_their_items(num_shards: int) -> None:
    """Every item's time is ten times its id, the next one's likewise; padding repeats the last."""
    sequences = [[1, 2, 3, 4, 5, 6], [3, 4, 5, 6, 7], [2, 3, 4, 6]]
    log = log_of(sequences, 7, num_shards, times=[[10 * i for i in s] for s in sequences])
    device = DeviceSequences(log, CPU, log.offset_U[1:] - 2)
    user_B, length_B = np.array([2, 0]), np.array([1, 4])
    history = device.history(user_B, log.offset_U[user_B], length_B, with_times=True)
    assert history.times is not None
    assert history.item_id_BL.tolist() == [[2, 0, 0, 0], [1, 2, 3, 4]]
    assert history.times.time_BL.tolist() == [[20, 20, 20, 20], [10, 20, 30, 40]]
    assert history.times.next_time_BL.tolist() == [[30, 30, 30, 30], [20, 30, 40, 50]]
    assert history.times.origin_B.tolist() == [20, 10]


def test_a_log_without_times_has_none_to_give() -> None:
    log = random_log()
    device = DeviceSequences(log, CPU, log.offset_U[1:])
    with pytest.raises(DataError, match="no timestamps"):
        device.history(np.array([0]), np.array([0]), np.array([1]), with_times=True)


def test_masked_batches_hide_what_they_ask_for() -> None:
    log = random_log(num_users=300)
    device = DeviceSequences(log, CPU, log.offset_U[1:])
    batches = TrainBatches(
        device, max_len=7, batch_size=16, window="last", task=MaskedItem(probability=0.3, last_share=0.25)
    )
    num_masked = num_real = num_only_last = num_rows = 0
    for batch in batches.epoch(0):
        item_id_BL, length_B = batch.history.item_id_BL, batch.history.length_B
        masked_BL = item_id_BL == MASK_ITEM_ID
        assert masked_BL.any(1).all()
        assert torch.equal(masked_BL.flatten().nonzero()[:, 0], batch.place_T)
        whole = item_id_BL.flatten().index_put((batch.place_T,), batch.target_id_T).view_as(item_id_BL)
        for user, row, length in zip(batch.user_id_B, whole, length_B, strict=True):
            items = log.item_chunks()[0][log.offset_U[user] : log.offset_U[user + 1]]
            assert row[:length].tolist() == items[-length:].tolist()
            assert not row[length:].any()
        last_masked_B = masked_BL[torch.arange(len(length_B)), length_B - 1]
        num_only_last += int((last_masked_B & (masked_BL.sum(1) == 1) & (length_B > 4)).sum())
        num_rows += int((length_B > 4).sum())
        num_masked, num_real = num_masked + int(masked_BL.sum()), num_real + int(length_B.sum())
    # .75 of the sequences mask .3, .25 one item of some 6: near .27; the last alone in .25 and somewhat more
    assert 0.22 < num_masked / num_real < 0.34
    assert 0.2 < num_only_last / num_rows < 0.4
