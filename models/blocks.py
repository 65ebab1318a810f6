"""The Transformer trunk that several architectures share: how attention and feed-forward are joined.

Shapes: B batch, L length, D width.
"""

from collections.abc import Callable
from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from models.interface import ModelConfig
from models.layers import LAYER_NORM_EPS, FeedForward


class BlocksConfig(ModelConfig):
    hidden_dim: PositiveInt = 64
    num_blocks: PositiveInt = 2
    num_heads: PositiveInt = 1
    dropout: float = Field(default=0.2, ge=0, lt=1)
    norm: Literal["original", "pre", "post"] = "pre"
    ffn_multiplier: PositiveInt = 1

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

    def __init__(self, config: BlocksConfig, attention: nn.Module) -> None:
        super().__init__()
        self.norm = config.norm
        self.attention = attention
        self.feed_forward = FeedForward(config.hidden_dim, config.ffn_multiplier, config.dropout)
        self.attention_norm = nn.LayerNorm(config.hidden_dim, eps=LAYER_NORM_EPS)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_dim, eps=LAYER_NORM_EPS)

    def forward(self, x_BLD: Tensor, context: Any) -> Tensor:
        if self.norm == "original":  # the residual starts from the normalised input; keys stay as they are
            query_BLD = self.attention_norm(x_BLD)
            x_BLD = query_BLD + self.attention(query_BLD, x_BLD, context)
            y_BLD = self.feed_forward_norm(x_BLD)
            return y_BLD + self.feed_forward(y_BLD)  # type: ignore[no-any-return]
        if self.norm == "pre":
            y_BLD = self.attention_norm(x_BLD)
            x_BLD = x_BLD + self.attention(y_BLD, y_BLD, context)
            return x_BLD + self.feed_forward(self.feed_forward_norm(x_BLD))  # type: ignore[no-any-return]
        x_BLD = self.attention_norm(x_BLD + self.attention(x_BLD, x_BLD, context))
        return self.feed_forward_norm(x_BLD + self.feed_forward(x_BLD))  # type: ignore[no-any-return]


class Blocks(nn.ModuleList):
    """`num_blocks` blocks, one after the other.

    `make_attention` gives each its attention: a module called as attention(query_BLD, source_BLD, context),
    where `context` is what the model hands to `forward` (None for attention that needs nothing else).
    """

    def __init__(self, config: BlocksConfig, make_attention: Callable[[], nn.Module]) -> None:
        super().__init__(Block(config, make_attention()) for _ in range(config.num_blocks))

    def forward(self, x_BLD: Tensor, context: Any = None) -> Tensor:
        for block in self:
            x_BLD = block(x_BLD, context)
        return x_BLD
