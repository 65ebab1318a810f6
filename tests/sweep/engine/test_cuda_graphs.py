"""Steps of padded batches, as a GPU would run them; recording itself is looked at where there is a GPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from seqsweep.data_pipeline.views.batches import MaskedItem, NextItem, TrainBatches
from seqsweep.models import MODELS
from seqsweep.models.sasrec import SASRec, SASRecConfig
from seqsweep.sweep.engine.cuda_graphs import GraphedSteps, Replay, StepGraphs, StepInputs, padded
from seqsweep.sweep.engine.gradients import add_gradients, batch_loss
from seqsweep.sweep.engine.hparams import TrainConfig
from seqsweep.sweep.engine.negatives import NegativeSampler
from seqsweep.sweep.engine.opened_log import open_data
from seqsweep.sweep.engine.state import TrainState, build_model, new_state
from seqsweep.sweep.engine.training import train
from seqsweep.sweep.settings.budgets import TrainBudget
from seqsweep.sweep.settings.protocol import ProtocolConfig
from tests.logs import random_log

CPU = torch.device("cpu")
LOSSES = [
    {"loss": "ce"},
    {"loss": "bce"},
    {"loss": "sampled_softmax", "num_negatives": 7, "negatives": "batch", "exclude_seen": True},
    {"loss": "bpr_max", "num_negatives": 3},
]


def parts(
    model_name: str, settings: dict[str, Any]
) -> tuple[TrainState, TrainBatches, NegativeSampler, TrainConfig]:
    data = open_data(random_log(with_times=True), ProtocolConfig(), CPU)
    config = TrainConfig(batch_size=8, **settings)
    model_class: Any = MODELS[model_name]
    model_config = model_class.Config(max_len=9, hidden_dim=8, dropout=0.0)
    model = build_model(model_class, model_config, data.log.num_items, seed=1, device=CPU).double()
    task = MaskedItem(0.3, 0.1) if model.masked else NextItem()
    batches = TrainBatches(
        data.sequences, max_len=9, batch_size=8, window="last", task=task, with_times=model.uses_time
    )
    return new_state(model, config), batches, NegativeSampler(data.sequences, config), config


@pytest.mark.parametrize("settings", LOSSES, ids=lambda settings: settings["loss"])
@pytest.mark.parametrize("model_name", MODELS)
def test_a_padded_batch_gives_the_same_loss_and_gradients(model_name: str, settings: dict[str, Any]) -> None:
    state, batches, sampler, config = parts(model_name, settings)
    num_padded = 0
    for batch in list(batches.epoch(0))[:3]:
        wide, weight_T = padded(batch, config.batch_size, 9 + state.model.masked)
        assert wide.history.item_id_BL.shape[1] in (8, 9 + state.model.masked)
        num_padded += len(wide.target_id_T) - len(batch.target_id_T)
        negatives = None
        if config.loss != "ce":
            drawn = sampler.draw(wide, torch.Generator().manual_seed(3))
            negatives, wide_negatives = drawn.at(slice(len(batch.target_id_T))), drawn
        else:
            wide_negatives = None
        state.optimizer.zero_grad()
        total = add_gradients(state.model, batch, config, negatives)
        expected = {name: p.grad.clone() for name, p in state.model.named_parameters() if p.grad is not None}
        state.optimizer.zero_grad()
        loss = batch_loss(state.model, wide, config, wide_negatives, weight_T.double())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.testing.assert_close(loss / batch.weight * len(batch.target_id_T), total, rtol=1e-6, atol=0)
        for name, parameter in state.model.named_parameters():
            if name in expected:
                torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-6, atol=1e-7)
    assert num_padded > 0


class FakeCapture:
    """Records a function by keeping it: it must find its inputs where they were when it was recorded."""

    def __init__(self) -> None:
        self.recorded = self.started = 0

    def __call__(self, function: Callable[[], None]) -> Replay:
        self.recorded += 1

        def replay() -> None:
            self.started += 1
            function()

        return replay


@pytest.mark.parametrize("model_name", ["sasrec", "tisasrec", "bert4rec", "lrurec"])
@pytest.mark.parametrize("settings", LOSSES[:3], ids=lambda settings: settings["loss"])
def test_recorded_steps_train_like_plain_ones(model_name: str, settings: dict[str, Any]) -> None:
    """Weights after five epochs, each step's loss, and how few records that takes."""
    settings = {**settings, "warmup_steps": 5}
    outcomes = []
    for recording in (True, False):
        state, batches, sampler, config = parts(model_name, settings)
        capture = FakeCapture()
        steps = GraphedSteps(
            state, config, autocast=False, graphs=StepGraphs(capture) if recording else Plain()
        )
        generator = torch.Generator().manual_seed(5)
        losses = []
        for epoch in range(5):
            for number, batch in enumerate(batches.epoch(epoch)):
                for group in state.optimizer.param_groups:
                    group["lr"].fill_(1e-3 * (1 + number))
                losses.append(float(steps.run(batch, sampler, generator)))
        outcomes.append((losses, state.model.state_dict()))
        if recording:
            assert 0 < capture.recorded < capture.started < len(losses)
    assert outcomes[0][0] == outcomes[1][0]
    for name, weight in outcomes[0][1].items():
        assert torch.equal(weight, outcomes[1][1][name]), name


class Plain(StepGraphs):
    def __init__(self) -> None:
        super().__init__(FakeCapture())

    def run(self, inputs: StepInputs, step: Callable[[StepInputs], None]) -> None:
        step(inputs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="records CUDA graphs: needs a GPU")
def test_graphs_on_a_gpu_reach_what_plain_steps_reach() -> None:
    device = torch.device("cuda")
    data = open_data(random_log(), ProtocolConfig(), device)
    config = TrainConfig(batch_size=8, loss="bce")
    reached = []
    for graphs in (True, False):
        model_config = SASRecConfig(max_len=9, hidden_dim=8, dropout=0.0)
        model = build_model(SASRec, model_config, data.log.num_items, seed=1, device=device)
        budget = TrainBudget(cuda_graphs=graphs, autocast=False, patience=20)
        reports = list(
            train(
                new_state(model, config),
                config,
                budget,
                data.sequences,
                data.valid_ranker,
                max_epochs=20,
                seed=1,
            )
        )
        reached.append(reports[-1].loss)
    assert reached[0] == pytest.approx(reached[1], rel=0.1)
