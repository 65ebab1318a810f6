"""Losses, as pure functions of scores; each gives one value a position.

Shapes: T positions with a target, N negatives, V items + padding, D width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class NegativeScores:
    """What a sampled loss sees. Negatives are uniform over the real items."""

    positive_T: Tensor
    negative_TN: Tensor
    collision_TN: Tensor  # True where a negative is the target itself
    num_items: int


def bce(scores: NegativeScores, _gbce_t: float) -> Tensor:
    """-log σ(s⁺) - Σ log σ(-s⁻) (SASRec, eq. 7, where N = 1). A negative that hit the target is left out."""
    return -F.logsigmoid(scores.positive_T) + _negative_part(scores)


def gbce(scores: NegativeScores, gbce_t: float) -> Tensor:
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
    beta = alpha * (gbce_t * (1 - 1 / alpha) + 1 / alpha)
    positive_T = -beta * F.logsigmoid(scores.positive_T)
    return (positive_T + _negative_part(scores)) / (num_negatives + 1)


def sampled_softmax(scores: NegativeScores, _gbce_t: float) -> Tensor:
    """Cross-entropy of the target against N negatives, each corrected by -log(N q) (Jean et al. 2015, 3.2).

    q = 1 / num_items, so that the sum over the negatives estimates the sum over the catalogue. The target
    itself is not corrected, and negatives that hit it are masked.
    """
    num_negatives = scores.negative_TN.shape[1]
    corrected_TN = scores.negative_TN + math.log(scores.num_items / num_negatives)
    corrected_TN = corrected_TN.masked_fill(scores.collision_TN, -torch.inf)
    logit_TM = torch.cat([scores.positive_T[:, None], corrected_TN], dim=1)
    return torch.logsumexp(logit_TM, dim=1) - scores.positive_T


def _negative_part(scores: NegativeScores) -> Tensor:
    return -F.logsigmoid(-scores.negative_TN).masked_fill(scores.collision_TN, 0.0).sum(dim=1)


SAMPLED_LOSSES: dict[str, Callable[[NegativeScores, float], Tensor]] = {
    "bce": bce,
    "gbce": gbce,
    "sampled_softmax": sampled_softmax,
}
LOSSES: tuple[str, ...] = ("ce", *SAMPLED_LOSSES)


def ce(state_TD: Tensor, item_VD: Tensor, target_T: Tensor, max_logits: int = 2**22) -> Tensor:
    """Mean cross-entropy over the whole catalogue, a scalar; `item_VD` without the padding row.

    At most about `max_logits` scores exist at a time: positions are taken in chunks, and the gradients are
    formed in the forward pass, while a chunk's scores are at hand, so that nothing of size (T, V) is kept.
    `target_T` holds columns of the scores (item_id - 1).
    """
    loss: Tensor = _ChunkedCrossEntropy.apply(state_TD, item_VD, target_T, max_logits)  # type: ignore[no-untyped-call]
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Softmax cross-entropy with the output matrix inside: d/ds = (softmax - onehot) / T."""

    @staticmethod
    def forward(ctx, state_TD, item_VD, target_T, max_logits):  # type: ignore[no-untyped-def]
        device = state_TD.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else state_TD.dtype
        state, item = state_TD.to(dtype), item_VD.to(dtype)
        num_positions = max(len(state), 1)
        chunk = max(1, max_logits // len(item))
        grad_state = torch.empty_like(state_TD)
        grad_item = torch.zeros_like(item_VD)
        total = torch.zeros((), dtype=torch.float32 if dtype != torch.float64 else dtype, device=state.device)
        with torch.autocast(device, enabled=False):
            for begin in range(0, len(state), chunk):
                part = slice(begin, begin + chunk)
                logit = (state[part] @ item.T).to(total.dtype)
                target = target_T[part, None]
                log_sum = torch.logsumexp(logit, dim=1, keepdim=True)
                total += (log_sum - logit.gather(1, target)).sum()
                probability = logit.sub_(log_sum).exp_()
                probability.scatter_add_(1, target, torch.full_like(log_sum, -1.0))
                probability = (probability / num_positions).to(dtype)
                grad_state[part] = probability @ item
                grad_item += (probability.T @ state[part]).to(grad_item.dtype)
        ctx.save_for_backward(grad_state, grad_item)
        return total / num_positions

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        grad_state, grad_item = ctx.saved_tensors
        return grad_state * grad, grad_item * grad, None, None
