"""What training, ranking and export ask of a model."""

from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from seqsweep.data_pipeline.history import History

REAL_ITEMS = slice(1, None)


class ModelConfig(BaseModel):
    """Settings every architecture has; each one adds its own beside its class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_len: PositiveInt = 50  # longest history the model reads, in items
    init: Literal["normal", "xavier"] = "normal"  # of linear maps: normal with LINEAR_STD, or Xavier-normal
    item_std: PositiveFloat = 0.02  # of item embeddings at the start


class AttentionConfig(ModelConfig):
    """Settings of every model that is made of blocks of attention."""

    hidden_dim: PositiveInt = 64
    num_blocks: PositiveInt = 2
    num_heads: PositiveInt = 1
    dropout: float = Field(default=0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.hidden_dim % self.num_heads:
            raise ValueError(
                "hidden_dim must be a multiple of num_heads, "
                f"got hidden_dim={self.hidden_dim} and num_heads={self.num_heads}"
            )
        return self


class SequenceModel(nn.Module):
    """A model of "which item comes next", with scores tied to its item table.

    Shapes: B batch, L length, D width, V items + padding. Batches are padded on the right with
    `PAD_ITEM_ID`; the states at padded positions mean nothing and are never read.
    """

    Config: ClassVar[type[ModelConfig]]
    uses_time: ClassVar[bool] = False  # then `History.times` is there
    masked: ClassVar[bool] = False  # trained to tell masked items; Config has what `MaskedItem` needs
    config: Any  # an instance of Config
    item_embedding: nn.Embedding  # (V, D); row 0 is padding and stays zero

    def __init__(self, config: Any, num_items: int) -> None:
        super().__init__()
        self.config = config

    def encode(self, history: History) -> Tensor:
        """State at each place, (B, L, D): place l sees items 0..l only (a masked model sees all).

        L <= `config.max_len`; a masked model trains on one more, the place of the item to tell.
        """
        raise NotImplementedError

    def last_state(self, history: History) -> Tensor:
        """The state that tells the next item, (B, D)."""
        return last_places(self.encode(history), history.length_B)[:, 0]

    def score(self, state_BD: Tensor, items: slice | Tensor = REAL_ITEMS) -> Tensor:
        """Dot products with the items of these ids, all real ones if none are given: column j is item j + 1.

        As items times states, and laid out so: with few states a CPU multiplies that a quarter faster.
        """
        return (self.item_embedding.weight[items] @ state_BD.T).T


def last_places(x_BL: Tensor, length_B: Tensor) -> Tensor:
    """What stands at the last real place of each user, (B, 1, ...) of (B, L, ...)."""
    row_B = torch.arange(length_B.shape[0], device=length_B.device)  # len() would fix it in an ONNX graph
    return x_BL[row_B, length_B - 1][:, None]


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
