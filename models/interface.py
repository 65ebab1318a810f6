"""What training, ranking and export ask of a model."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor, nn


class ModelConfig(BaseModel):
    """Settings every architecture has; each one adds its own beside its class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_len: PositiveInt = 50  # longest history the model reads, in items


class SequenceModel(nn.Module):
    """A model of "which item comes next", with scores tied to its item table.

    Shapes: B batch, L length, D width, V items + padding. Batches are padded on the right with
    `PAD_ITEM_ID`; the states at padded positions mean nothing and are never read.
    """

    Config: ClassVar[type[ModelConfig]]
    config: Any  # an instance of Config
    item_embedding: nn.Embedding  # (V, D); row 0 is padding and stays zero

    def __init__(self, config: Any, num_items: int) -> None:
        super().__init__()
        self.config = config

    def encode(self, item_id_BL: Tensor, length_B: Tensor) -> Tensor:
        """State after each item, (B, L, D): position l sees items 0..l only. L <= `config.max_len`."""
        raise NotImplementedError

    def score(self, state_BD: Tensor) -> Tensor:
        """Dot products with all real items, (B, V - 1); column j is item j + 1."""
        return state_BD @ self.item_embedding.weight[1:].T
