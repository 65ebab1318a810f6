"""The training engine: `train()` yields a report a validated epoch and knows no Ray.

Shapes: B batch, L length, D width, V items + padding, T positions with a target, N negatives.

Every random stream of an epoch is derived from (seed, name, epoch). So a checkpoint holds no generator
states, and training that goes on from one is equal to the bit to training that was never interrupted (on the
same device, with the same number of threads; on a GPU models that use time differ by rounding).
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from seqsweep.data_pipeline.views.batches import MaskedItem, NextItem, Task, TrainBatch, TrainBatches
from seqsweep.data_pipeline.views.device import DeviceSequences
from seqsweep.models import SequenceModel
from seqsweep.models.losses import Negatives
from seqsweep.results.metrics import compute_metrics
from seqsweep.sweep.engine.cuda_graphs import GraphedSteps
from seqsweep.sweep.engine.eval_schedule import next_evaluation
from seqsweep.sweep.engine.gradients import Others, add_joint_gradients
from seqsweep.sweep.engine.hparams import TrainConfig
from seqsweep.sweep.engine.item_table_gradient import TableGradient
from seqsweep.sweep.engine.negatives import NegativeSampler
from seqsweep.sweep.engine.process import flush_denormals, keep_freed_memory
from seqsweep.sweep.engine.ranking import ModelScorer, Ranker
from seqsweep.sweep.engine.state import EpochReport, TrainState
from seqsweep.sweep.engine.workers import ALONE, Workers
from seqsweep.sweep.seeds import derive_seed
from seqsweep.sweep.settings.budgets import TrainBudget


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
    flush_denormals()
    keep_freed_memory()
    training = _Training.of(
        state, config, budget, sequences, max_epochs=max_epochs, seed=seed, micro_batch_size=micro_batch_size,
        workers=workers,
    )  # fmt: skip
    while not (state.reports and state.reports[-1].last):
        last_epoch = _last_epoch(state, config, budget, max_epochs)
        due = next_evaluation(state.epoch, budget.eval_schedule, rungs=rungs, last_epoch=last_epoch)
        started = time.perf_counter()
        for epoch in range(state.epoch + 1, due + 1):
            loss, lr = training.epoch(epoch)
        trained = time.perf_counter()
        state.model.eval()
        scorer = ModelScorer(state.model, autocast=training.autocast)
        valid = compute_metrics(valid_ranker.rank(scorer, workers))
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


@dataclass(frozen=True)
class _Training:
    """What stays the same from epoch to epoch."""

    state: TrainState
    config: TrainConfig
    batches: TrainBatches
    sampler: NegativeSampler
    graphs: GraphedSteps | None
    workers: Workers
    autocast: bool
    micro_batch_size: int | None
    num_steps: int
    seed: int

    @classmethod
    def of(
        cls,
        state: TrainState,
        config: TrainConfig,
        budget: TrainBudget,
        sequences: DeviceSequences,
        *,
        max_epochs: int,
        seed: int,
        micro_batch_size: int | None,
        workers: Workers,
    ) -> Self:
        on_gpu = sequences.device.type == "cuda"
        autocast = budget.autocast and on_gpu
        is_ragged = config.loss == "ce" and config.exclude_seen  # no shape that a graph could be recorded for
        can_graph = on_gpu and workers.size == 1 and micro_batch_size is None and not is_ragged
        uses_graphs = budget.cuda_graphs and can_graph
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
        return cls(
            state,
            config,
            batches,
            NegativeSampler(sequences, config),
            GraphedSteps(state, config, autocast=autocast) if uses_graphs else None,
            workers,
            autocast,
            micro_batch_size,
            max_epochs * len(batches),
            seed,
        )

    def epoch(self, number: int) -> tuple[float, float]:
        """Train it; return the mean loss a target, and the learning rate at its end."""
        state, config, workers, device = self.state, self.config, self.workers, self.sampler.device
        state.model.train()
        # Each worker drops other places of its own sequences; the first as if it were alone.
        own = [workers.rank] if workers.rank else []
        torch.manual_seed(derive_seed(self.seed, "dropout", number, *own))
        generator = torch.Generator(device).manual_seed(derive_seed(self.seed, "negatives", number))
        step = (number - 1) * len(self.batches)
        table_gradient = TableGradient(state.model.item_embedding)
        total_loss = torch.zeros((), dtype=torch.float64, device=device)
        num_targets = 0
        for batch in self.batches.epoch(derive_seed(self.seed, "batches", number)):
            lr = learning_rate(config, step, self.num_steps)
            lr *= cooled(state.cooldown, step / len(self.batches))
            _set_lr(state.optimizer, lr)
            num_targets += len(batch.target_id_T)
            step += 1
            if self.graphs is not None:
                total_loss += self.graphs.run(batch, self.sampler, generator)
                continue
            draws = config.loss != "ce"
            others = self.sampler.draw(batch, generator) if draws else self.sampler.excluded(batch)
            state.optimizer.zero_grad(set_to_none=True)
            # The sum over several workers has rows that this one does not touch.
            table_gradient.begin(_num_look_ups(batch, others) if workers.size == 1 else math.inf)
            total_loss += add_joint_gradients(
                state.model,
                batch,
                config,
                others,
                workers,
                autocast=self.autocast,
                micro_batch_size=self.micro_batch_size,
            )
            table_gradient.settle()
            state.optimizer.step()
        # The epoch's only wait for the device.
        mean_loss = float(workers.all_reduce_(total_loss)) / num_targets
        if not math.isfinite(mean_loss):
            raise FloatingPointError(
                f"the loss is {mean_loss} at epoch {number}: the model has diverged (lr={config.lr:g})"
            )
        return mean_loss, lr


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


def _set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # graphs read it there
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


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
