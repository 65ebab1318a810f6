"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018).

Shapes: B batch, L length, D width, V items + padding.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from seqsweep.data_pipeline.history import History
from seqsweep.models.attention import CausalSelfAttention
from seqsweep.models.blocks import Blocks
from seqsweep.models.interface import BlocksConfig, SequenceModel
from seqsweep.models.layers import (
    LAYER_NORM_EPS,
    ItemTable,
    drop,
    embedding_scale,
    initialise,
    window_positions,
)


class SASRecConfig(BlocksConfig):
    init: Literal["normal", "xavier"] = "xavier"  # better on two logs of three (docs/decisions.md)
    position_std: float = Field(default=0.02, ge=0)


class SASRec(SequenceModel):
    """Item and position embeddings, `num_blocks` blocks, a last norm; scores are tied to the item table."""

    Config = SASRecConfig

    def __init__(self, config: SASRecConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        self.item_embedding = ItemTable(num_items, config.hidden_dim)
        # max_len + 1 rows; row 0 is for padded places (models.layers.window_positions).
        self.position_embedding = nn.Embedding(config.max_len + 1, config.hidden_dim, padding_idx=0)
        self.blocks = Blocks(
            config, lambda: CausalSelfAttention(config.hidden_dim, config.num_heads, config.dropout)
        )
        self.last_norm = nn.LayerNorm(config.hidden_dim, eps=LAYER_NORM_EPS)
        initialise(self, config)
        nn.init.normal_(self.position_embedding.weight[1:], std=config.position_std)

    def encode(self, history: History) -> Tensor:
        """State after each item, (B, L, D). L may not exceed `config.max_len`."""
        return self.last_norm(self.blocks(self._embed(history)))  # type: ignore[no-any-return]

    def last_state(self, history: History) -> Tensor:
        return self.last_norm(self.blocks.last(self._embed(history), history.length_B))  # type: ignore[no-any-return]

    def _embed(self, history: History) -> Tensor:
        position_BL = window_positions(history.length_B, self.config.max_len, history.item_id_BL.shape[1])
        item_BLD = self.item_embedding(history.item_id_BL)
        x_BLD = item_BLD * embedding_scale(self.config.hidden_dim) + self.position_embedding(position_BL)
        return drop(x_BLD, self.config.dropout, self.training)
