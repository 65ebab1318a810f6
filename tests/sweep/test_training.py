from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data_pipeline.batches import TrainBatches
from data_pipeline.device import DeviceSequences
from data_pipeline.history import History
from data_pipeline.split import leave_one_out
from data_pipeline.store import SequenceLog
from models import SequenceModel
from models.losses import LOSSES, SAMPLED_LOSSES
from models.sasrec import SASRec, SASRecConfig
from sweep.checkpoint import load_checkpoint, save_checkpoint
from sweep.evaluation import ProtocolConfig
from sweep.negatives import NegativeSampler
from sweep.training import (
    EpochReport,
    TrainBudget,
    TrainConfig,
    TrainState,
    batch_loss,
    build_model,
    learning_rate,
    new_state,
    train,
)
from sweep.trial import open_data
from tests.logs import log_of, random_log

CPU = torch.device("cpu")
SMALL = SASRecConfig(hidden_dim=16, num_blocks=1, max_len=8, dropout=0.1)


def start(log: SequenceLog, config: TrainConfig, model: SASRecConfig = SMALL) -> TrainState:
    return new_state(build_model(SASRec, model, log.num_items, seed=3, device=CPU), config)


def go(
    state: TrainState, log: SequenceLog, config: TrainConfig, *, max_epochs: int, patience: int = 50
) -> list[EpochReport]:
    data = open_data(log, ProtocolConfig(), CPU)
    budget = TrainBudget(patience=patience)
    return list(
        train(
            state,
            config,
            budget,
            data.sequences,
            data.valid_ranker,
            max_epochs=max_epochs,
            seed=3,
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
        "num_negatives": 3, "negatives": "batch", "popularity_power": 0.5, "exclude_seen": True,
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
    sampler = NegativeSampler(sequences, config)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = batch_loss(model, batch, config, sampler, generator)
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
