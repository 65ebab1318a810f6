"""Self-attention, causal or between all real places, with a CPU path of its own where weights are dropped.

Shapes: B batch, L length, D width, H heads, K = D / H head width.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seqsweep.models.layers import PackedLinear, draw_kept

ROWS = 64  # queries of a tile: few of them see few keys, so that L * L is not computed whole
TILE = 2**18  # weights of a tile a thread: they stay in cache
KEPT_WEIGHTS = 2**24  # of one call, 64 MiB: histories of 360 items in a batch of 128 with one head


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

    def attend_last(self, query_B1D: Tensor, source_BLD: Tensor, length_B: Tensor) -> Tensor:
        """`forward` without dropout at each user's last real place alone, (B, 1, D)."""
        key_BLD, value_BLD = self.key_value(source_BLD).chunk(2, dim=-1)
        is_real_BL = torch.arange(source_BLD.shape[1], device=length_B.device) < length_B[:, None]
        out_BH1K = attend(
            self._split_heads(self.query(query_B1D)),
            self._split_heads(key_BLD),
            self._split_heads(value_BLD),
            0.0,
            is_real_BL,
        )
        return self.output(out_BH1K.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

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
    out_MLK: Tensor = _DroppedAttention.apply(  # type: ignore[no-untyped-call]
        q_BHLK.flatten(0, 1), k_BHLK.flatten(0, 1), v_BHLK.flatten(0, 1), dropout, is_real_BL
    )
    return out_MLK.view(q_BHLK.shape)


class _DroppedAttention(torch.autograd.Function):
    """For a CPU, where torch has no fast kernel with dropout: tile by tile, M = B * H users and heads.

    The masks are kept for the backward pass. So are the weights, where all of them fit into `KEPT_WEIGHTS`;
    else they are computed again, which takes a quarter of the time more.
    """

    @staticmethod
    def forward(ctx, q, k, v, dropout, is_real):  # type: ignore[no-untyped-def]
        ctx.tiles = list(_tiles(q.shape, causal=is_real is None))
        ctx.keeps_weights = _num_weights(q.shape) <= KEPT_WEIGHTS
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        hidden = None if is_real is None else _hidden_places(is_real, len(q), q.dtype)
        kept, weights = [], []
        for some, rows, seen in ctx.tiles:
            weight = _weights(q, k, hidden, some, rows, seen)
            mask, share = draw_kept(tuple(weight.shape), dropout, q.device)
            kept.append(mask)
            if ctx.keeps_weights:
                weights.append(weight)
                weight = weight * mask
            else:
                weight.mul_(mask)
            out[some, rows] = weight @ v[some, seen]
        out.mul_(1 / share)
        ctx.share = share
        ctx.save_for_backward(q, k, v, out, hidden, *kept, *weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):  # type: ignore[no-untyped-def]
        """With scores s, weights a, mask m: ds = a (m da - sum_j a m da), and the sum is grad . out."""
        q, k, v, out, hidden, *saved = ctx.saved_tensors
        kept, weights = saved[: len(ctx.tiles)], saved[len(ctx.tiles) :]
        grad_q, grad_k, grad_v = torch.empty_like(out), torch.zeros_like(out), torch.zeros_like(out)
        mean = (grad_out * out).sum(-1, keepdim=True)
        grad_out = grad_out * (1 / ctx.share)
        for number, (some, rows, seen) in enumerate(ctx.tiles):
            weight = weights[number] if weights else _weights(q, k, hidden, some, rows, seen)
            mask, grad = kept[number], grad_out[some, rows]
            grad_score = (grad @ v[some, seen].mT).mul_(mask).sub_(mean[some, rows]).mul_(weight)
            grad_q[some, rows] = grad_score @ k[some, seen]
            grad_k[some, seen] += grad_score.mT @ q[some, rows]
            grad_v[some, seen] += (weight * mask).mT @ grad
        scale = _scale(q)
        return grad_q.mul_(scale), grad_k.mul_(scale), grad_v, None, None


def _weights(q: Tensor, k: Tensor, hidden: Tensor | None, some: slice, rows: slice, seen: slice) -> Tensor:
    hidden = _future(rows, seen, q.dtype) if hidden is None else hidden[some]
    return torch.baddbmm(hidden, q[some, rows], k[some, seen].mT, alpha=_scale(q)).softmax(-1)


def _scale(q: Tensor) -> float:
    return q.shape[-1] ** -0.5  # type: ignore[no-any-return]


def _future(rows: slice, seen: slice, dtype: torch.dtype) -> Tensor:
    """Minus infinity where a key of the tile is later than its query, else 0: (rows, seen)."""
    return torch.full((rows.stop - rows.start, seen.stop), -torch.inf, dtype=dtype).triu_(rows.start + 1)


def _hidden_places(is_real_BL: Tensor, num_rows: int, dtype: torch.dtype) -> Tensor:
    """Minus infinity at the keys that are padding, else 0, of every user and head: (M, 1, L)."""
    hidden_BL = torch.zeros(is_real_BL.shape, dtype=dtype).masked_fill_(~is_real_BL, -torch.inf)
    return hidden_BL.repeat_interleave(num_rows // len(is_real_BL), dim=0)[:, None]


def _num_weights(shape: torch.Size) -> int:
    return shape[0] * shape[1] ** 2


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
    return tiles(
        shape[0],
        shape[1],
        max_rows=ROWS,
        elements_a_row=shape[1],
        max_elements=TILE * torch.get_num_threads(),
        causal=causal,
    )
