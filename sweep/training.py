"""The training engine: `train()` yields a report a validated epoch and knows no Ray.

Shapes: B batch, L length, D width, V items + padding, T positions with a target, N negatives.

Every random stream of an epoch is derived from (seed, name, epoch). So a checkpoint holds no generator
states, and training that goes on from one is equal to the bit to training that was never interrupted (on the
same device, with the same number of threads; on a GPU models that use time differ by rounding).
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from torch import Tensor

from seqsweep.data_pipeline.batches import MaskedItem, NextItem, Task, TrainBatch, TrainBatches
from seqsweep.data_pipeline.device import DeviceSequences
from seqsweep.models import SequenceModel
from seqsweep.models.losses import LOSSES, Excluded, LossSettings, Negatives, ce, sampled
from seqsweep.results.metrics import METRICS, compute_metrics
from seqsweep.sweep.evaluation import ModelScorer, Ranker
from seqsweep.sweep.graphs import StepGraphs, StepInputs, padded
from seqsweep.sweep.host import flush_denormals, keep_freed_memory
from seqsweep.sweep.negatives import NegativeSampler, NegativeSettings
from seqsweep.sweep.schedule import EvalSchedule, next_evaluation
from seqsweep.sweep.seeds import derive_seed
from seqsweep.sweep.table_gradient import TableGradient
from seqsweep.sweep.workers import ALONE, Workers

# What a target stands against: items that were drawn, or all but some excluded ones.
Others = Negatives | Excluded | None

MAX_LOGITS_CPU = 2**20  # scores at a time under full cross-entropy: 4 MiB, in cache
MAX_LOGITS_GPU = 2**27


class TrainConfig(LossSettings, NegativeSettings):
    """How a model is trained. Defaults are the references' where they agree, else the best measured."""

    loss: Literal[LOSSES] = "ce"  # type: ignore[valid-type]
    temperature: PositiveFloat = 1.0  # scores are divided by it in every loss
    batch_size: PositiveInt = 128  # sequences
    batch_by: Literal["targets", "sequences"] = "targets"
    window: Literal["last", "random", "all"] = "last"
    lr: PositiveFloat = 1e-3
    beta2: float = Field(default=0.98, ge=0, lt=1)  # of Adam; .98 in SASRec's code
    weight_decay: NonNegativeFloat = 0.0  # decoupled
    warmup_steps: NonNegativeInt = 0
    lr_schedule: Literal["constant", "cosine"] = "constant"  # cosine falls to 0 at max_epochs
    cooldown: float = Field(default=0.0, ge=0, le=0.5)  # of a constant rate, in shares of the epochs before


class TrainBudget(BaseModel):
    """What a trial is judged by and when it gives up: equal for all trials of a study."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patience: PositiveInt = 10  # epochs without a better objective after which training ends
    objective: Literal[tuple(METRICS)] = "ndcg@10"  # type: ignore[valid-type]  # of validation; larger is better
    autocast: bool = True  # bfloat16 on a GPU; a CPU always trains in float32
    cuda_graphs: bool = False  # see sweep.graphs; not measured yet, so not the default
    eval_schedule: EvalSchedule = "sparse"  # when validation is due, beside rungs and the last epoch


@dataclass(frozen=True)
class EpochReport:
    epoch: int  # from 1
    loss: float  # mean a target, of this epoch alone
    objective: float
    valid: dict[str, float]
    lr: float  # at the epoch's end
    best_epoch: int
    seconds: float  # of training alone, since the report before
    eval_seconds: float
    last: bool  # training ends here


@dataclass
class TrainState:
    """All that training needs to go on after an epoch, and the weights of the best one."""

    model: SequenceModel
    optimizer: torch.optim.Optimizer
    reports: list[EpochReport] = field(default_factory=list)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    cooldown: tuple[int, int] | None = None  # the epoch after which it began, and its last

    @property
    def best(self) -> EpochReport:
        return max(self.reports, key=lambda report: (report.objective, -report.epoch))

    @property
    def epoch(self) -> int:
        """Epochs trained."""
        return self.reports[-1].epoch if self.reports else 0

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def keep_weights(self) -> None:
        """As the best so far; in the place of those before, so that there are never two copies."""
        for name, weight in self.model.state_dict().items():
            if name in self.best_weights:
                self.best_weights[name].copy_(weight)
            else:
                self.best_weights[name] = weight.detach().clone()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only: loads with `weights_only=True`."""
        return {
            "weights": self.model.state_dict(),
            "best_weights": self.best_weights,
            "optimizer": self.optimizer.state_dict(),
            "reports": [vars(report) for report in self.reports],
            "cooldown": self.cooldown,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_weights = state["best_weights"]
        self.reports = [EpochReport(**report) for report in state["reports"]]
        begun = state.get("cooldown")
        self.cooldown = None if begun is None else (begun[0], begun[1])


def new_state(model: SequenceModel, config: TrainConfig) -> TrainState:
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.lr,
        betas=(0.9, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )
    return TrainState(model, optimizer)


def build_model(
    model_class: type[SequenceModel], config: Any, num_items: int, *, seed: int, device: torch.device
) -> SequenceModel:
    """A new model, its weights drawn on the CPU: the same on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "init"))
        model = model_class(config, num_items)
    return model.to(device)


def train(
    state: TrainState,
    config: TrainConfig,
    budget: TrainBudget,
    sequences: DeviceSequences,
    valid_ranker: Ranker,
    *,
    max_epochs: int,
    seed: int,
    rungs: Sequence[int] = (),
    micro_batch_size: int | None = None,
    workers: Workers = ALONE,
) -> Iterator[EpochReport]:
    """Train from where `state` stands, a report for each epoch that is validated; `state` can be saved
    whenever one is out.

    Validated are the epochs of `budget.eval_schedule`, those in `rungs`, and the last. Training ends after
    `max_epochs`, or `patience` epochs without a better objective, counted from the first validation. With
    `config.cooldown` it then goes back to the best weights and trains so many of the best's epochs more, the
    rate falling to 0 step by step (Hägele et al. 2024), within `max_epochs`. With
    `micro_batch_size` less memory is held: see `add_gradients`. Several `workers` call it alike, each with a
    state of its own, and share every batch and every ranking: their states and reports stay equal.

    Raises FloatingPointError when the loss or a validation score is not finite, ValueError when no user has a
    training pair or `micro_batch_size` is below 1.
    """
    device = sequences.device
    flush_denormals()
    keep_freed_memory()
    is_ragged = config.loss == "ce" and config.exclude_seen  # no shape that a graph could be recorded for
    on_one_gpu = device.type == "cuda" and workers.size == 1
    uses_graphs = budget.cuda_graphs and on_one_gpu and micro_batch_size is None and not is_ragged
    batches = TrainBatches(
        sequences,
        max_len=state.model.config.max_len,
        batch_size=config.batch_size,
        window=config.window,
        task=_task(state.model),
        equal="sequences" if uses_graphs else config.batch_by,  # graphs want few shapes
        with_times=state.model.uses_time,
    )
    if len(batches) == 0:
        raise ValueError(
            "no user has two training interactions, so there is nothing to learn from: "
            f"got {len(sequences.train_end_U)} users; use a log with longer histories"
        )
    sampler = NegativeSampler(sequences, config)
    autocast = budget.autocast and device.type == "cuda"
    num_steps = max_epochs * len(batches)
    graphs = GraphedSteps(state, config, autocast=autocast) if uses_graphs else None
    while not (state.reports and state.reports[-1].last):
        last_epoch = _last_epoch(state, config, budget, max_epochs)
        due = next_evaluation(state.epoch, budget.eval_schedule, rungs=rungs, last_epoch=last_epoch)
        started = time.perf_counter()
        for epoch in range(state.epoch + 1, due + 1):
            loss, lr = _train_epoch(
                state, config, batches, sampler, epoch, num_steps, seed, autocast, micro_batch_size, workers,
                graphs,
            )  # fmt: skip
        trained = time.perf_counter()
        state.model.eval()
        valid = compute_metrics(valid_ranker.rank(ModelScorer(state.model, autocast=autocast), workers))
        ranked = time.perf_counter()
        objective = valid[budget.objective]
        is_best = not state.reports or objective > state.best.objective
        best_epoch = epoch if is_best else state.best.epoch
        report = EpochReport(
            epoch, loss, objective, valid, lr, best_epoch, trained - started, ranked - trained, last=False
        )
        state.reports.append(report)
        if is_best:
            state.keep_weights()
        if epoch >= _last_epoch(state, config, budget, max_epochs, at=epoch):
            if state.cooldown is None and config.cooldown > 0 and epoch < max_epochs:
                num_epochs = max(1, round(config.cooldown * best_epoch))
                state.cooldown = (epoch, min(max_epochs, epoch + num_epochs))
                state.model.load_state_dict(state.best_weights)
            else:
                state.reports[-1] = replace(report, last=True)
        yield state.reports[-1]


def _last_epoch(
    state: TrainState, config: TrainConfig, budget: TrainBudget, max_epochs: int, at: int | None = None
) -> int:
    """Find where training ends, or its cooldown begins, if nothing improves: at epoch `at` or later."""
    at = state.epoch + 1 if at is None else at
    if state.cooldown is not None:
        return state.cooldown[1]
    # A cooldown that the budget of epochs enforces ends with it.
    latest = max_epochs - int(config.cooldown / (1 + config.cooldown) * max_epochs)
    if not state.reports:
        return latest
    return max(at, min(latest, state.best.epoch + budget.patience))


def _task(model: SequenceModel) -> Task:
    if not model.masked:
        return NextItem()
    return MaskedItem(model.config.mask_probability, model.config.mask_last_share)


def _train_epoch(
    state: TrainState,
    config: TrainConfig,
    batches: TrainBatches,
    sampler: NegativeSampler,
    epoch: int,
    num_steps: int,
    seed: int,
    autocast: bool,
    micro_batch_size: int | None,
    workers: Workers,
    graphs: "GraphedSteps | None",
) -> tuple[float, float]:
    device = sampler.device
    state.model.train()
    # Each worker drops other places of its own sequences; the first as if it were alone.
    torch.manual_seed(derive_seed(seed, "dropout", epoch, *([workers.rank] if workers.rank else [])))
    generator = torch.Generator(device).manual_seed(derive_seed(seed, "negatives", epoch))
    step = (epoch - 1) * len(batches)
    table_gradient = TableGradient(state.model.item_embedding)
    total_loss = torch.zeros((), dtype=torch.float64, device=device)
    num_targets = 0
    for batch in batches.epoch(derive_seed(seed, "batches", epoch)):
        lr = learning_rate(config, step, num_steps) * cooled(state.cooldown, step / len(batches))
        _set_lr(state.optimizer, lr)
        num_targets += len(batch.target_id_T)
        step += 1
        if graphs is not None:
            total_loss += graphs.run(batch, sampler, generator)
            continue
        others = sampler.excluded(batch) if config.loss == "ce" else sampler.draw(batch, generator)
        state.optimizer.zero_grad(set_to_none=True)
        # The sum over several workers has rows that this one does not touch.
        table_gradient.begin(_num_look_ups(batch, others) if workers.size == 1 else math.inf)
        total_loss += add_joint_gradients(
            state.model,
            batch,
            config,
            others,
            workers,
            autocast=autocast,
            micro_batch_size=micro_batch_size,
        )
        table_gradient.settle()
        state.optimizer.step()
    mean_loss = float(workers.all_reduce_(total_loss)) / num_targets  # the epoch's only wait for the device
    if not math.isfinite(mean_loss):
        raise FloatingPointError(
            f"the loss is {mean_loss} at epoch {epoch}: the model has diverged (lr={config.lr:g})"
        )
    return mean_loss, lr


def _set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # graphs read it there
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


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


def add_joint_gradients(
    model: SequenceModel,
    batch: TrainBatch,
    config: TrainConfig,
    others: Others,
    workers: Workers,
    *,
    autocast: bool = False,
    micro_batch_size: int | None = None,
) -> Tensor:
    """`add_gradients` by all workers together: each computes its share, and all end up with the same sum.

    Up to rounding these are the gradients of the batch alone wherever the batch is cut, for the reasons
    that micro-batches give them. Gives the sum of the loss over this worker's targets.
    """
    if workers.size == 1:
        return add_gradients(
            model, batch, config, others, autocast=autocast, micro_batch_size=micro_batch_size
        )
    part, positions, num_targets = batch.share(workers.rank, workers.size)
    part_others = None if others is None else others.at(positions)
    loss = add_gradients(
        model, part, config, part_others, autocast=autocast, micro_batch_size=micro_batch_size
    )
    workers.sum_gradients_(model.parameters(), num_targets / len(batch.target_id_T))
    return loss if num_targets else torch.zeros_like(loss)


def add_gradients(
    model: SequenceModel,
    batch: TrainBatch,
    config: TrainConfig,
    others: Others,
    *,
    autocast: bool = False,
    micro_batch_size: int | None = None,
) -> Tensor:
    """Add the gradients of the batch's mean loss times its weight; gives the loss summed over its targets.

    With `micro_batch_size` in parts, each that share of `config.batch_size`, and each weighing as many
    targets as it has. Without dropout that is equal up to rounding for every model and loss here: no state
    depends on who else is in the batch, losses are means over the targets, and negatives, shared ones too,
    were drawn for the whole batch. With dropout it is not: each part draws masks of its own, so that other
    places are dropped, and TiSASRec's tables, which all of a batch share, are dropped out once a part.

    What is held for the backward pass shrinks with the parts; the negatives, as integers, do not.
    """
    if micro_batch_size is None:
        parts: Iterable[tuple[TrainBatch, slice]] = [(batch, slice(None))]
    else:
        parts = batch.slices(math.ceil(len(batch.length_B) * micro_batch_size / config.batch_size))
    num_targets = len(batch.target_id_T)
    losses = []
    for part, positions in parts:
        part_others = None if others is None else others.at(positions)
        with torch.autocast(batch.place_T.device.type, torch.bfloat16, enabled=autocast):
            loss = batch_loss(model, part, config, part_others)
        num_part_targets = len(part.target_id_T)
        weight = batch.weight * num_part_targets / num_targets
        loss.backward(loss.new_full((), weight))  # type: ignore[no-untyped-call]
        losses.append(loss.detach() * num_part_targets)
    return reduce(torch.add, losses)


def batch_loss(
    model: SequenceModel,
    batch: TrainBatch,
    config: TrainConfig,
    others: Others,
    weight_T: Tensor | None = None,
) -> Tensor:
    """Mean loss over the positions that have a target, against `others`: drawn items, or for `ce` all but
    those excluded.

    With `weight_T` the sum of the losses times their weights.
    """
    item_VD = model.item_embedding.weight
    state_TD = model.encode(batch.history).flatten(0, 1)[batch.place_T].to(item_VD.dtype)
    if config.temperature != 1:
        state_TD = state_TD / config.temperature
    if not isinstance(others, Negatives):
        max_logits = MAX_LOGITS_CPU if state_TD.device.type == "cpu" else MAX_LOGITS_GPU
        return ce(
            state_TD, item_VD[1:], batch.target_id_T - 1, max_logits, weight_T=weight_T, excluded=others
        )
    with torch.autocast(state_TD.device.type, enabled=False):  # these losses are made of differences
        return sampled(
            config.loss,
            state_TD,
            item_VD,
            batch.target_id_T,
            others,
            config,
            sparse=model.item_embedding.sparse,
            weight_T=weight_T,
        )


def _num_look_ups(batch: TrainBatch, others: Others) -> float:
    """Rows of the item table that a step reads, repeats counted; without negatives all of them."""
    if not isinstance(others, Negatives):
        return math.inf
    return batch.history.item_id_BL.numel() + len(batch.target_id_T) + others.item_id.numel()


def cooled(cooldown: tuple[int, int] | None, epoch: float) -> float:
    """Scale the learning rate at a point of training, in epochs: from 1 to 0 within the cooldown."""
    if cooldown is None:
        return 1.0
    begin, end = cooldown
    return max(0.0, (end - epoch) / (end - begin))


def learning_rate(config: TrainConfig, step: int, num_steps: int) -> float:
    """Linear warm-up over `warmup_steps`, then constant, or half a cosine down to 0 at `num_steps`."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.lr_schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    return config.lr * (1 + math.cos(math.pi * min(1.0, done))) / 2
