"""Losses. The sampled ones are pure functions of scores that give one value a position; `sampled` and `ce`
take states and the item table, and give the mean.

Shapes: T positions with a target, N negatives, V items + padding, D width.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

Ints = npt.NDArray[np.int64]

# An excluded item's share of a softmax is e^-80, which is nothing: exp of minus infinity takes a CPU three
# times as long as that of a number.
NO_SHARE = -80.0

MAX_NEGATIVE_ELEMENTS = 2**26  # numbers kept for a sampled loss's backward pass at a time: 256 MiB
TILE = 2**17  # numbers gathered at a time by a thread of a CPU: they stay in its cache
NUMBERS_A_SCORE = 8  # of them, beside the gathered embeddings: at most so many are kept of every score


class LossSettings(BaseModel):
    """What the sampled losses read beside the scores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gbce_t: float = Field(default=0.75, ge=0, le=1)  # gSASRec's default
    score_penalty: NonNegativeFloat = 1.0  # λ of bpr_max; `bpreg` of GRU4Rec's code, 1 there too
    log_q: bool = True  # sampled_softmax: correct for how negatives are drawn; False as published without


@dataclass(frozen=True)
class Negatives:
    """Items drawn to stand against the targets."""

    item_id: Tensor  # int64; (T, N), or (N,) when all positions share them
    masked_TN: Tensor  # True where an item must not count: the target itself, or one excluded
    log_q_TN: Tensor  # log of the probability that a draw gives this item
    num_items: int

    @property
    def shared(self) -> bool:
        return self.item_id.dim() == 1

    def at(self, positions: slice) -> "Negatives":
        item_id = self.item_id if self.shared else self.item_id[positions]
        return Negatives(item_id, self.masked_TN[positions], self.log_q_TN[positions], self.num_items)


@dataclass(frozen=True)
class NegativeScores:
    """What a sampled loss sees. Masked negatives weigh nothing; all of a position's may be masked."""

    positive_T: Tensor
    negative_TN: Tensor
    masked_TN: Tensor
    log_q_TN: Tensor
    num_items: int


def bce(scores: NegativeScores, _settings: LossSettings) -> Tensor:
    """-log σ(s⁺) - Σ log σ(-s⁻) (SASRec, eq. 7, where N = 1)."""
    return -F.logsigmoid(scores.positive_T) + _negative_part(scores)


def gbce(scores: NegativeScores, settings: LossSettings) -> Tensor:
    """Generalised BCE (Petrov and Macdonald, gSASRec, RecSys 2023, eq. 10-11), divided by N + 1.

    -β log σ(s⁺) - Σ log σ(-s⁻) with β = α (t (1 - 1/α) + 1/α) and sampling rate α = N / (num_items - 1).
    t = 0 is BCE; t = 1 calibrates fully.
    Raises ValueError for a catalogue of one item, or more negatives than items without the target.
    """
    num_negatives, others = scores.negative_TN.shape[1], scores.num_items - 1
    if not 0 < num_negatives <= others:
        raise ValueError(
            "gbce needs 1 <= num_negatives <= num_items - 1, "
            f"got num_negatives={num_negatives} and num_items={scores.num_items}; use loss=ce"
        )
    alpha = num_negatives / others
    beta = alpha * (settings.gbce_t * (1 - 1 / alpha) + 1 / alpha)
    positive_T = -beta * F.logsigmoid(scores.positive_T)
    return (positive_T + _negative_part(scores)) / (num_negatives + 1)


def bpr(scores: NegativeScores, _settings: LossSettings) -> Tensor:
    """-1/N Σ log σ(s⁺ - s⁻) (Rendle et al. 2009; the mean over N is Hidasi et al.'s, 2016, 3.1.3)."""
    return -_log_wins(scores).masked_fill(scores.masked_TN, 0.0).mean(dim=1)


def bpr_max(scores: NegativeScores, settings: LossSettings) -> Tensor:
    """-log Σ w_j σ(s⁺ - s_j) + λ Σ w_j s_j², w = softmax over the negatives (GRU4Rec: Hidasi and Karatzoglou
    2018, eq. 16). Gradients go through w too. In logs: w_j σ(s⁺ - s_j) leaves float32 at a distance of 100.
    """
    log_weight_TN = _log_weight(scores)
    log_win_T = torch.logsumexp(log_weight_TN + _log_wins(scores), dim=1)
    penalty_T = (log_weight_TN.exp() * scores.negative_TN.square()).sum(dim=1)
    return _zero_without_negatives(settings.score_penalty * penalty_T - log_win_T, scores)


def top1_max(scores: NegativeScores, _settings: LossSettings) -> Tensor:
    """Σ w_j [σ(s_j - s⁺) + σ(s_j²)], w as in `bpr_max` (Hidasi and Karatzoglou 2018, eq. 9)."""
    beaten_TN = torch.sigmoid(scores.negative_TN - scores.positive_T[:, None])
    pairwise_TN = beaten_TN + torch.sigmoid(scores.negative_TN.square())
    return _zero_without_negatives((_log_weight(scores).exp() * pairwise_TN).sum(dim=1), scores)


def sampled_softmax(scores: NegativeScores, settings: LossSettings) -> Tensor:
    """Cross-entropy of the target against N negatives, each corrected by -log(N q) (Jean et al. 2015, 3.2).

    Corrected, the sum over the unmasked negatives estimates without bias the sum over all items that may
    become one. The target was not drawn, and is not corrected. `log_q=False` is the form without
    correction (Klenitskiy and Vasilev, RecSys 2023), in which N negatives stand for themselves alone.
    """
    logit_TN = scores.negative_TN
    if settings.log_q:
        logit_TN = logit_TN - (scores.log_q_TN + math.log(logit_TN.shape[1]))
    logit_TN = logit_TN.masked_fill(scores.masked_TN, -torch.inf)
    logit_TM = torch.cat([scores.positive_T[:, None], logit_TN], dim=1)
    return torch.logsumexp(logit_TM, dim=1) - scores.positive_T


def _negative_part(scores: NegativeScores) -> Tensor:
    return -F.logsigmoid(-scores.negative_TN).masked_fill(scores.masked_TN, 0.0).sum(dim=1)


def _log_wins(scores: NegativeScores) -> Tensor:
    return F.logsigmoid(scores.positive_T[:, None] - scores.negative_TN)


def _log_weight(scores: NegativeScores) -> Tensor:
    """Log-softmax over the unmasked negatives; where all are masked over all of them, finite to be zeroed."""
    masked_TN = scores.masked_TN & ~scores.masked_TN.all(dim=1, keepdim=True)
    return torch.log_softmax(scores.negative_TN.masked_fill(masked_TN, -torch.inf), dim=1)


def _zero_without_negatives(loss_T: Tensor, scores: NegativeScores) -> Tensor:
    return loss_T.masked_fill(scores.masked_TN.all(dim=1), 0.0)


SAMPLED_LOSSES: dict[str, Callable[[NegativeScores, LossSettings], Tensor]] = {
    "bce": bce,
    "gbce": gbce,
    "bpr": bpr,
    "bpr_max": bpr_max,
    "top1_max": top1_max,
    "sampled_softmax": sampled_softmax,
}
LOSSES: tuple[str, ...] = ("ce", *SAMPLED_LOSSES)


def sampled(
    loss: str,
    state_TD: Tensor,
    item_VD: Tensor,
    target_id_T: Tensor,
    negatives: Negatives,
    settings: LossSettings,
    max_elements: int = MAX_NEGATIVE_ELEMENTS,
    *,
    sparse: bool = False,
    weight_T: Tensor | None = None,
) -> Tensor:
    """Mean of a sampled loss over the positions, a scalar; `item_VD` with the padding row.

    With `weight_T` the sum of the losses times their weights.
    With `sparse` the gradient of `item_VD` is a sparse tensor, of the rows that were looked up.

    On a GPU negatives of each position's own are gathered to (T, N, D), on a CPU never as a whole. Where that
    and the scores' intermediate values would be more than `max_elements` numbers, positions are taken in
    chunks, each computed again for its backward pass.
    """
    num_positions, num_negatives = negatives.masked_TN.shape
    is_gathered = not negatives.shared and state_TD.device.type != "cpu"
    width = item_VD.shape[1] if is_gathered else 0
    chunk = max(1, max_elements // (num_negatives * (width + NUMBERS_A_SCORE)))

    def part_sum(
        state: Tensor, item: Tensor, target: Tensor, part: Negatives, weight: Tensor | None
    ) -> Tensor:
        loss_T = SAMPLED_LOSSES[loss](_score(state, item, target, part, sparse), settings)
        return loss_T.sum() / num_positions if weight is None else (loss_T * weight).sum()

    if num_positions <= chunk:
        return part_sum(state_TD, item_VD, target_id_T, negatives, weight_T)
    total = state_TD.new_zeros(())
    for begin in range(0, num_positions, chunk):
        part = slice(begin, begin + chunk)
        total = total + checkpoint(
            part_sum, state_TD[part], item_VD, target_id_T[part], negatives.at(part),
            None if weight_T is None else weight_T[part], use_reentrant=False, preserve_rng_state=False,
        )  # fmt: skip
    return total


def _score(
    state_TD: Tensor, item_VD: Tensor, target_id_T: Tensor, negatives: Negatives, sparse: bool
) -> NegativeScores:
    if negatives.shared:
        positive_T = (state_TD * F.embedding(target_id_T, item_VD, sparse=sparse)).sum(-1)
        negative_TN = state_TD @ F.embedding(negatives.item_id, item_VD, sparse=sparse).T
    else:
        item_id_TM = torch.cat([target_id_T[:, None], negatives.item_id], dim=1)
        score_TM = _score_rows(state_TD, item_VD, item_id_TM, sparse)
        positive_T, negative_TN = score_TM[:, 0], score_TM[:, 1:]
    return NegativeScores(
        positive_T, negative_TN, negatives.masked_TN, negatives.log_q_TN, negatives.num_items
    )


def _score_rows(state_TD: Tensor, item_VD: Tensor, item_id_TM: Tensor, sparse: bool) -> Tensor:
    """Products of every state with M items of its own, (T, M)."""
    if state_TD.device.type == "cpu":
        score_TM: Tensor = _TiledScores.apply(state_TD, item_VD, item_id_TM, sparse)  # type: ignore[no-untyped-call]
        return score_TM
    return (F.embedding(item_id_TM, item_VD) @ state_TD[:, :, None])[:, :, 0]


class _TiledScores(torch.autograd.Function):
    """For a CPU: the rows are gathered tile by tile, and again in the backward pass; none are kept."""

    @staticmethod
    def forward(ctx, state, item, item_id, sparse):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(state, item, item_id)
        ctx.sparse = sparse
        score = state.new_empty(item_id.shape)
        for part in _tiles(item_id, item):
            torch.sum(_rows(item, item_id[part]).mul_(state[part, None]), -1, out=score[part])
        return score

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        state, item, item_id = ctx.saved_tensors
        grad_state = torch.empty_like(state)
        for part in _tiles(item_id, item):
            torch.sum(_rows(item, item_id[part]).mul_(grad[part, :, None]), 1, out=grad_state[part])
        if ctx.sparse:
            value = (grad[:, :, None] * state[:, None]).flatten(0, 1)
            index = item_id.view(1, -1)
            grad_item = torch.sparse_coo_tensor(index, value, item.shape, check_invariants=False)
            return grad_state, grad_item, None, None
        grad_item = torch.zeros_like(item)
        for part in _tiles(item_id, item):
            value = (grad[part, :, None] * state[part, None]).flatten(0, 1)
            grad_item.index_add_(0, item_id[part].flatten(), value)
        return grad_state, grad_item, None, None


def _rows(item_VD: Tensor, item_id_TM: Tensor) -> Tensor:
    return item_VD.index_select(0, item_id_TM.flatten()).view(*item_id_TM.shape, -1)


def _tiles(item_id_TM: Tensor, item_VD: Tensor) -> Iterator[slice]:
    num_positions, num_items = item_id_TM.shape
    size = max(1, TILE * torch.get_num_threads() // (num_items * item_VD.shape[1]))
    for begin in range(0, num_positions, size):
        yield slice(begin, begin + size)


@dataclass(frozen=True)
class Excluded:
    """Name, for each position, items that must not count besides its target: a stretch of `column_S`.

    Stretches belong to users, so that nothing of size (T, V) is made.
    """

    column_S: Tensor  # int64, item_id - 1
    begin_T: Ints  # on the CPU, as what is written at a time must be known there
    count_T: Ints

    def at(self, positions: slice) -> "Excluded":
        return Excluded(self.column_S, self.begin_T[positions], self.count_T[positions])

    def fill_(self, logit_TV: Tensor) -> None:
        """Write minus infinity into their columns, for all neighbouring positions of a user at once."""
        cuts = np.flatnonzero(np.diff(self.begin_T, prepend=-1, append=-1))
        for begin, end in pairwise(cuts.tolist()):
            first = int(self.begin_T[begin])
            column_S = self.column_S[first : first + int(self.count_T[begin])]
            logit_TV[begin:end].index_fill_(1, column_S, -torch.inf)


def ce(
    state_TD: Tensor,
    item_VD: Tensor,
    target_T: Tensor,
    max_logits: int = 2**22,
    *,
    weight_T: Tensor | None = None,
    excluded: Excluded | None = None,
) -> Tensor:
    """Mean cross-entropy over the whole catalogue, a scalar; `item_VD` without the padding row.

    With `weight_T` the sum of the losses times their weights. Items that are `excluded` are in no sum, unless
    they are the target.

    At most about `max_logits` scores exist at a time: positions are taken in chunks, and the gradients are
    formed in the forward pass, while a chunk's scores are at hand, so that nothing of size (T, V) is kept.
    `target_T` holds columns of the scores (item_id - 1).
    """
    if weight_T is None:
        weight_T = state_TD.new_full((), 1 / max(len(state_TD), 1)).expand(len(state_TD))
    loss: Tensor = _ChunkedCrossEntropy.apply(state_TD, item_VD, target_T, weight_T, max_logits, excluded)  # type: ignore[no-untyped-call]
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Softmax cross-entropy with the output matrix inside: d/ds = weight (softmax - onehot).

    A chunk's scores s are written over by e = exp(s - max), from which the target's share is taken; weight
    and 1 / sum(e) are left to the sides of the products, which are D wide, not V.
    """

    @staticmethod
    def forward(ctx, state_TD, item_VD, target_T, weight_T, max_logits, excluded):  # type: ignore[no-untyped-def]
        device = state_TD.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else state_TD.dtype
        state, item = state_TD.to(dtype), item_VD.to(dtype)
        chunk = max(1, max_logits // len(item))
        grad_state = torch.empty_like(state_TD)
        grad_item = torch.zeros_like(item_VD)
        total = torch.zeros((), dtype=torch.float32 if dtype != torch.float64 else dtype, device=state.device)
        with torch.autocast(device, enabled=False):
            for begin in range(0, len(state), chunk):
                part = slice(begin, begin + chunk)
                logit = (state[part] @ item.T).to(total.dtype)
                target, weight = target_T[part, None], weight_T[part, None]
                target_logit = logit.gather(1, target)
                if excluded is not None:
                    excluded.at(part).fill_(logit)
                    logit.scatter_(1, target, target_logit)
                largest = logit.amax(1, keepdim=True)
                logit = logit.sub_(largest)
                if excluded is not None:
                    logit = logit.clamp_(min=NO_SHARE)
                exponential = logit.exp_()
                normaliser = exponential.sum(1, keepdim=True)
                total += ((normaliser.log() + largest - target_logit) * weight).sum()
                share = exponential.scatter_add_(1, target, -normaliser).to(dtype)
                scale = weight / normaliser
                grad_state[part] = (share @ item) * scale
                grad_item += (share.T @ (state[part] * scale).to(dtype)).to(grad_item.dtype)
        ctx.save_for_backward(grad_state, grad_item)
        return total

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        grad_state, grad_item = ctx.saved_tensors
        return grad_state * grad, grad_item * grad, None, None, None, None
