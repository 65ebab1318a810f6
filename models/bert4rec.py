"""BERT4Rec: bidirectional encoder representations for sequential recommendation (Sun et al., CIKM 2019).

Shapes: B batch, L length, D width, H heads, K = D / H head width, V items + padding.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from seqsweep.data_pipeline.history import History
from seqsweep.data_pipeline.ids import MASK_ITEM_ID, PAD_ITEM_ID
from seqsweep.models.attention import BidirectionalSelfAttention
from seqsweep.models.interface import AttentionConfig, SequenceModel
from seqsweep.models.layers import (
    LAYER_NORM_EPS,
    ItemTable,
    drop,
    embedding_scale,
    initialise,
    window_positions,
)


class BERT4RecConfig(AttentionConfig):
    init: Literal["normal", "xavier"] = "xavier"  # learns a ring that normal maps and small tables do not
    item_std: PositiveFloat = 0.03
    num_heads: PositiveInt = 2
    ffn_multiplier: PositiveInt = 4
    position_std: float = Field(default=0.15, ge=0)
    mask_probability: float = Field(default=0.2, gt=0, lt=1)  # of an item; .2 on ML-1M, .6 on Beauty (4.4)
    mask_last_share: float = Field(default=0.1, ge=0, le=1)  # of sequences: their last item alone is masked


class BERT4Rec(SequenceModel):
    """Every place sees all others; what is told is masked, and at inference that is one place more.

    Post-norm blocks, and a dense layer with GELU and a norm before the scores (3.5). Left out is the paper's
    bias an item: scores are dot products with the item table alone, as of all models here.
    """

    Config = BERT4RecConfig
    masked = True

    def __init__(self, config: BERT4RecConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        width = config.hidden_dim
        self.item_embedding = ItemTable(num_items, width)
        self.mask_vector = nn.Parameter(torch.empty(width))  # stands for the item at a masked place
        # A history of max_len items and the mask, and row 0 for padded places.
        self.position_embedding = nn.Embedding(config.max_len + 2, width, padding_idx=0)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.num_blocks))
        self.head = nn.Linear(width, width)
        self.head_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        initialise(self, config)
        nn.init.normal_(self.mask_vector, std=config.item_std)
        nn.init.normal_(self.position_embedding.weight[1:], std=config.position_std)

    def encode(self, history: History) -> Tensor:
        """State at each place, (B, L, D), from all real places. L may not exceed `config.max_len` + 1."""
        item_id_BL, length_B = history.item_id_BL, history.length_B
        is_real_BL = torch.arange(item_id_BL.shape[1], device=item_id_BL.device) < length_B[:, None]
        position_BL = window_positions(length_B, self.config.max_len + 1, item_id_BL.shape[1])
        item_BLD = self.item_embedding(item_id_BL.clamp(min=PAD_ITEM_ID))
        item_BLD = torch.where((item_id_BL == MASK_ITEM_ID)[:, :, None], self.mask_vector, item_BLD)
        x_BLD = item_BLD * embedding_scale(self.config.hidden_dim) + self.position_embedding(position_BL)
        x_BLD = drop(x_BLD, self.config.dropout, self.training)
        for block in self.blocks:
            x_BLD = block(x_BLD, is_real_BL)
        return self.head_norm(F.gelu(self.head(x_BLD)))  # type: ignore[no-any-return]

    def last_state(self, history: History) -> Tensor:
        """The state at a mask right after the last item, (B, D)."""
        end_B1 = history.length_B[:, None]
        item_id_BL = F.pad(history.item_id_BL, (0, 1), value=PAD_ITEM_ID).scatter(1, end_B1, MASK_ITEM_ID)
        return super().last_state(History(item_id_BL, history.length_B + 1))


class EncoderBlock(nn.Module):
    """Attention and a feed-forward with GELU, each added and then normalised (3.4)."""

    def __init__(self, config: BERT4RecConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.dropout = config.dropout
        self.attention = BidirectionalSelfAttention(width, config.num_heads, config.dropout)
        self.attention_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.widen = nn.Linear(width, config.ffn_multiplier * width)
        self.narrow = nn.Linear(config.ffn_multiplier * width, width)
        self.feed_forward_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, x_BLD: Tensor, is_real_BL: Tensor) -> Tensor:
        attended_BLD = drop(self.attention(x_BLD, is_real_BL), self.dropout, self.training)
        x_BLD = self.attention_norm(x_BLD + attended_BLD)
        told_BLD = drop(self.narrow(F.gelu(self.widen(x_BLD))), self.dropout, self.training)
        return self.feed_forward_norm(x_BLD + told_BLD)  # type: ignore[no-any-return]
