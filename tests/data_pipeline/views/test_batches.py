"""A batch cut into slices is the same batch. That batches hold what they should is in test_training."""

import pytest
import torch

from seqsweep.data_pipeline.ids import MASK_ITEM_ID, PAD_ITEM_ID
from seqsweep.data_pipeline.split import leave_one_out
from seqsweep.data_pipeline.views.batches import MaskedItem, NextItem, Task, TrainBatch, TrainBatches
from seqsweep.data_pipeline.views.device import DeviceSequences
from tests.logs import log_of, random_log

CPU = torch.device("cpu")
TASKS: dict[str, Task] = {"next": NextItem(), "masked": MaskedItem(0.4, 0.2)}

every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def batches_of(task: Task, *, num_shards: int = 1) -> list[TrainBatch]:
    log = random_log(num_shards=num_shards, with_times=isinstance(task, NextItem))
    batches = TrainBatches(
        DeviceSequences(log, CPU, leave_one_out(log.offset_U).train_end_U),
        max_len=8,
        batch_size=11,
        window="random",
        task=task,
        with_times=isinstance(task, NextItem),
    )
    return list(batches.epoch(seed=2))


@every_task
def test_counts_are_those_of_the_rows(task: Task) -> None:
    for batch in batches_of(task):
        item_id_BL = batch.history.item_id_BL
        assert batch.length_B.tolist() == batch.history.length_B.tolist()
        assert batch.length_B.tolist() == (item_id_BL != PAD_ITEM_ID).sum(1).tolist()
        row_T = batch.place_T // item_id_BL.shape[1]
        assert batch.num_targets_B.tolist() == row_T.bincount(minlength=len(item_id_BL)).tolist()
        assert batch.num_targets_B.min() >= 1


@pytest.mark.parametrize("size", [1, 4, 10, 11, 100])
@pytest.mark.parametrize("num_shards", [1, 2])
@every_task
def test_slices_hold_every_row_and_every_target_once(task: Task, num_shards: int, size: int) -> None:
    for batch in batches_of(task, num_shards=num_shards):
        parts = list(batch.slices(size))
        assert [len(part.length_B) for part, _ in parts[:-1]] == [size] * (len(parts) - 1)
        assert 1 <= len(parts[-1][0].length_B) <= size
        users = torch.cat([part.user_id_B for part, _ in parts])
        assert torch.equal(users, batch.user_id_B)
        targets = torch.cat([part.target_id_T for part, _ in parts])
        assert torch.equal(targets, batch.target_id_T)
        positions = [place for _, cut in parts for place in range(len(targets))[cut]]
        assert positions == list(range(len(targets)))
        for part, cut in parts:
            assert torch.equal(part.target_id_T, batch.target_id_T[cut])


@pytest.mark.parametrize("size", [1, 4])
@every_task
def test_a_slice_is_the_rows_of_the_batch_as_wide_as_its_longest(task: Task, size: int) -> None:
    for batch in batches_of(task):
        whole = batch.history
        for number, (part, positions) in enumerate(batch.slices(size)):
            rows = slice(number * size, (number + 1) * size)
            cut = part.history
            width = int(whole.length_B[rows].max())
            assert torch.equal(cut.item_id_BL, whole.item_id_BL[rows, :width])
            assert torch.equal(cut.length_B, whole.length_B[rows])
            assert (cut.times is None) == (whole.times is None)
            if cut.times is not None and whole.times is not None:
                assert torch.equal(cut.times.time_BL, whole.times.time_BL[rows, :width])
                assert torch.equal(cut.times.next_time_BL, whole.times.next_time_BL[rows, :width])
                assert torch.equal(cut.times.origin_B, whole.times.origin_B[rows])
                assert torch.equal(cut.times.unit_B, whole.times.unit_B[rows])
            # The places lead to the same inputs: row by row, a target's own.
            item_T = cut.item_id_BL.flatten()[part.place_T]
            assert torch.equal(item_T, whole.item_id_BL.flatten()[batch.place_T[positions]])
            row_T = part.place_T // width
            assert part.num_targets_B.tolist() == row_T.bincount(minlength=len(cut.length_B)).tolist()
            if isinstance(task, MaskedItem):
                assert (item_T == MASK_ITEM_ID).all()


def test_slices_by_hand() -> None:
    """Training parts of 2, 3 and 4 items (the last two are held out): 1, 2 and 3 pairs."""
    log = log_of([[1, 2, 9, 9], [3, 4, 5, 9, 9], [5, 6, 7, 8, 9, 9]], num_items=9)
    sequences = DeviceSequences(log, CPU, leave_one_out(log.offset_U).train_end_U)
    (batch,) = TrainBatches(sequences, max_len=8, batch_size=3, window="last").epoch(seed=1)
    assert batch.place_T.tolist() == [0, 3, 4, 6, 7, 8]
    (first, first_positions), (second, second_positions) = batch.slices(2)
    assert first.history.item_id_BL.tolist() == [[1, 0], [3, 4]]
    assert (first.place_T.tolist(), first.target_id_T.tolist()) == ([0, 2, 3], [2, 4, 5])
    assert second.history.item_id_BL.tolist() == [[5, 6, 7]]
    assert (second.place_T.tolist(), second.target_id_T.tolist()) == ([0, 1, 2], [6, 7, 8])
    assert (first_positions, second_positions) == (slice(0, 3), slice(3, 6))


def test_a_slice_without_a_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="must hold 1 sequence or more, got size=0"):
        next(batches_of(NextItem())[0].slices(0))


@every_task
def test_batches_by_targets_hold_about_as_many_each_and_every_user_once(task: Task) -> None:
    lengths = [*range(3, 60), *[4] * 60]
    log = log_of([[1 + place % 9 for place in range(length)] for length in lengths], num_items=9)
    sequences = DeviceSequences(log, CPU, leave_one_out(log.offset_U).train_end_U)
    batches = TrainBatches(sequences, max_len=30, batch_size=8, window="last", task=task)
    one_epoch = list(batches.epoch(seed=1))
    users = torch.cat([batch.user_id_B for batch in one_epoch])
    assert len(set(users.tolist())) == len(users) == sum(length >= 4 for length in lengths)
    assert len(one_epoch) == len(batches)
    if isinstance(task, NextItem):
        num_targets = [len(batch.place_T) for batch in one_epoch]
        assert max(num_targets) - min(num_targets) <= 2 * 30
        assert max(len(batch.length_B) for batch in one_epoch) > 3 * min(len(b.length_B) for b in one_epoch)


def test_all_windows_hold_every_pair_of_a_history_once() -> None:
    lengths = [3, 4, 5, 6, 9, 10, 11, 23]
    log = log_of([list(range(1, length + 1)) for length in lengths], num_items=23)
    sequences = DeviceSequences(log, CPU, leave_one_out(log.offset_U).train_end_U)
    pairs = []
    for batch in TrainBatches(sequences, max_len=4, batch_size=3, window="all").epoch(seed=1):
        width = batch.history.item_id_BL.shape[1]
        assert width <= 4
        user_T = batch.user_id_B[batch.place_T // width]
        item_T = batch.history.item_id_BL.flatten()[batch.place_T]
        assert torch.equal(item_T + 1, batch.target_id_T)
        pairs += list(zip(user_T.tolist(), item_T.tolist(), strict=True))
    trained = [(user, item) for user, length in enumerate(lengths) for item in range(1, length - 2)]
    assert sorted(pairs) == trained
