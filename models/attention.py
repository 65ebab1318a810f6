"""Self-attention, causal or between all real places, with a CPU path of its own where weights are dropped.

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
        out_BHLK = attend(
            self._split_heads(self.query(query_BLD)),
            self._split_heads(key_BLD),
            self._split_heads(value_BLD),
            self.dropout if self.training else 0.0,
        )
        return self.output(out_BHLK.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split_heads(self, x_BLD: Tensor) -> Tensor:
        batch, length, width = x_BLD.shape
        return x_BLD.view(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2)


class BidirectionalSelfAttention(nn.Module):
    """Multi-head attention in which every place sees all real ones (padded places too, to stay finite)."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_key_value = PackedLinear(width, 3)
        self.output = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor, is_real_BL: Tensor) -> Tensor:
        packed = self.query_key_value(x_BLD).unflatten(-1, (3, self.num_heads, -1))
        q_BHLK, k_BHLK, v_BHLK = packed.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        out_BHLK = attend(q_BHLK, k_BHLK, v_BHLK, dropout, is_real_BL)
        return self.output(out_BHLK.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def attend(
    q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, dropout: float, is_real_BL: Tensor | None = None
) -> Tensor:
    """softmax of q k^T / sqrt(K), dropped out, times v: (B, H, L, K).

    Over the places that `is_real_BL` marks; without it over those that are not later than the query's.
    """
    if dropout == 0 or q_BHLK.device.type != "cpu":
        mask = None if is_real_BL is None else is_real_BL[:, None, None, :]
        return F.scaled_dot_product_attention(
            q_BHLK, k_BHLK, v_BHLK, attn_mask=mask, dropout_p=dropout, is_causal=mask is None
        )
    kept_BHLL, share = draw_kept((*q_BHLK.shape[:3], q_BHLK.shape[2]), dropout, q_BHLK.device)
    out_BHLK: Tensor = _DroppedAttention.apply(  # type: ignore[no-untyped-call]
        q_BHLK * q_BHLK.shape[-1] ** -0.5, k_BHLK, v_BHLK, kept_BHLL, is_real_BL
    )
    return out_BHLK.mul(1 / share)


class _DroppedAttention(torch.autograd.Function):
    """For a CPU, where torch has no fast kernel with dropout: tile by tile, weights again in the backward."""

    @staticmethod
    def forward(ctx, q, k, v, kept, is_real):  # type: ignore[no-untyped-def]
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out = torch.empty_like(q)
        for users, rows, seen in _tiles(q.shape, causal=is_real is None):
            weight = _weights(q[users, :, rows], k[users, :, seen], _hidden(q, users, rows, seen, is_real))
            out[users, :, rows] = weight.mul_(kept[users, :, rows, seen]) @ v[users, :, seen]
        ctx.save_for_backward(q, k, v, kept, is_real, out)
        return out

    @staticmethod
    def backward(ctx, grad_out):  # type: ignore[no-untyped-def]
        """With scores s, weights a, mask m: ds = a (m da - sum_j a m da), and the sum is grad . out."""
        q, k, v, kept, is_real, out = ctx.saved_tensors
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for users, rows, seen in _tiles(q.shape, causal=is_real is None):
            weight = _weights(q[users, :, rows], k[users, :, seen], _hidden(q, users, rows, seen, is_real))
            mask, grad = kept[users, :, rows, seen], grad_out[users, :, rows]
            mean = (grad * out[users, :, rows]).sum(-1, keepdim=True)
            grad_score = (grad @ v[users, :, seen].mT).mul_(mask).sub_(mean).mul_(weight)
            grad_q[users, :, rows] = grad_score @ k[users, :, seen]
            grad_k[users, :, seen] += grad_score.mT @ q[users, :, rows]
            grad_v[users, :, seen] += weight.mul_(mask).mT @ grad
        return grad_q, grad_k, grad_v, None, None


def _weights(q: Tensor, k: Tensor, hidden: Tensor) -> Tensor:
    return (q @ k.mT).add_(hidden).softmax(-1)


def _hidden(q: Tensor, users: slice, rows: slice, seen: slice, is_real: Tensor | None) -> Tensor:
    """Minus infinity where a query of the tile does not see a key, else 0."""
    if is_real is not None:
        zero = q.new_zeros(is_real[users].shape)
        return zero.masked_fill_(~is_real[users], -torch.inf)[:, None, None, :]
    future = torch.full((rows.stop - rows.start, seen.stop), -torch.inf, dtype=q.dtype)
    return future.triu_(rows.start + 1)


def tiles(
    batch: int, length: int, *, max_rows: int, elements_a_row: int, max_elements: int, causal: bool = True
) -> Iterator[tuple[slice, slice, slice]]:
    """Slices of users, of queries, and of the keys those see, of about `max_elements` each.

    Causal and of a quarter of the length, four of them are five eighths of L * L.
    """
    rows = -(-length // -(-length // max_rows))
    users = max(1, max_elements // (rows * elements_a_row))
    for user in range(0, batch, users):
        for row in range(0, length, rows):
            end = min(row + rows, length)
            yield slice(user, user + users), slice(row, end), slice(0, end if causal else length)


def _tiles(shape: torch.Size, *, causal: bool) -> Iterator[tuple[slice, slice, slice]]:
    batch, heads, length, _ = shape
    return tiles(
        batch,
        length,
        max_rows=ROWS,
        elements_a_row=heads * length,
        max_elements=TILE * torch.get_num_threads(),
        causal=causal,
    )
