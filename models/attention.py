"""Causal self-attention, with a CPU path of its own where there is dropout on the weights.

Shapes: B batch, L length, D width, H heads, K = D / H head width.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import PackedLinear, draw_kept

ROWS = 64  # queries of a tile: few of them see few keys, so that L * L is not computed whole
TILE = 2**18  # weights of a tile a thread: they stay in cache


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position sees itself and what came before it.

    Query and key/value inputs are given apart, since SASRec's original block normalises only the queries.
    With right padding a real position never sees a padded one: no mask is built, and the flash kernels apply.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key_value = PackedLinear(width, 2)
        self.output = nn.Linear(width, width)

    def forward(self, query_BLD: Tensor, source_BLD: Tensor, context: None = None) -> Tensor:
        key_BLD, value_BLD = self.key_value(source_BLD).chunk(2, dim=-1)
        out_BHLK = causal_attention(
            self._split_heads(self.query(query_BLD)),
            self._split_heads(key_BLD),
            self._split_heads(value_BLD),
            self.dropout if self.training else 0.0,
        )
        return self.output(out_BHLK.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split_heads(self, x_BLD: Tensor) -> Tensor:
        batch, length, width = x_BLD.shape
        return x_BLD.view(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2)


def causal_attention(q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, dropout: float) -> Tensor:
    """softmax of q k^T / sqrt(K) over what is not later, dropped out, times v: (B, H, L, K)."""
    if dropout == 0 or q_BHLK.device.type != "cpu":
        return F.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK, dropout_p=dropout, is_causal=True)
    kept_BHLL, share = draw_kept((*q_BHLK.shape[:3], q_BHLK.shape[2]), dropout, q_BHLK.device)
    out_BHLK: Tensor = _DroppedAttention.apply(  # type: ignore[no-untyped-call]
        q_BHLK * q_BHLK.shape[-1] ** -0.5, k_BHLK, v_BHLK, kept_BHLL
    )
    return out_BHLK.mul(1 / share)


class _DroppedAttention(torch.autograd.Function):
    """For a CPU, where torch has no fast kernel with dropout: tile by tile, weights again in the backward."""

    @staticmethod
    def forward(ctx, q, k, v, kept):  # type: ignore[no-untyped-def]
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out = torch.empty_like(q)
        for users, rows, seen in _tiles(q.shape):
            weight = _weights(q[users, :, rows], k[users, :, seen]).mul_(kept[users, :, rows, seen])
            out[users, :, rows] = weight @ v[users, :, seen]
        ctx.save_for_backward(q, k, v, kept, out)
        return out

    @staticmethod
    def backward(ctx, grad_out):  # type: ignore[no-untyped-def]
        """With scores s, weights a, mask m: ds = a (m da - sum_j a m da), and the sum is grad . out."""
        q, k, v, kept, out = ctx.saved_tensors
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for users, rows, seen in _tiles(q.shape):
            weight = _weights(q[users, :, rows], k[users, :, seen])
            mask, grad = kept[users, :, rows, seen], grad_out[users, :, rows]
            mean = (grad * out[users, :, rows]).sum(-1, keepdim=True)
            grad_score = (grad @ v[users, :, seen].mT).mul_(mask).sub_(mean).mul_(weight)
            grad_q[users, :, rows] = grad_score @ k[users, :, seen]
            grad_k[users, :, seen] += grad_score.mT @ q[users, :, rows]
            grad_v[users, :, seen] += weight.mul_(mask).mT @ grad
        return grad_q, grad_k, grad_v, None


def _weights(q: Tensor, k: Tensor) -> Tensor:
    score = q @ k.mT
    rows, seen = score.shape[-2:]
    future = torch.full((rows, seen), -torch.inf, dtype=score.dtype, device=score.device)
    return score.add_(future.triu_(seen - rows + 1)).softmax(-1)


def _tiles(shape: torch.Size) -> Iterator[tuple[slice, slice, slice]]:
    """Slices of users, of queries, and of the keys those see."""
    batch, heads, length, _ = shape
    rows = -(-length // -(-length // ROWS))
    users = max(1, TILE * torch.get_num_threads() // (heads * rows * length))
    for user in range(0, batch, users):
        for row in range(0, length, rows):
            end = min(row + rows, length)
            yield slice(user, user + users), slice(row, end), slice(0, end)
