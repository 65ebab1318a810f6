"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018).

Shapes: B batch, L length, D width, V items + padding.
"""

from typing import Literal, Self

import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from data_pipeline.ids import PAD_ITEM_ID
from models.interface import ModelConfig, SequenceModel
from models.layers import (
    LAYER_NORM_EPS,
    CausalSelfAttention,
    FeedForward,
    drop,
    embedding_scale,
    initialise,
    item_table,
    window_positions,
)


class SASRecConfig(ModelConfig):
    hidden_dim: PositiveInt = 64
    num_blocks: PositiveInt = 2
    num_heads: PositiveInt = 1
    dropout: float = Field(default=0.2, ge=0, lt=1)
    norm: Literal["original", "pre", "post"] = "pre"
    ffn_multiplier: PositiveInt = 1
    position_std: float = Field(default=0.15, ge=0)  # .02 loses 4 % of NDCG (docs/decisions.md)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.hidden_dim % self.num_heads:
            raise ValueError(
                "hidden_dim must be a multiple of num_heads, "
                f"got hidden_dim={self.hidden_dim} and num_heads={self.num_heads}"
            )
        return self


class Block(nn.Module):
    """Attention, then feed-forward, with the norm in one of the three places in use in the literature."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        self.norm = config.norm
        self.dropout = config.dropout
        self.attention = CausalSelfAttention(config.hidden_dim, config.num_heads, config.dropout)
        self.feed_forward = FeedForward(config.hidden_dim, config.ffn_multiplier, config.dropout)
        self.attention_norm = nn.LayerNorm(config.hidden_dim, eps=LAYER_NORM_EPS)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_dim, eps=LAYER_NORM_EPS)

    def forward(self, x_BLD: Tensor) -> Tensor:
        if self.norm == "original":  # the residual starts from the normalised input; keys stay as they are
            query_BLD = self.attention_norm(x_BLD)
            x_BLD = query_BLD + self.attention(query_BLD, x_BLD)
            y_BLD = self.feed_forward_norm(x_BLD)
            return y_BLD + self.feed_forward(y_BLD)  # type: ignore[no-any-return]
        if self.norm == "pre":
            y_BLD = self.attention_norm(x_BLD)
            x_BLD = x_BLD + self.attention(y_BLD, y_BLD)
            return x_BLD + self.feed_forward(self.feed_forward_norm(x_BLD))  # type: ignore[no-any-return]
        x_BLD = self.attention_norm(x_BLD + self.attention(x_BLD, x_BLD))
        return self.feed_forward_norm(x_BLD + self.feed_forward(x_BLD))  # type: ignore[no-any-return]


class SASRec(SequenceModel):
    """Item and position embeddings, `num_blocks` blocks, a last norm; scores are tied to the item table."""

    Config = SASRecConfig

    def __init__(self, config: SASRecConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        self.item_embedding = item_table(num_items, config.hidden_dim)
        # max_len + 1 rows; row 0 is for padded places (models.layers.window_positions).
        self.position_embedding = nn.Embedding(config.max_len + 1, config.hidden_dim, padding_idx=0)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_blocks))
        self.last_norm = nn.LayerNorm(config.hidden_dim, eps=LAYER_NORM_EPS)
        initialise(self)
        nn.init.normal_(self.position_embedding.weight[1:], std=config.position_std)

    def encode(self, item_id_BL: Tensor, length_B: Tensor) -> Tensor:
        """State after each item, (B, L, D). L may not exceed `config.max_len`."""
        position_BL = window_positions(length_B, self.config.max_len, item_id_BL.shape[1])
        item_BLD = F.embedding(item_id_BL, self.item_embedding.weight, padding_idx=PAD_ITEM_ID)
        x_BLD = item_BLD * embedding_scale(self.config.hidden_dim) + self.position_embedding(position_BL)
        x_BLD = drop(x_BLD, self.config.dropout, self.training)
        for block in self.blocks:
            x_BLD = block(x_BLD)
        return self.last_norm(x_BLD)  # type: ignore[no-any-return]
