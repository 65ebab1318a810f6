"""The Transformer trunk that several architectures share: how attention and feed-forward are joined.

Shapes: B batch, L length, D width, S streams.
"""

from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn

from models.hyper_connections import HyperConnection
from models.interface import AttentionConfig
from models.layers import LAYER_NORM_EPS, FeedForward


class BlocksConfig(AttentionConfig):
    norm: Literal["original", "pre", "post"] = "pre"
    ffn_multiplier: PositiveInt = 1
    activation: Literal["relu", "swiglu"] = "relu"  # of the feed-forward
    residual: Literal["plain", "gated", "mhc"] = "plain"
    num_streams: PositiveInt = 4  # of mhc; with one it is the plain model
    sinkhorn_iterations: PositiveInt = 20  # precision, not capacity: no use in a search space
    mhc_coefficients: Literal["dynamic", "static"] = "dynamic"  # static and identity are ablations
    mhc_mixing: Literal["sinkhorn", "identity"] = "sinkhorn"

    @model_validator(mode="after")
    def _residual_fits(self) -> Self:
        if self.residual != "plain" and self.norm != "pre":
            raise ValueError(
                f"residual={self.residual} needs norm=pre, got norm={self.norm}; "
                "set norm=pre or residual=plain"
            )
        if self.has_streams and self.num_blocks < 2:
            raise ValueError(
                "residual=mhc needs num_blocks >= 2 (in one block no mixing of streams can act), "
                f"got num_blocks={self.num_blocks} and num_streams={self.num_streams}; "
                "set num_blocks=2 or residual=plain"
            )
        return self

    @property
    def has_streams(self) -> bool:
        return self.residual == "mhc" and self.num_streams > 1


class Residual(nn.Module):
    """x + F(x)"""

    def forward(self, x_BLD: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        return x_BLD + sublayer(x_BLD)


class GatedResidual(nn.Module):
    """x + F(x) σ(W x + b), a gate for each channel (LiGR: Borisyuk et al. 2024; eSASRec)."""

    def __init__(self, config: BlocksConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.hidden_dim, config.hidden_dim)

    def forward(self, x_BLD: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        return x_BLD + sublayer(x_BLD) * torch.sigmoid(self.gate(x_BLD))


def make_residual(config: BlocksConfig, index: int) -> nn.Module:
    """What joins the `index`-th sub-layer of the model: called as residual(x, sublayer)."""
    if config.residual == "gated":
        return GatedResidual(config)
    if config.has_streams:
        return HyperConnection(config, index)
    return Residual()


class Block(nn.Module):
    """Attention, then feed-forward, with the norm in one of the three places in use in the literature."""

    def __init__(self, config: BlocksConfig, attention: nn.Module, number: int) -> None:
        super().__init__()
        self.norm = config.norm
        self.attention = attention
        self.feed_forward = FeedForward(
            config.hidden_dim, config.ffn_multiplier, config.dropout, config.activation
        )
        self.attention_norm = nn.LayerNorm(config.hidden_dim, eps=LAYER_NORM_EPS)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_dim, eps=LAYER_NORM_EPS)
        self.attention_residual = make_residual(config, 2 * number)
        self.feed_forward_residual = make_residual(config, 2 * number + 1)

    def forward(self, x: Tensor, context: Any) -> Tensor:
        """`x` is (B, L, D), or (B, L, S, D) where the residual has streams (then the norm is `pre`)."""
        if self.norm == "original":  # the residual starts from the normalised input; keys stay as they are
            query_BLD = self.attention_norm(x)
            x = query_BLD + self.attention(query_BLD, x, context)
            y_BLD = self.feed_forward_norm(x)
            return y_BLD + self.feed_forward(y_BLD)  # type: ignore[no-any-return]
        if self.norm == "post":
            x = self.attention_norm(x + self.attention(x, x, context))
            return self.feed_forward_norm(x + self.feed_forward(x))  # type: ignore[no-any-return]

        def attend(x_BLD: Tensor) -> Tensor:
            y_BLD = self.attention_norm(x_BLD)
            return self.attention(y_BLD, y_BLD, context)  # type: ignore[no-any-return]

        def feed_forward(x_BLD: Tensor) -> Tensor:
            return self.feed_forward(self.feed_forward_norm(x_BLD))  # type: ignore[no-any-return]

        return self.feed_forward_residual(self.attention_residual(x, attend), feed_forward)  # type: ignore[no-any-return]


class Blocks(nn.ModuleList):
    """`num_blocks` blocks, one after the other.

    `make_attention` gives each its attention: a module called as attention(query_BLD, source_BLD, context),
    where `context` is what the model hands to `forward` (None for attention that needs nothing else).
    With residual="mhc" the streams live in here: copied at the entry, kept across all blocks, summed at the
    end (the model's last norm takes away the factor S).
    """

    def __init__(self, config: BlocksConfig, make_attention: Callable[[], nn.Module]) -> None:
        super().__init__(Block(config, make_attention(), number) for number in range(config.num_blocks))
        self.num_streams = config.num_streams if config.has_streams else 1

    def forward(self, x_BLD: Tensor, context: Any = None) -> Tensor:
        if self.num_streams == 1:
            return self._all(x_BLD, context)
        x_BLSD = x_BLD[:, :, None].expand(-1, -1, self.num_streams, -1).contiguous()
        return self._all(x_BLSD, context).sum(2)

    def _all(self, x: Tensor, context: Any) -> Tensor:
        for block in self:
            x = block(x, context)
        return x
