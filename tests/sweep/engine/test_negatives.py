import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seqsweep.data_pipeline.split import leave_one_out
from seqsweep.data_pipeline.store import SequenceLog
from seqsweep.data_pipeline.views.batches import MaskedItem, NextItem, Task, TrainBatch, TrainBatches
from seqsweep.data_pipeline.views.device import DeviceSequences
from seqsweep.models.losses import (
    SAMPLED_LOSSES,
    LossSettings,
    Negatives,
    NegativeScores,
    sampled,
    sampled_softmax,
)
from seqsweep.sweep.engine.negatives import NegativeSampler, NegativeSettings
from tests.logs import log_of, random_log

CPU = torch.device("cpu")
NEXT = NextItem()


def sequences_of(log: SequenceLog) -> DeviceSequences:
    return DeviceSequences(log, CPU, leave_one_out(log.offset_U).train_end_U)


def first_batch(sequences: DeviceSequences, task: Task = NEXT, max_len: int = 50) -> TrainBatch:
    batches = TrainBatches(sequences, max_len=max_len, batch_size=100, window="last", task=task)
    return next(batches.epoch(seed=1))


def user_of_each_position(batch: TrainBatch) -> list[int]:
    width = batch.history.item_id_BL.shape[1]
    return [int(batch.user_id_B[place // width]) for place in batch.place_T.tolist()]


def training_items(log: SequenceLog) -> list[set[int]]:
    end_U = leave_one_out(log.offset_U).train_end_U
    item_id = np.concatenate(log.item_chunks())
    return [set(item_id[log.offset_U[user] : end_U[user]].tolist()) for user in range(log.num_users)]


def small_log(num_users: int, num_items: int, num_shards: int = 1) -> SequenceLog:
    """Few items, many of them seen several times; the last one by nobody."""
    generator = np.random.default_rng(4)
    sequences = [
        generator.integers(1, num_items, generator.integers(2, 2 * num_items)).tolist()
        for _ in range(num_users)
    ]
    return log_of(sequences, num_items, num_shards)


def draw(sequences: DeviceSequences, batch: TrainBatch, seed: int = 1, **settings: Any) -> Negatives:
    sampler = NegativeSampler(sequences, NegativeSettings(**settings))
    return sampler.draw(batch, torch.Generator().manual_seed(seed))


def chi_square(item_id: Tensor, expected_V: list[float]) -> float:
    """Of the draws against the expected shares of items 1, 2, ...; items without a share must not occur."""
    observed_V = np.bincount(item_id.flatten().numpy() - 1, minlength=len(expected_V))
    share_V = np.array(expected_V)
    assert not observed_V[share_V == 0].any()
    count_V = observed_V.sum() * share_V[share_V > 0]
    return float(((observed_V[share_V > 0] - count_V) ** 2 / count_V).sum())


# Training counts 4, 2, 1, 1 and 0 of items 1 to 5: the last two of each user are held out.
COUNTED = [[1, 2, 3, 1, 5, 5], [1, 4, 1, 2, 5, 5]]


@pytest.mark.parametrize("negatives", ["position", "batch"])
@pytest.mark.parametrize(
    ("power", "weight_V"), [(0.0, [1, 1, 1, 1, 1]), (0.5, [2, 2**0.5, 1, 1, 0]), (1.0, [4, 2, 1, 1, 0])]
)
def test_frequencies_are_the_stated_probabilities(
    negatives: str, power: float, weight_V: list[float]
) -> None:
    sequences = sequences_of(log_of(COUNTED, num_items=5))
    batch = first_batch(sequences)
    share_V = [weight / sum(weight_V) for weight in weight_V]
    sampler = NegativeSampler(
        sequences, NegativeSettings(negatives=negatives, num_negatives=4, popularity_power=power)
    )
    generator = torch.Generator().manual_seed(1)
    drawn = [sampler.draw(batch, generator) for _ in range(1500)]
    item_id = torch.stack([negatives.item_id for negatives in drawn])
    assert chi_square(item_id, share_V) < 18.5  # .001 of 4 degrees of freedom
    log_q_V = torch.tensor(share_V).log()
    for one in drawn[:10]:
        expected_TN = log_q_V[one.item_id - 1].expand(one.masked_TN.shape)
        torch.testing.assert_close(one.log_q_TN, expected_TN)
        assert one.masked_TN.equal(one.item_id == batch.target_id_T[:, None])


@pytest.mark.parametrize(("share", "item"), [(0.0, 2), (0.5, 4), (1 - 2**-53, 4)])
@pytest.mark.parametrize("power", [0.1, 0.3, 1.0])
def test_the_ends_of_the_table_are_items_with_a_count(
    share: float, item: int, power: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = sequences_of(log_of([[2, 4, 4, 2, 1, 5]], num_items=5))
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, share, dtype=torch.float64))
    negatives = draw(sequences, first_batch(sequences), popularity_power=power)
    assert negatives.item_id.flatten().tolist() == [item] * 3


def test_a_large_catalogue_is_drawn_from_to_its_ends() -> None:
    # More items than torch.multinomial takes (2**24), all but three of them without a training count.
    num_items = 2**24 + 5
    sequences = sequences_of(log_of([[num_items, 1, 7, 1, 1]] * 2, num_items))
    negatives = draw(
        sequences, first_batch(sequences), negatives="batch", num_negatives=3000, popularity_power=1.0
    )
    counts = Counter(negatives.item_id.tolist())
    assert set(counts) == {1, 7, num_items}
    assert all(abs(count - 1000) < 100 for count in counts.values())


SEEN_SETTINGS = [
    {"exclude_seen": True, "negatives": negatives, "popularity_power": power}
    for negatives in ("position", "batch")
    for power in (0.0, 0.7)
]


@pytest.mark.parametrize("task", [NEXT, MaskedItem(0.3, 0.5)], ids=["next", "masked"])
@pytest.mark.parametrize("settings", SEEN_SETTINGS, ids=str)
def test_seen_items_are_excluded_exactly(settings: dict[str, Any], task: Task) -> None:
    log = small_log(num_users=12, num_items=9, num_shards=2)
    sequences, seen_U = sequences_of(log), training_items(log)
    batch = first_batch(sequences, task, max_len=4)  # items before the window are excluded too
    user_T = user_of_each_position(batch)
    sampler = NegativeSampler(sequences, NegativeSettings(num_negatives=8, **settings))
    generator = torch.Generator().manual_seed(5)
    used: list[set[int]] = [set() for _ in user_T]
    for _ in range(150):
        negatives = sampler.draw(batch, generator)
        item_id_TN = negatives.item_id.expand(negatives.masked_TN.shape)
        for row in range(len(user_T)):
            used[row].update(item_id_TN[row][~negatives.masked_TN[row]].tolist())
        if settings["negatives"] == "position" and settings["popularity_power"] == 0:
            assert not negatives.masked_TN.any()  # drawn among the unseen
    possible = set(range(1, 10)) if settings["popularity_power"] == 0 else set().union(*seen_U)
    for row, user in enumerate(user_T):
        assert used[row] == possible - seen_U[user]


def test_unseen_items_are_uniform_and_their_probability_is_known() -> None:
    sequences = sequences_of(log_of([[3, 1, 3, 6, 2, 2], [5, 5, 4, 5, 1, 1]], num_items=8))
    batch = first_batch(sequences)
    sampler = NegativeSampler(sequences, NegativeSettings(num_negatives=7, exclude_seen=True))
    generator = torch.Generator().manual_seed(1)
    drawn = [sampler.draw(batch, generator) for _ in range(800)]
    item_id_TN = torch.cat([negatives.item_id for negatives in drawn], dim=1)
    user_T = torch.tensor(user_of_each_position(batch))
    # 2 of the first user and 1 of the second are held out, and may be drawn
    for user, unseen in enumerate([[2, 4, 5, 7, 8], [1, 2, 3, 6, 7, 8]]):
        share_V = [(item in unseen) / len(unseen) for item in range(1, 9)]
        assert chi_square(item_id_TN[user_T == user], share_V) < 20.5  # .001 of 5 degrees of freedom
        log_q_TN = drawn[0].log_q_TN[user_T == user]
        torch.testing.assert_close(log_q_TN, torch.full((3, 7), -math.log(len(unseen))))


@pytest.mark.parametrize("settings", SEEN_SETTINGS, ids=str)
@pytest.mark.parametrize("loss", SAMPLED_LOSSES)
def test_a_user_who_has_seen_everything_has_no_negatives(loss: str, settings: dict[str, Any]) -> None:
    sequences = sequences_of(log_of([[2, 1, 3, 1, 1], [1, 3, 1, 2, 2]], num_items=3))
    batch = first_batch(sequences)
    state_TD = torch.ones(len(batch.target_id_T), 4, requires_grad=True)
    item_VD = torch.ones(4, 4, requires_grad=True)
    negatives = draw(sequences, batch, num_negatives=2, **settings)
    assert int(negatives.item_id.min()) >= 1 and int(negatives.item_id.max()) <= 3
    assert negatives.masked_TN[torch.tensor(user_of_each_position(batch)) == 0].all()
    value = sampled(loss, state_TD, item_VD, batch.target_id_T, negatives, LossSettings())
    for gradient in torch.autograd.grad(value, (state_TD, item_VD)):
        assert torch.isfinite(gradient).all()
    assert torch.isfinite(value)


@pytest.mark.parametrize("settings", [*SEEN_SETTINGS, {"negatives": "batch"}, {}], ids=str)
def test_catalogues_of_one_and_two_items(settings: dict[str, Any]) -> None:
    one = sequences_of(log_of([[1, 1, 1, 1]], num_items=1))
    negatives = draw(one, first_batch(one), num_negatives=5, **settings)
    assert negatives.masked_TN.shape == (1, 1) and negatives.masked_TN.all()
    two = sequences_of(log_of([[2, 2, 2, 1], [2, 1, 1, 2]], num_items=2))
    for seed in range(20):
        negatives = draw(two, first_batch(two), seed, num_negatives=5, **settings)
        assert negatives.masked_TN.shape[1] == 1
        item_id_TN = negatives.item_id.expand(negatives.masked_TN.shape)
        assert not (item_id_TN == first_batch(two).target_id_T[:, None])[~negatives.masked_TN].any()


@pytest.mark.parametrize("settings", [*SEEN_SETTINGS, {"negatives": "batch"}, {}], ids=str)
def test_draws_come_from_the_generator_alone(settings: dict[str, Any]) -> None:
    sequences = sequences_of(random_log())
    batch = first_batch(sequences)
    torch.manual_seed(1)
    first = draw(sequences, batch, seed=7, num_negatives=6, **settings)
    torch.manual_seed(2)
    again = draw(sequences, batch, seed=7, num_negatives=6, **settings)
    other = draw(sequences, batch, seed=8, num_negatives=6, **settings)
    assert first.item_id.equal(again.item_id) and first.masked_TN.equal(again.masked_TN)
    assert not first.item_id.equal(other.item_id)


@pytest.mark.parametrize("power", [0.0, 0.5])
@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize("negatives", ["position", "batch"])
def test_corrected_softmax_of_many_draws_is_cross_entropy_over_all_possible_items(
    power: float, exclude_seen: bool, negatives: Any
) -> None:
    log = small_log(num_users=6, num_items=9)
    sequences, seen_U = sequences_of(log), training_items(log)
    batch = first_batch(sequences)
    settings = NegativeSettings(
        num_negatives=8, negatives=negatives, popularity_power=power, exclude_seen=exclude_seen
    )
    sampler, generator = NegativeSampler(sequences, settings), torch.Generator().manual_seed(9)
    drawn = [sampler.draw(batch, generator) for _ in range(3000)]
    item_id_TN = torch.cat([one.item_id.expand(one.masked_TN.shape) for one in drawn], dim=1)
    score_V = torch.randn(10, generator=torch.Generator().manual_seed(3))
    scores = NegativeScores(
        score_V[batch.target_id_T],
        score_V[item_id_TN],
        torch.cat([one.masked_TN for one in drawn], dim=1),
        torch.cat([one.log_q_TN for one in drawn], dim=1),
        9,
    )
    loss_T = sampled_softmax(scores, LossSettings()).tolist()
    possible = set(range(1, 10)) if power == 0 else set().union(*seen_U)
    for row, (user, target) in enumerate(
        zip(user_of_each_position(batch), batch.target_id_T.tolist(), strict=True)
    ):
        others = possible - {target} - (seen_U[user] if exclude_seen else set())
        expected = torch.logsumexp(score_V[[target, *others]], 0) - score_V[target]
        assert loss_T[row] == pytest.approx(float(expected), abs=0.1)  # deviates by some .03


def test_what_cross_entropy_excludes_is_what_each_targets_user_has_seen() -> None:
    log = random_log()
    sequences = DeviceSequences(log, CPU, leave_one_out(log.offset_U).train_end_U)
    batches = TrainBatches(sequences, max_len=4, batch_size=5, window="last")
    assert NegativeSampler(sequences, NegativeSettings()).excluded(next(batches.epoch(1))) is None
    sampler = NegativeSampler(sequences, NegativeSettings(exclude_seen=True))
    for batch in batches.epoch(1):
        excluded = sampler.excluded(batch)
        assert excluded is not None
        user_id_T = batch.user_id_B[batch.place_T // batch.history.item_id_BL.shape[1]]
        for user, begin, count in zip(
            user_id_T.tolist(), excluded.begin_T.tolist(), excluded.count_T.tolist(), strict=True
        ):
            own = slice(int(log.offset_U[user]), int(sequences.train_end_U[user]))
            items = sequences.items(torch.arange(own.start, own.stop))
            columns = excluded.column_S[begin : begin + count]
            assert columns.tolist() == sorted({int(item) - 1 for item in items})
