import copy
import dataclasses
import math
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seqsweep.data_pipeline.history import History
from seqsweep.data_pipeline.split import leave_one_out
from seqsweep.data_pipeline.store import SequenceLog
from seqsweep.data_pipeline.views.batches import MaskedItem, NextItem, Task, TrainBatch, TrainBatches
from seqsweep.data_pipeline.views.device import DeviceSequences
from seqsweep.models import MODELS, SequenceModel
from seqsweep.models.losses import LOSSES, SAMPLED_LOSSES
from seqsweep.models.sasrec import SASRec, SASRecConfig
from seqsweep.sweep.engine import training
from seqsweep.sweep.engine.gradients import add_gradients, batch_loss
from seqsweep.sweep.engine.hparams import TrainConfig
from seqsweep.sweep.engine.negatives import NegativeSampler
from seqsweep.sweep.engine.opened_log import open_data
from seqsweep.sweep.engine.state import EpochReport, TrainState, build_model, new_state
from seqsweep.sweep.engine.training import learning_rate, train
from seqsweep.sweep.settings.budgets import EvalSchedule, TrainBudget
from seqsweep.sweep.settings.protocol import ProtocolConfig
from seqsweep.sweep.storage.trial_files import load_checkpoint, save_checkpoint
from tests.logs import log_of, random_log
from tests.models.test_contract import VARIANTS

CPU = torch.device("cpu")
SMALL = SASRecConfig(hidden_dim=16, num_blocks=1, max_len=8, dropout=0.1)


def start(log: SequenceLog, config: TrainConfig, model: SASRecConfig = SMALL) -> TrainState:
    return new_state(build_model(SASRec, model, log.num_items, seed=3, device=CPU), config)


def go(
    state: TrainState,
    log: SequenceLog,
    config: TrainConfig,
    *,
    max_epochs: int,
    patience: int = 50,
    rungs: Sequence[int] = (),
    eval_schedule: EvalSchedule = "sparse",
    micro_batch_size: int | None = None,
) -> list[EpochReport]:
    data = open_data(log, ProtocolConfig(), CPU)
    budget = TrainBudget(patience=patience, eval_schedule=eval_schedule)
    return list(
        train(
            state,
            config,
            budget,
            data.sequences,
            data.valid_ranker,
            max_epochs=max_epochs,
            seed=3,
            rungs=rungs,
            micro_batch_size=micro_batch_size,
        )
    )


def values(reports: list[EpochReport]) -> list[tuple[Any, ...]]:
    return [(r.epoch, r.loss, r.objective, r.valid, r.lr, r.best_epoch, r.last) for r in reports]


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "ce", "temperature": 0.5},
        *({"loss": loss} for loss in SAMPLED_LOSSES),
        *(
            {"loss": loss, "negatives": "batch", "popularity_power": 0.5, "exclude_seen": True}
            for loss in SAMPLED_LOSSES
        ),
        {"loss": "bce", "exclude_seen": True},
        {"loss": "bce", "exclude_seen": True, "popularity_power": 0.5},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_going_on_from_a_checkpoint_is_equal_to_the_bit(settings: dict[str, Any], tmp_path: Path) -> None:
    log = random_log()
    config = TrainConfig(
        num_negatives=4, batch_size=8, window="random", lr_schedule="cosine", warmup_steps=5, **settings
    )
    whole = start(log, config)
    expected = go(whole, log, config, max_epochs=6)
    broken = start(log, config)
    data = open_data(log, ProtocolConfig(), CPU)
    for report in train(
        broken, config, TrainBudget(patience=50), data.sequences, data.valid_ranker,
        max_epochs=6, seed=3,
    ):  # fmt: skip
        if report.epoch == 3:
            break
    path = tmp_path / "trials" / "checkpoint.pt"
    save_checkpoint(path, {"state": broken.state_dict()})
    resumed = start(log, config)
    resumed.load_state_dict(load_checkpoint(path, CPU)["state"])
    go(resumed, log, config, max_epochs=6)
    assert values(resumed.reports) == values(expected)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    for name, tensor in whole.best_weights.items():
        assert torch.equal(tensor, resumed.best_weights[name]), name


def test_equal_seeds_train_equal_models() -> None:
    log, config = random_log(), TrainConfig(batch_size=8)
    states = [start(log, config) for _ in range(2)]
    reports = [values(go(state, log, config, max_epochs=3)) for state in states]
    assert reports[0] == reports[1]


def test_learns_the_ring() -> None:
    log, config = random_log(num_users=200), TrainConfig(lr=1e-2, batch_size=32)
    untrained = go(start(log, config), log, TrainConfig(lr=1e-12), max_epochs=1)
    trained = go(start(log, config), log, config, max_epochs=8)
    assert max(report.objective for report in trained) > 2 * untrained[0].objective
    assert trained[-1].loss < 0.7 * untrained[0].loss


def test_padding_row_stays_zero() -> None:
    log, config = random_log(), TrainConfig(lr=1e-2, weight_decay=0.1)
    state = start(log, config)
    go(state, log, config, max_epochs=2)
    assert not state.model.item_embedding.weight[0].any()


def test_ends_after_patience_epochs_without_a_better_one() -> None:
    log, config = random_log(), TrainConfig(lr=1e-7)
    reports = go(start(log, config), log, config, max_epochs=50, patience=2)
    assert reports[-1].last and reports[-1].epoch - reports[-1].best_epoch == 2
    assert not any(report.last for report in reports[:-1])


def test_when_a_trial_is_validated_does_not_change_how_it_trains() -> None:
    log, config = random_log(), TrainConfig(batch_size=32, window="random", loss="bce", lr_schedule="cosine")
    often, seldom = start(log, config), start(log, config)
    every = go(often, log, config, max_epochs=45, eval_schedule="every", rungs=[3, 41])
    reports = go(seldom, log, config, max_epochs=45, rungs=[3, 41])
    assert [report.epoch for report in every] == list(range(1, 46))
    assert [report.epoch for report in reports] == [*range(3, 41), 41, 42, 44, 45]
    assert seldom.epoch == 45 and [report.last for report in reports] == [False] * 41 + [True]
    for report in reports:
        same = every[report.epoch - 1]
        assert (report.loss, report.objective, report.lr) == (same.loss, same.objective, same.lr)
    for name, tensor in often.model.state_dict().items():
        assert torch.equal(tensor, seldom.model.state_dict()[name]), name
    best = max(reports, key=lambda report: report.objective)
    assert reports[-1].best_epoch == seldom.best.epoch == best.epoch


def test_patience_is_counted_in_epochs_also_where_few_are_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    log, config = random_log(), TrainConfig(batch_size=32)
    falling = np.arange(1.0, 0.0, -0.01)
    rising_until_44 = [*np.linspace(0.1, 0.5, 40), 0.6, 0.7, *falling[50:]]  # the 41st is of epoch 42
    for objectives, rungs, best_epoch, last_epochs in (
        (falling, [], 1, [4, 5, 6]),
        (falling, [7], 7, [10, 11, 12]),  # none is counted before there is one to compare with
        (rising_until_44, [], 44, [46, 48, 49]),
    ):
        given = iter(objectives)
        monkeypatch.setattr(training, "compute_metrics", lambda ranks, given=given: {"ndcg@10": next(given)})
        reports = go(start(log, config), log, config, max_epochs=60, patience=5, rungs=rungs)
        assert reports[-1].best_epoch == best_epoch
        assert [report.epoch for report in reports][-3:] == last_epochs


def test_going_on_between_validations_is_equal_to_the_bit() -> None:
    log, config = random_log(), TrainConfig(batch_size=32)
    whole, broken, resumed = (start(log, config) for _ in range(3))
    expected = go(whole, log, config, max_epochs=48)
    data = open_data(log, ProtocolConfig(), CPU)
    training = train(
        broken, config, TrainBudget(patience=50), data.sequences, data.valid_ranker, max_epochs=48, seed=3
    )
    while next(training).epoch < 44:
        pass
    resumed.load_state_dict(copy.deepcopy(broken.state_dict()))
    assert resumed.epoch == 44 and len(resumed.reports) == 42
    go(resumed, log, config, max_epochs=48)
    assert values(resumed.reports) == values(expected)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_divergence_is_a_floating_point_error() -> None:
    log, config = random_log(), TrainConfig(lr=1e30)
    with pytest.raises(FloatingPointError):
        go(start(log, config), log, config, max_epochs=3)


def test_a_log_without_training_pairs_is_refused() -> None:
    log = log_of([[1, 2, 3], [3, 2, 1]], num_items=3)  # a user with exactly 3 gives no pair
    with pytest.raises(ValueError, match="no user has two training interactions"):
        go(start(log, TrainConfig()), log, TrainConfig(), max_epochs=1)


@pytest.mark.parametrize(
    ("base", "change"),
    [
        *(({}, {"loss": loss}) for loss in SAMPLED_LOSSES),
        *(({"loss": loss}, {"temperature": 0.5}) for loss in LOSSES),
        *(({"loss": loss}, {"num_negatives": 3}) for loss in SAMPLED_LOSSES),
        ({"loss": "bce"}, {"negatives": "batch"}), ({"loss": "bce"}, {"popularity_power": 0.5}),
        ({"loss": "bce", "popularity_power": 0.5}, {"popularity_power": 1.0}),
        ({"loss": "bce"}, {"exclude_seen": True}), ({"loss": "gbce"}, {"gbce_t": 0.1}),
        ({"loss": "bce", "negatives": "batch"}, {"exclude_seen": True}),
        ({"loss": "bce", "popularity_power": 0.5}, {"exclude_seen": True}),
        ({"loss": "bpr_max"}, {"score_penalty": 0.5}), ({"loss": "sampled_softmax"}, {"log_q": False}),
        ({}, {"batch_size": 4}), ({}, {"window": "random"}), ({}, {"lr": 2e-3}), ({}, {"beta2": 0.9}),
        ({}, {"weight_decay": 1.0}), ({}, {"warmup_steps": 3}), ({}, {"lr_schedule": "cosine"}),
    ],
    ids=str,
)  # fmt: skip
def test_every_knob_of_training_changes_something(base: dict[str, Any], change: dict[str, Any]) -> None:
    log = random_log()
    results = []
    for settings in (base, {**base, **change}):
        config = TrainConfig(**{"batch_size": 8, **settings})
        results.append(values(go(start(log, config), log, config, max_epochs=1)))
    assert results[0] != results[1]


def test_the_knobs_of_the_sampled_losses_do_not_touch_cross_entropy() -> None:
    log = random_log()
    others: dict[str, Any] = {
        "num_negatives": 3, "negatives": "batch", "popularity_power": 0.5,
        "gbce_t": 0.1, "score_penalty": 0.5, "log_q": False,
    }  # fmt: skip
    plain, knobs = TrainConfig(batch_size=8), TrainConfig(batch_size=8, **others)
    first, second = (values(go(start(log, config), log, config, max_epochs=1)) for config in (plain, knobs))
    assert first == second


class GivenStates(SequenceModel):
    """Gives the same states whatever the history."""

    def __init__(self, state_BLD: Tensor, item_VD: Tensor) -> None:
        super().__init__(SMALL, len(item_VD) - 1)
        self.state_BLD = state_BLD
        self.item_embedding = nn.Embedding(len(item_VD), 4, _weight=item_VD)

    def encode(self, history: History) -> Tensor:
        return self.state_BLD


def loss_of_given_states(config: TrainConfig, scale: float, *, autocast: bool = False) -> float:
    log = random_log()
    sequences = DeviceSequences(log, CPU, leave_one_out(log.offset_U).train_end_U)
    batch = next(TrainBatches(sequences, max_len=8, batch_size=8, window="last").epoch(1))
    generator = torch.Generator().manual_seed(1)
    state_BLD = scale * torch.randn(*batch.history.item_id_BL.shape, 4, generator=generator)
    model = GivenStates(state_BLD, torch.randn(log.num_items + 1, 4, generator=generator))
    negatives = None if config.loss == "ce" else NegativeSampler(sequences, config).draw(batch, generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = batch_loss(model, batch, config, negatives)
    assert loss.dtype == torch.float32
    return loss.item()


@pytest.mark.parametrize("negatives", ["position", "batch"])
@pytest.mark.parametrize("loss", LOSSES)
def test_temperature_divides_the_scores(loss: str, negatives: Any) -> None:
    config = TrainConfig(loss=loss, num_negatives=3, negatives=negatives)
    warm = config.model_copy(update={"temperature": 2.0})
    assert loss_of_given_states(warm, 2.0) == pytest.approx(loss_of_given_states(config, 1.0))
    assert loss_of_given_states(warm, 1.0) != pytest.approx(loss_of_given_states(config, 1.0))


@pytest.mark.parametrize("negatives", ["position", "batch"])
@pytest.mark.parametrize("loss", SAMPLED_LOSSES)
def test_sampled_losses_stay_in_float32_under_autocast(loss: str, negatives: Any) -> None:
    config = TrainConfig(loss=loss, num_negatives=3, negatives=negatives)
    assert loss_of_given_states(config, 1.0, autocast=True) == loss_of_given_states(config, 1.0)


@pytest.mark.parametrize("loss", SAMPLED_LOSSES)
def test_more_negatives_than_other_items_are_as_many_as_there_are(loss: str) -> None:
    log = log_of([[1, 2, 3, 1, 2]] * 4, num_items=3)
    configs = [TrainConfig(loss=loss, num_negatives=number) for number in (2, 50)]
    first, second = (values(go(start(log, config), log, config, max_epochs=1)) for config in configs)
    assert first == second


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_dim": 8}, {"num_blocks": 2}, {"num_heads": 2}, {"dropout": 0.5}, {"norm": "post"},
        {"norm": "original"}, {"ffn_multiplier": 2}, {"position_std": 0.5}, {"max_len": 4},
    ],
    ids=str,
)  # fmt: skip
def test_every_knob_of_the_model_changes_something(change: dict[str, Any]) -> None:
    log, config = random_log(), TrainConfig(batch_size=8)
    model = SASRecConfig(**{**SMALL.model_dump(), **change})
    first, second = (values(go(start(log, config, m), log, config, max_epochs=1)) for m in (SMALL, model))
    assert first != second


def test_learning_rate_warms_up_and_falls() -> None:
    config = TrainConfig(lr=1.0, warmup_steps=4, lr_schedule="cosine")
    assert [learning_rate(config, step, 14) for step in (0, 3, 4, 9, 14)] == pytest.approx(
        [0.25, 1, 1, 0.5, 0]
    )


@pytest.mark.parametrize("num_shards", [1, 3])
def test_batches_hold_every_pair_once(num_shards: int) -> None:
    log = random_log(num_shards=num_shards)
    split = leave_one_out(log.offset_U)
    batches = TrainBatches(
        DeviceSequences(log, CPU, split.train_end_U), max_len=50, batch_size=7, window="last"
    )
    pairs: list[tuple[int, int]] = []
    for batch in batches.epoch(seed=1):
        inputs = batch.history.item_id_BL.flatten()[batch.place_T]
        pairs += zip(inputs.tolist(), batch.target_id_T.tolist(), strict=True)
        assert (batch.history.item_id_BL > 0).sum(1).tolist() == batch.history.length_B.tolist()
    items = np.concatenate(log.item_chunks())
    expected = [
        (int(items[i]), int(items[i + 1]))
        for user in range(log.num_users)
        for i in range(log.offset_U[user], split.train_end_U[user] - 1)
    ]
    assert sorted(pairs) == sorted(expected)


def test_random_windows_reach_all_of_a_long_history() -> None:
    log = log_of([list(range(1, 41))], num_items=40)
    batches = TrainBatches(
        DeviceSequences(log, CPU, np.array([40])), max_len=5, batch_size=1, window="random"
    )
    starts = {int(batch.history.item_id_BL[0, 0]) for seed in range(400) for batch in batches.epoch(seed)}
    assert starts == set(range(1, 36))


LOSS_SETTINGS: dict[str, dict[str, Any]] = {
    "ce": {"loss": "ce", "temperature": 0.5},
    **{loss: {"loss": loss} for loss in SAMPLED_LOSSES},
    **{f"{loss}-shared": {"loss": loss, "negatives": "batch"} for loss in SAMPLED_LOSSES},
    "bce-unseen": {"loss": "bce", "exclude_seen": True},
    "sampled_softmax-popular": {"loss": "sampled_softmax", "popularity_power": 0.5},
    "bpr_max-popular-unseen-shared": {
        "loss": "bpr_max", "negatives": "batch", "popularity_power": 0.5, "exclude_seen": True,
    },
}  # fmt: skip


def a_batch(model: SequenceModel, sequences: DeviceSequences, size: int) -> TrainBatch:
    task: Task = NextItem()
    if model.masked:
        task = MaskedItem(model.config.mask_probability, model.config.mask_last_share)
    batches = TrainBatches(
        sequences, max_len=8, batch_size=size, window="last", task=task, with_times=model.uses_time
    )
    batch = max(batches.epoch(seed=1), key=lambda batch: len(batch.length_B))
    # Slices of unequal weight and width: a mean of their means, or their places in the batch, would show.
    assert len({int(part.num_targets_B.sum()) for part, _ in batch.slices(4)}) > 1
    return batch


def gradients_of(
    model: SequenceModel,
    batch: TrainBatch,
    config: TrainConfig,
    sampler: NegativeSampler,
    micro_batch_size: int | None,
) -> tuple[float, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    negatives = None if config.loss == "ce" else sampler.draw(batch, generator)
    model.zero_grad()
    total = add_gradients(model, batch, config, negatives, micro_batch_size=micro_batch_size)
    return float(total), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("settings", LOSS_SETTINGS.values(), ids=LOSS_SETTINGS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_the_slices_add_up_to_the_batch(variant: str, settings: dict[str, Any]) -> None:
    name, model_settings = VARIANTS[variant]
    log = random_log(with_times=True)
    model_config = MODELS[name].Config(**{"max_len": 8, **model_settings, "dropout": 0.0})
    model = build_model(MODELS[name], model_config, log.num_items, seed=3, device=CPU).double().train()
    sequences = DeviceSequences(log, CPU, leave_one_out(log.offset_U).train_end_U)
    config = TrainConfig(num_negatives=5, **settings)
    sampler, batch = NegativeSampler(sequences, config), a_batch(model, sequences, size=10)
    total, expected = gradients_of(model, batch, config, sampler, None)
    assert any(gradient.abs().max() > 1e-4 for gradient in expected.values())
    for micro_batch_size in (1, 4):
        other, gradients = gradients_of(model, batch, config, sampler, micro_batch_size)
        assert other == pytest.approx(total, rel=1e-9)
        assert gradients.keys() == expected.keys()
        for parameter, gradient in gradients.items():
            # float32 inside: log q, and the share of a slice is rounded to the loss's type
            torch.testing.assert_close(gradient, expected[parameter], rtol=1e-7, atol=1e-10)


def losses_with(micro_batch_size: int | None, *, loss: str, dropout: float) -> list[float]:
    log, config = random_log(), TrainConfig(loss=loss, num_negatives=4, negatives="batch", batch_size=8)
    state = start(log, config, SMALL.model_copy(update={"dropout": dropout}))
    reports = go(state, log, config, max_epochs=3, micro_batch_size=micro_batch_size)
    return [report.loss for report in reports]


@pytest.mark.parametrize("loss", LOSSES)
def test_training_in_micro_batches_has_the_losses_of_whole_batches(loss: str) -> None:
    whole = losses_with(None, loss=loss, dropout=0.0)
    assert losses_with(3, loss=loss, dropout=0.0) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_micro_batch_as_large_as_the_batch_is_equal_to_the_bit(loss: str) -> None:
    assert losses_with(8, loss=loss, dropout=0.3) == losses_with(None, loss=loss, dropout=0.3)


@pytest.mark.parametrize("settings", LOSS_SETTINGS.values(), ids=LOSS_SETTINGS)
def test_without_micro_batches_gradients_are_those_of_the_loss_to_the_bit(settings: dict[str, Any]) -> None:
    log, config = random_log(), TrainConfig(num_negatives=5, **settings)
    model = build_model(SASRec, SMALL.model_copy(update={"dropout": 0.0}), 25, seed=3, device=CPU).train()
    sequences = DeviceSequences(log, CPU, leave_one_out(log.offset_U).train_end_U)
    sampler = NegativeSampler(sequences, config)
    batch = dataclasses.replace(a_batch(model, sequences, size=10), weight=1.0)
    _, gradients = gradients_of(model, batch, config, sampler, None)
    negatives = None
    if config.loss != "ce":
        negatives = sampler.draw(batch, torch.Generator().manual_seed(1))
    model.zero_grad()
    batch_loss(model, batch, config, negatives).backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.equal(parameter.grad, gradients[name]), name


@pytest.mark.parametrize("batch_size", [1, 4])
def test_each_target_of_an_epoch_counts_the_same(batch_size: int) -> None:
    """However sequences of different lengths are batched, a step's gradients are on average those of all."""
    sequences_of_users = [[1, 2, 3], [4, 5, 6, 7], list(range(1, 12)), list(range(3, 15))]
    log, config = log_of(sequences_of_users, num_items=25), TrainConfig()
    model = build_model(SASRec, SMALL.model_copy(update={"dropout": 0.0}), 25, seed=3, device=CPU).double()
    sequences = DeviceSequences(log, CPU, log.offset_U[1:])

    def epoch(batch_size: int) -> tuple[int, dict[str, Tensor]]:
        model.zero_grad()
        batches = TrainBatches(sequences, max_len=8, batch_size=batch_size, window="last")
        for batch in batches.epoch(1):
            add_gradients(model, batch, config, None)
        return len(batches), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    (_, of_all), (num_batches, gradients) = epoch(4), epoch(batch_size)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient / num_batches, of_all[name])


def test_dropout_differs_between_micro_batches_and_whole_ones() -> None:
    whole = losses_with(None, loss="ce", dropout=0.5)
    assert losses_with(3, loss="ce", dropout=0.5) != pytest.approx(whole, rel=1e-5)


def test_no_more_sequences_at_a_time_than_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    encode = SASRec.encode

    def watched(model: SASRec, history: History) -> Tensor:
        if model.training:
            sizes.append(len(history.length_B))
        return encode(model, history)

    monkeypatch.setattr(SASRec, "encode", watched)
    log, config = random_log(), TrainConfig(batch_size=8)
    largest = []
    for micro_batch_size in (None, 3, 100):
        sizes.clear()
        go(start(log, config), log, config, max_epochs=1, micro_batch_size=micro_batch_size)
        largest.append(max(sizes))
    assert largest[0] > 8, "short sequences, of which there are more in a batch"
    assert largest == [largest[0], math.ceil(largest[0] * 3 / 8), largest[0]]


def test_a_micro_batch_without_a_sequence_is_refused() -> None:
    log, config = random_log(), TrainConfig(batch_size=8)
    with pytest.raises(ValueError, match="must hold 1 sequence or more, got size=0"):
        go(start(log, config), log, config, max_epochs=1, micro_batch_size=0)


class Saved:
    """A tensor that is kept for a backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def test_what_a_slice_keeps_for_its_backward_pass_is_let_go_before_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved: weakref.WeakSet[Saved] = weakref.WeakSet()
    num_kept: list[int] = []
    num_saved: list[int] = []
    encode = SASRec.encode

    def watched(model: SASRec, history: History) -> Tensor:
        num_saved.append(len(saved))
        return encode(model, history)

    def keep(tensor: Tensor) -> Saved:
        kept = Saved(tensor)
        saved.add(kept)
        num_kept.append(len(saved))
        return kept

    monkeypatch.setattr(SASRec, "encode", watched)
    log, config = random_log(), TrainConfig(batch_size=8)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
        go(start(log, config), log, config, max_epochs=1, micro_batch_size=2)
    assert max(num_kept) > 10
    assert len(num_saved) > 4 and set(num_saved) == {0}


def cooled_training(max_epochs: int, patience: int, cooldown: float) -> TrainState:
    log, config = random_log(), TrainConfig(batch_size=8, lr=0.02, cooldown=cooldown)
    state = start(log, config)
    go(state, log, config, max_epochs=max_epochs, patience=patience, eval_schedule="every")
    return state


def test_when_patience_runs_out_the_rate_falls_to_zero_from_the_best_weights() -> None:
    plain, cooled = cooled_training(100, 3, 0.0), cooled_training(100, 3, 0.5)
    assert plain.epoch < 90, "random items: nothing is learned for long"
    num_epochs = max(1, round(0.5 * plain.best.epoch))
    assert cooled.cooldown == (plain.epoch, plain.epoch + num_epochs)
    before, after = cooled.reports[: len(plain.reports)], cooled.reports[len(plain.reports) :]
    assert [r.objective for r in before] == [r.objective for r in plain.reports]
    assert [r.epoch for r in after] == list(range(plain.epoch + 1, plain.epoch + num_epochs + 1))
    assert [r.last for r in cooled.reports] == [False] * (len(cooled.reports) - 1) + [True]
    rates = [r.lr for r in after]
    assert rates == sorted(rates, reverse=True) and 0 < rates[-1] < 0.02 / num_epochs


def test_a_cooldown_ends_with_the_budget_of_epochs() -> None:
    state = cooled_training(6, 100, 0.2)
    assert state.cooldown == (5, 6) and state.epoch == 6 and state.reports[-1].last
    assert [report.lr for report in state.reports[:5]] == [0.02] * 5 and state.reports[5].lr < 0.02


def test_a_cooldown_goes_on_from_its_checkpoint_to_the_bit() -> None:
    whole = cooled_training(100, 3, 0.5)
    assert whole.cooldown is not None
    log, config = random_log(), TrainConfig(batch_size=8, lr=0.02, cooldown=0.5)
    data, budget = open_data(log, ProtocolConfig(), CPU), TrainBudget(patience=3, eval_schedule="every")
    for stop_at in (whole.cooldown[0], whole.cooldown[0] + 1):
        first = start(log, config)
        for report in train(first, config, budget, data.sequences, data.valid_ranker, max_epochs=100, seed=3):
            if report.epoch == stop_at:
                break
        second = start(log, config)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        go(second, log, config, max_epochs=100, patience=3, eval_schedule="every")
        assert values(second.reports) == values(whole.reports)
