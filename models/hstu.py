"""HSTU: hierarchical sequential transduction units (Zhai et al., ICML 2024, equations 1-3).

Shapes: B batch, L length, D width, H heads, K = D / H head width, T buckets of time, M = L * L pairs,
V items + padding.
"""

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from seqsweep.data_pipeline.history import History, Times
from seqsweep.models.interface import AttentionConfig, SequenceModel
from seqsweep.models.layers import (
    LAYER_NORM_EPS,
    ItemTable,
    PackedLinear,
    SelfInitialised,
    drop,
    embedding_scale,
    initialise,
    window_positions,
)

LOG_BUCKET = 0.301  # of the published code, natural logarithm: each bucket is 35 % longer than the last
BIAS_STD = 0.02  # of the published code
POINTWISE_NORM_EPS = 1e-6  # of the published code; sums of few, small weights are normalised here


class HSTUConfig(AttentionConfig):
    position_std: float = Field(default=0.02, ge=0)
    time_buckets: PositiveInt = 128  # beyond e^(.301 * 128) units all spans are one
    target_time: bool = False  # see HSTU


class HSTU(SequenceModel):
    """Item and position embeddings, blocks of pointwise attention, a last norm; tied scores.

    A pair of places is biased by how long ago the earlier one was: t_i - t_j for the query i. The published
    code takes t_{i+1} - t_j, the time of the item to be told, and so do its published numbers: that is
    `target_time`, off by default, as nobody knows when a user comes back.
    """

    Config = HSTUConfig
    uses_time = True

    def __init__(self, config: HSTUConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        self.item_embedding = ItemTable(num_items, config.hidden_dim)
        # max_len + 1 rows; row 0 is for padded places (models.layers.window_positions).
        self.position_embedding = nn.Embedding(config.max_len + 1, config.hidden_dim, padding_idx=0)
        self.blocks = nn.ModuleList(HSTUBlock(config) for _ in range(config.num_blocks))
        self.last_norm = nn.LayerNorm(config.hidden_dim, eps=LAYER_NORM_EPS)
        initialise(self, config)
        nn.init.normal_(self.position_embedding.weight[1:], std=config.position_std)

    def encode(self, history: History) -> Tensor:
        """State after each item, (B, L, D). L may not exceed `config.max_len`; needs `history.times`."""
        assert history.times is not None, "HSTU uses time"
        config, item_id_BL = self.config, history.item_id_BL
        bucket_BLL = span_buckets(history.times, config.time_buckets, target_time=config.target_time)
        position_BL = window_positions(history.length_B, config.max_len, item_id_BL.shape[1])
        item_BLD = self.item_embedding(item_id_BL)
        x_BLD = item_BLD * embedding_scale(config.hidden_dim) + self.position_embedding(position_BL)
        x_BLD = drop(x_BLD, config.dropout, self.training)
        for block in self.blocks:
            x_BLD = block(x_BLD, bucket_BLL)
        return self.last_norm(x_BLD)  # type: ignore[no-any-return]


class HSTUBlock(SelfInitialised):
    """Equations 1 to 3, with the norm before the projection that the published code has:

    U, V, Q, K = split(SiLU(W1 LN(x))); A = SiLU(Q Kᵀ + rab) / n, causal; x + dropout(W2(LN(A V) * U)).

    No softmax: weights are as large as they are, so that a state can tell how much of a kind a history holds.
    n is `max_len`, whatever the length: a history's states do not depend on what it is padded to.
    """

    def __init__(self, config: HSTUConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.num_heads = config.num_heads
        self.max_len = config.max_len
        self.dropout = config.dropout
        self.input_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.uvqk = PackedLinear(width, 4)
        self.distance_bias = nn.Embedding(config.max_len, config.num_heads)  # of i - j, from 0
        self.time_bias = nn.Embedding(config.time_buckets + 1, config.num_heads)
        self.pointwise_norm = nn.LayerNorm(width, eps=POINTWISE_NORM_EPS)
        self.output = nn.Linear(width, width)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.distance_bias.weight, std=BIAS_STD)
        nn.init.normal_(self.time_bias.weight, std=BIAS_STD)

    def forward(self, x_BLD: Tensor, bucket_BLL: Tensor) -> Tensor:
        u_BLD, v_BLD, q_BLD, k_BLD = F.silu(self.uvqk(self.input_norm(x_BLD))).chunk(4, dim=-1)
        q_BHLK, k_BHLK, v_BHLK = (self._split_heads(part) for part in (q_BLD, k_BLD, v_BLD))
        score_BHLL = q_BHLK @ k_BHLK.transpose(2, 3)
        score_BHLL = score_BHLL + self._bias(bucket_BLL).to(score_BHLL.dtype)
        # Masked after SiLU: of minus infinity it is NaN.
        attended_BHLK = F.silu(score_BHLL).tril() @ v_BHLK
        attended_BLD = attended_BHLK.transpose(1, 2).flatten(2) / self.max_len
        y_BLD = self.output(self.pointwise_norm(attended_BLD) * u_BLD)
        return x_BLD + drop(y_BLD, self.dropout, self.training)

    def _bias(self, bucket_BLL: Tensor) -> Tensor:
        """The rab of equation 2, (B, H, L, L): a weight for the distance and one for the time.

        The time's is gathered from a row of weights a user, which on a CPU goes back 15 x as fast as from an
        embedding. On a GPU its gradient is added up in no fixed order: results vary by rounding.
        """
        batch, length, _ = bucket_BLL.shape
        weight_BHT = self.time_bias.weight.T.expand(batch, -1, -1)
        bucket_BHM = bucket_BLL.view(batch, 1, -1).expand(-1, self.num_heads, -1)
        time_BHLL = weight_BHT.gather(2, bucket_BHM).view(batch, self.num_heads, length, length)
        place_L = torch.arange(length, device=bucket_BLL.device)
        distance_LL = (place_L[:, None] - place_L).clamp_(min=0)  # of later places, which nobody sees: any
        distance_HLL = self.distance_bias(distance_LL).permute(2, 0, 1)
        return time_BHLL + distance_HLL  # type: ignore[no-any-return]

    def _split_heads(self, x_BLD: Tensor) -> Tensor:
        batch, length, width = x_BLD.shape
        return x_BLD.view(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2)


def span_buckets(times: Times, num_buckets: int, *, target_time: bool) -> Tensor:
    """Bucket of the time between query (row) and key (column): floor(ln(span) / .301), at most `num_buckets`.

    (B, L, L) int64. Spans are int64 in the log's own unit: a finer unit moves all of them by as many buckets.
    Spans below one unit count as one. Padded places give some bucket.
    """
    query_BL = times.next_time_BL if target_time else times.time_BL
    span_BLL = (query_BL[:, :, None] - times.time_BL[:, None, :]).abs_().clamp_(min=1)
    return span_BLL.float().log_().div_(LOG_BUCKET).clamp_(max=num_buckets).long()
