"""TiSASRec: self-attention that knows the time between interactions (Li, Wang and McAuley, WSDM 2020).

Shapes: B batch, L length, D width, H heads, K = D / H head width, R buckets of intervals (time_span + 1), V
items + padding.

No tensor has B * L * L * D elements. The interval of a pair is one of R buckets, so q_i · r^K_ij is looked up
in the product of the queries with the table, (B, L, R), and Σ_j a_ij r^V_ij is the sum of the weights in each
bucket, (B, L, R) again, times the table. Both are exact.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from seqsweep.data_pipeline.history import History, Times
from seqsweep.models.attention import KEPT_WEIGHTS, tiles
from seqsweep.models.blocks import Blocks
from seqsweep.models.interface import BlocksConfig, SequenceModel
from seqsweep.models.layers import (
    LAYER_NORM_EPS,
    ItemTable,
    draw_kept,
    drop,
    embedding_scale,
    initialise,
    window_positions,
)


@dataclass(frozen=True)
class Tile:
    """How much of the attention is computed at a time."""

    rows: int  # queries of a user, at most; few of them see few keys, so L * L is not computed whole
    elements: int  # heads times users times rows times R, about


TILE_CPU = Tile(64, 2**18)  # a thread; stays in cache
TILE_GPU = Tile(256, 2**23)  # few kernels, and 32 MiB a temporary


class TiSASRecConfig(BlocksConfig):
    # Longest interval told apart, in units of the user's smallest gap (k in the paper). 256 in its code.
    time_span: int = Field(default=256, ge=1, lt=2**15)  # intervals are kept as int16


@dataclass(frozen=True)
class IntervalContext:
    """What all blocks share: they have one set of tables. Dropout is already on."""

    interval_BLL: Tensor  # int16, 0 .. time_span
    position_key_BLD: Tensor
    position_value_BLD: Tensor
    interval_key_RD: Tensor
    interval_value_RD: Tensor


class TiSASRec(SequenceModel):
    """SASRec's blocks with positions and personal time intervals inside the attention, not in the input.

    Dropout of positions and intervals is on the four tables, one draw a batch; the paper's code draws for
    every pair of items, which would need the tensor that is never built.
    """

    Config = TiSASRecConfig
    uses_time = True

    def __init__(self, config: TiSASRecConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        width = config.hidden_dim
        self.item_embedding = ItemTable(num_items, width)
        self.position_key = nn.Embedding(config.max_len, width)
        self.position_value = nn.Embedding(config.max_len, width)
        self.interval_key = nn.Embedding(config.time_span + 1, width)
        self.interval_value = nn.Embedding(config.time_span + 1, width)
        self.blocks = Blocks(config, lambda: IntervalAttention(width, config.num_heads, config.dropout))
        self.last_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        initialise(self, config)

    def encode(self, history: History) -> Tensor:
        """State after each item, (B, L, D). L may not exceed `config.max_len`.

        Raises ValueError for a history without times.
        """
        return self.last_norm(self.blocks(self._embed(history), self._context(history)))  # type: ignore[no-any-return]

    def last_state(self, history: History) -> Tensor:
        x_BLD, context = self._embed(history), self._context(history)
        return self.last_norm(self.blocks.last(x_BLD, history.length_B, context))  # type: ignore[no-any-return]

    def _embed(self, history: History) -> Tensor:
        item_BLD = self.item_embedding(history.item_id_BL)
        return self._drop(item_BLD * embedding_scale(self.config.hidden_dim))

    def _context(self, history: History) -> IntervalContext:
        if history.times is None:
            raise ValueError("TiSASRec needs History.times, got None")
        # The last item sits at row max_len - 1, and padded places, which no real one sees, share row 0.
        row_BL = window_positions(history.length_B, self.config.max_len - 1, history.item_id_BL.shape[1])
        return IntervalContext(
            personal_intervals(history.times, self.config.time_span),
            F.embedding(row_BL, self._drop(self.position_key.weight)),
            F.embedding(row_BL, self._drop(self.position_value.weight)),
            self._drop(self.interval_key.weight),
            self._drop(self.interval_value.weight),
        )

    def _drop(self, x: Tensor) -> Tensor:
        return drop(x, self.config.dropout, self.training)


def scaled_times(times: Times) -> Tensor:
    """Time since the user's first interaction in units of the smallest gap, rounded, from 1: (B, L) int64.

    Integers throughout: a float32 quotient would lose intervals on millisecond stamps.
    """
    unit_B1 = times.unit_B[:, None]
    since_BL = times.time_BL - times.origin_B[:, None]
    return (2 * since_BL + unit_B1) // (2 * unit_B1) + 1


def personal_intervals(times: Times, time_span: int) -> Tensor:
    """min(|τ_i - τ_j|, time_span) of every pair (paper, 3.2): (B, L, L) int16."""
    scaled_BL = scaled_times(times)
    return (scaled_BL[:, :, None] - scaled_BL[:, None, :]).abs_().clamp_(max=time_span).to(torch.int16)


class IntervalAttention(nn.Module):
    """Causal attention with positions and intervals in keys and values; no output projection (paper, 3.4)."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)

    def forward(self, query_BLD: Tensor, source_BLD: Tensor, context: IntervalContext) -> Tensor:
        key_BLD, value_BLD = self.key_value(source_BLD).chunk(2, dim=-1)
        out_HBLK = interval_attention(
            self._split_heads(self.query(query_BLD)),
            self._split_heads(key_BLD + context.position_key_BLD),
            self._split_heads(value_BLD + context.position_value_BLD),
            self._split_heads(context.interval_key_RD),
            self._split_heads(context.interval_value_RD),
            context.interval_BLL,
            self.dropout if self.training else 0.0,
        )
        return out_HBLK.movedim(0, -2).flatten(-2)

    def _split_heads(self, x: Tensor) -> Tensor:
        """(..., D) to (H, ..., K): heads first, so that all users meet a head's table in one product."""
        return x.view(*x.shape[:-1], self.num_heads, -1).movedim(-2, 0)


def interval_attention(
    query_HBLK: Tensor,
    key_HBLK: Tensor,
    value_HBLK: Tensor,
    interval_key_HRK: Tensor,
    interval_value_HRK: Tensor,
    interval_BLL: Tensor,
    dropout: float = 0.0,
    tile: Tile | None = None,
) -> Tensor:
    """Σ_j a_ij (v_j + r^V_ij), a = softmax over j <= i of q_i · (k_j + r^K_ij) / √K: (H, B, L, K).

    Weights are computed tile by tile. Kept are the inputs, the result and the mask of the dropout; the
    weights where all of them fit into `KEPT_WEIGHTS`, else they are computed again in the backward pass. On a
    GPU buckets are added up in no fixed order: results vary by rounding.
    """
    device = query_HBLK.device
    dtype = query_HBLK.dtype
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    scale = query_HBLK.shape[-1] ** -0.5
    kept_HBLL, kept_share = None, 1.0
    if dropout > 0:
        kept_HBLL, kept_share = draw_kept((*query_HBLK.shape[:3], query_HBLK.shape[2]), dropout, device)
    out_HBLK: Tensor = _IntervalAttention.apply(  # type: ignore[no-untyped-call]
        (query_HBLK * scale).to(dtype),
        key_HBLK.to(dtype),
        value_HBLK.to(dtype),
        interval_key_HRK.to(dtype),
        interval_value_HRK.to(dtype),
        interval_BLL,
        kept_HBLL,
        tile or _default_tile(device),
    )
    return out_HBLK / kept_share if dropout > 0 else out_HBLK


def _default_tile(device: torch.device) -> Tile:
    if device.type == "cpu":
        return Tile(TILE_CPU.rows, TILE_CPU.elements * torch.get_num_threads())
    return TILE_GPU


class _IntervalAttention(torch.autograd.Function):
    """The attention above, of queries that are scaled already, without the division by the share kept."""

    @staticmethod
    def forward(ctx, query, key, value, interval_key, interval_value, interval, kept, tile):  # type: ignore[no-untyped-def]
        out = torch.empty_like(query)
        heads, batch, length, _ = query.shape
        elements_a_row = heads * max(interval_key.shape[1], length)
        ctx.tiles = list(
            tiles(
                batch,
                length,
                max_rows=tile.rows,
                elements_a_row=elements_a_row,
                max_elements=tile.elements,
            )
        )
        ctx.keeps_weights = heads * batch * length**2 <= KEPT_WEIGHTS
        weights = []
        for users, rows, seen in ctx.tiles:
            index = _index(interval[users, rows, seen], len(query))
            weight = _weights(query[:, users, rows], key[:, users, seen], interval_key, index)
            if ctx.keeps_weights:
                weights.append(weight)
            dropped = weight if kept is None else weight * kept[:, users, rows, seen]
            out[:, users, rows] = _mix(dropped, value[:, users, seen], interval_value, index)
        ctx.save_for_backward(query, key, value, interval_key, interval_value, interval, kept, out, *weights)
        return out

    @staticmethod
    def backward(ctx, grad_out):  # type: ignore[no-untyped-def]
        """With scores s, weights a, kept weights ā: ds = a (k da - Σ_j ā da), k the mask."""
        query, key, value, interval_key, interval_value, interval, kept, out, *weights = ctx.saved_tensors
        dtype = _accurate(query.dtype)
        grad_query = torch.empty_like(query)
        grad_key, grad_value, grad_interval_key, grad_interval_value = (
            torch.zeros_like(x, dtype=dtype) for x in (key, value, interval_key, interval_value)
        )
        for number, (users, rows, seen) in enumerate(ctx.tiles):
            index = _index(interval[users, rows, seen], len(query))
            q, grad = query[:, users, rows], grad_out[:, users, rows]
            k, v = key[:, users, seen], value[:, users, seen]
            weight = weights[number] if weights else _weights(q, k, interval_key, index)
            grad_score = _products(grad, v, interval_value, index)
            mean = (grad * out[:, users, rows]).sum(-1, keepdim=True, dtype=dtype)
            if kept is not None:
                grad_score *= kept[:, users, rows, seen]
            grad_score.sub_(mean).mul_(weight)
            if kept is not None:
                weight = weight * kept[:, users, rows, seen]
            grad_query[:, users, rows] = _mix(grad_score, k, interval_key, index)
            _collect(grad_score, q, index, grad_key[:, users, seen], grad_interval_key)
            _collect(weight, grad, index, grad_value[:, users, seen], grad_interval_value)
        grads = (x.to(query.dtype) for x in (grad_key, grad_value, grad_interval_key, grad_interval_value))
        return grad_query, *grads, None, None, None


def _index(interval_BLL: Tensor, heads: int) -> Tensor:
    return interval_BLL.long().expand(heads, -1, -1, -1)


def _accurate(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


# Below, M stands for the keys that the L queries of a tile see; the last L of them are the queries' own.


def _weights(query_HBLK: Tensor, key_HBMK: Tensor, table_HRK: Tensor, index_HBLM: Tensor) -> Tensor:
    score_HBLM = _products(query_HBLK, key_HBMK, table_HRK, index_HBLM)
    rows, seen = score_HBLM.shape[-2:]
    future_LM = torch.full((rows, seen), -torch.inf, dtype=score_HBLM.dtype, device=score_HBLM.device)
    return score_HBLM.add_(future_LM.triu_(seen - rows + 1)).softmax(-1)


def _products(x_HBLK: Tensor, y_HBMK: Tensor, table_HRK: Tensor, index_HBLM: Tensor) -> Tensor:
    """x_i · (y_j + table[index_ij]), (H, B, L, M)."""
    product_HBLM = (x_HBLK @ y_HBMK.mT).to(_accurate(x_HBLK.dtype))
    product_HBLR = (x_HBLK.flatten(1, 2) @ table_HRK.mT).view(*x_HBLK.shape[:3], -1)
    return product_HBLM.add_(product_HBLR.gather(-1, index_HBLM))


def _mix(weight_HBLM: Tensor, y_HBMK: Tensor, table_HRK: Tensor, index_HBLM: Tensor) -> Tensor:
    """Σ_j weight_ij (y_j + table[index_ij]), (H, B, L, K)."""
    weight_HBLR = _by_bucket(weight_HBLM, index_HBLM, table_HRK.shape[1]).to(table_HRK.dtype)
    from_table_HBLK = (weight_HBLR.flatten(1, 2) @ table_HRK).view(*weight_HBLM.shape[:3], -1)
    return from_table_HBLK.add_(weight_HBLM.to(y_HBMK.dtype) @ y_HBMK)


def _collect(
    weight_HBLM: Tensor, x_HBLK: Tensor, index_HBLM: Tensor, total_HBMK: Tensor, total_HRK: Tensor
) -> None:
    """The transpose of `_mix`: adds Σ_i weight_ij x_i to each place j, and to the bucket of each ij."""
    weight_HBLR = _by_bucket(weight_HBLM, index_HBLM, total_HRK.shape[1]).to(x_HBLK.dtype)
    total_HBMK += weight_HBLM.to(x_HBLK.dtype).mT @ x_HBLK
    total_HRK += weight_HBLR.flatten(1, 2).mT @ x_HBLK.flatten(1, 2)


def _by_bucket(weight_HBLM: Tensor, index_HBLM: Tensor, num_buckets: int) -> Tensor:
    zero_HBLR = weight_HBLM.new_zeros((*weight_HBLM.shape[:3], num_buckets))
    return zero_HBLR.scatter_add_(-1, index_HBLM, weight_HBLM)
