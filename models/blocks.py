"""The Transformer trunk that several architectures share: how attention and feed-forward are joined.

Shapes: B batch, L length, D width, S streams.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seqsweep.models.attention import CausalSelfAttention
from seqsweep.models.hyper_connections import HyperConnection
from seqsweep.models.interface import BlocksConfig, last_places
from seqsweep.models.layers import LAYER_NORM_EPS, FeedForward


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
        return self._feed_forward(
            self._attend(x, x, lambda query, source: self.attention(query, source, context))
        )

    def last(self, x: Tensor, context: Any, length_B: Tensor) -> Tensor:
        """`forward` at each user's last real place, (B, 1, D) or (B, 1, S, D).

        Queries of other places are spared where the attention can be asked for one place alone: without
        dropout, and without streams, whose connection joins what it has read place by place.
        """
        if isinstance(self.attention, CausalSelfAttention) and x.dim() == 3 and not self.training:
            attend_last = self.attention.attend_last
            x_last = last_places(x, length_B)
            x_last = self._attend(x_last, x, lambda query, source: attend_last(query, source, length_B))
        else:
            attended = self._attend(x, x, lambda query, source: self.attention(query, source, context))
            x_last = last_places(attended, length_B)
        return self._feed_forward(x_last)

    def _attend(self, x: Tensor, source: Tensor, attention: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The block's first half for the places of `x`, which look at those of `source`."""
        if self.norm == "original":  # the residual starts from the normalised input; keys stay as they are
            query_BLD = self.attention_norm(x)
            return query_BLD + attention(query_BLD, source)  # type: ignore[no-any-return]
        if self.norm == "post":
            return self.attention_norm(x + attention(x, source))  # type: ignore[no-any-return]

        def attend(x_BLD: Tensor) -> Tensor:
            query_BLD = self.attention_norm(x_BLD)
            return attention(query_BLD, query_BLD if source is x else self.attention_norm(source))

        return self.attention_residual(x, attend)  # type: ignore[no-any-return]

    def _feed_forward(self, x: Tensor) -> Tensor:
        if self.norm == "original":
            y_BLD = self.feed_forward_norm(x)
            return y_BLD + self.feed_forward(y_BLD)  # type: ignore[no-any-return]
        if self.norm == "post":
            return self.feed_forward_norm(x + self.feed_forward(x))  # type: ignore[no-any-return]
        return self.feed_forward_residual(x, lambda x_BLD: self.feed_forward(self.feed_forward_norm(x_BLD)))  # type: ignore[no-any-return]


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
        x = self._enter(x_BLD)
        for block in self:
            x = block(x, context)
        return self._leave(x)

    def last(self, x_BLD: Tensor, length_B: Tensor, context: Any = None) -> Tensor:
        """`forward` at each user's last real place alone, (B, D): so the last block computes little else."""
        x = self._enter(x_BLD)
        blocks: list[Block] = list(self)  # type: ignore[arg-type]
        for block in blocks[:-1]:
            x = block(x, context)
        return self._leave(blocks[-1].last(x, context, length_B))[:, 0]

    def _enter(self, x_BLD: Tensor) -> Tensor:
        if self.num_streams == 1:
            return x_BLD
        return x_BLD[:, :, None].expand(-1, -1, self.num_streams, -1).contiguous()

    def _leave(self, x: Tensor) -> Tensor:
        return x if self.num_streams == 1 else x.sum(2)
