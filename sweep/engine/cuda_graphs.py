"""Training steps as CUDA graphs: a small model's step is some hundred kernels, and launching them one by one
takes longer than running them.

A graph is a step of fixed shapes that is recorded once and then started as a whole. So batches are padded to
a few shapes. Graphs belong to one training, whose weights they write to; recording one costs about as much as
a step, so that no cache has to outlive a trial (torch.compile would take tens of seconds for each of a
search's widths and depths).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from seqsweep.data_pipeline.views.batches import TrainBatch
from seqsweep.models.losses import Negatives
from seqsweep.sweep.engine.gradients import batch_loss
from seqsweep.sweep.engine.hparams import TrainConfig
from seqsweep.sweep.engine.negatives import NegativeSampler
from seqsweep.sweep.engine.state import TrainState

LENGTH_STEP = 8  # batches are padded to a multiple of it
TARGET_STEPS = 16  # and have that many different numbers of targets

Replay = Callable[[], None]


@dataclass(frozen=True)
class StepInputs:
    """What a step reads, in memory that a graph can always find it in."""

    batch: TrainBatch
    weight_T: Tensor  # of each position in the loss; 0 where it is padding
    negatives: Negatives | None

    def tensors(self) -> Iterator[Tensor]:
        history = self.batch.history
        yield from (history.item_id_BL, history.length_B)
        if history.times is not None:
            yield from (getattr(history.times, field.name) for field in fields(history.times))
        yield from (self.batch.user_id_B, self.batch.place_T, self.batch.target_id_T, self.weight_T)
        if self.negatives is not None:
            yield from (self.negatives.item_id, self.negatives.masked_TN, self.negatives.log_q_TN)

    def cloned(self) -> StepInputs:
        history, negatives = self.batch.history, self.negatives
        times = history.times
        if times is not None:
            times = replace(times, **{f.name: getattr(times, f.name).clone() for f in fields(times)})
        batch = replace(
            self.batch,
            history=replace(
                history,
                item_id_BL=history.item_id_BL.clone(),
                length_B=history.length_B.clone(),
                times=times,
            ),
            user_id_B=self.batch.user_id_B.clone(),
            place_T=self.batch.place_T.clone(),
            target_id_T=self.batch.target_id_T.clone(),
        )
        if negatives is not None:
            negatives = replace(
                negatives,
                item_id=negatives.item_id.clone(),
                masked_TN=negatives.masked_TN.clone(),
                log_q_TN=negatives.log_q_TN.contiguous().clone(),
            )
        return StepInputs(batch, self.weight_T.clone(), negatives)

    @property
    def key(self) -> tuple[torch.Size, ...]:
        return tuple(tensor.shape for tensor in self.tensors())


class StepGraphs:
    """Runs steps: the first of a shape as it is, so that libraries and optimizer set themselves up. The
    second is recorded, and from then on the record is started.

    `capture(function)` records what `function` launches and gives what starts it.
    """

    def __init__(self, capture: Callable[[Callable[[], None]], Replay] | None = None) -> None:
        self._capture = capture or _CudaCapture()
        self._recorded: dict[tuple[torch.Size, ...], tuple[StepInputs, Replay] | None] = {}

    def run(self, inputs: StepInputs, step: Callable[[StepInputs], None]) -> None:
        """`step`, always the same one, does a whole step on the inputs it is given, without a look at their
        values and without waiting for the device."""
        key = inputs.key
        if key not in self._recorded:
            self._recorded[key] = None
            with _side_stream(inputs.weight_T.device):
                step(inputs)
            return
        recorded = self._recorded[key]
        if recorded is None:
            own = inputs.cloned()
            recorded = own, self._capture(lambda: step(own))
            self._recorded[key] = recorded
        own, replay = recorded
        for mine, given in zip(own.tensors(), inputs.tensors(), strict=True):
            mine.copy_(given)
        replay()


def padded(batch: TrainBatch, batch_size: int, max_width: int) -> tuple[TrainBatch, Tensor]:
    """The batch at one of a few shapes, and the weight of each position in the loss, (T,).

    `max_width` is that of the longest batch that there can be.

    Padded positions stand at the first place, ask for the first item and weigh nothing. The last batch of an
    epoch, which has fewer sequences, is a shape of its own.
    """
    num_targets = len(batch.target_id_T)
    width = min(max_width, -(-batch.history.item_id_BL.shape[1] // LENGTH_STEP) * LENGTH_STEP)
    step = -(-batch_size * width // TARGET_STEPS)
    whole = -(-num_targets // step) * step
    weight_T = batch.place_T.new_zeros(whole, dtype=torch.float32)
    weight_T[:num_targets] = batch.weight / num_targets
    return batch.padded(width, whole), weight_T


class _CudaCapture:
    """All graphs of a training take turns in one pool of memory, as only one of them runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], None]) -> Replay:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            function()
        return graph.replay


@contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    """Where CUDA wants what comes before a capture to have run."""
    if device.type != "cuda":
        yield
        return
    current, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(current)
    with torch.cuda.stream(side):
        yield
    current.wait_stream(side)


class GraphedSteps:
    """Whole steps, of batches padded to a few shapes, by `StepGraphs`.

    A step is that of `add_gradients` up to rounding; negatives and dropout of padded positions use up random
    numbers, so that a training with graphs is another one than without.
    """

    def __init__(
        self, state: TrainState, config: TrainConfig, *, autocast: bool, graphs: StepGraphs | None = None
    ) -> None:
        self._state = state
        self._config = config
        self._autocast = autocast
        self._graphs = graphs or StepGraphs()
        self._max_width = state.model.config.max_len + state.model.masked
        self._loss = torch.zeros((), device=state.model.item_embedding.weight.device)
        for group in state.optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=self._loss.device)
            group["capturable"] = self._loss.device.type == "cuda"

    def run(self, batch: TrainBatch, sampler: NegativeSampler, generator: torch.Generator) -> Tensor:
        """Gives the sum of the loss over the batch's targets, a scalar that the next step writes over."""
        padded_batch, weight_T = padded(batch, self._config.batch_size, self._max_width)
        negatives = None if self._config.loss == "ce" else sampler.draw(padded_batch, generator)
        self._graphs.run(StepInputs(padded_batch, weight_T, negatives), self._step)
        return self._loss

    def _step(self, inputs: StepInputs) -> None:
        state, device_type = self._state, self._loss.device.type
        state.optimizer.zero_grad(set_to_none=True)
        # What autocast has cached is not there any more when a graph runs again.
        with torch.autocast(device_type, torch.bfloat16, enabled=self._autocast, cache_enabled=False):
            loss = batch_loss(state.model, inputs.batch, self._config, inputs.negatives, inputs.weight_T)
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        self._loss.copy_(loss.detach() / inputs.weight_T[0])
