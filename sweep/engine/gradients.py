"""The gradients of one batch: its loss, in parts where memory is short, summed over several workers.

Shapes: B batch, L length, D width, V items + padding, T positions with a target, N negatives.
"""

import math
from collections.abc import Iterable
from functools import reduce

import torch
from torch import Tensor

from seqsweep.data_pipeline.views.batches import TrainBatch
from seqsweep.models import SequenceModel
from seqsweep.models.losses import Excluded, Negatives, ce, sampled
from seqsweep.sweep.engine.hparams import TrainConfig
from seqsweep.sweep.engine.workers import Workers

# What a target stands against: items that were drawn, or all but some excluded ones.
Others = Negatives | Excluded | None
MAX_LOGITS_CPU = 2**20  # scores at a time under full cross-entropy: 4 MiB, in cache
MAX_LOGITS_GPU = 2**27


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
