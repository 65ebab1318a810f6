"""GRU4Rec: session-based recommendations with recurrent networks (Hidasi et al., ICLR 2016; Hidasi and
Karatzoglou, CIKM 2018).

Shapes: B batch, L length, D width of the item table, G width of the GRU layers, V items + padding.
"""

from typing import Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from seqsweep.data_pipeline.history import History
from seqsweep.models.interface import ModelConfig, SequenceModel
from seqsweep.models.layers import ItemTable, drop, embedding_scale, initialise


class GRU4RecConfig(ModelConfig):
    init: Literal["normal", "xavier"] = "xavier"  # normal maps take twice the epochs here (docs/decisions.md)
    item_std: PositiveFloat = 0.03  # see GRU4Rec
    hidden_dim: PositiveInt = 64  # width of the item table, and of the states that are scored
    gru_dim: PositiveInt = 128
    num_layers: PositiveInt = 1
    dropout: float = Field(default=0.2, ge=0, lt=1)  # of the embeddings, and between the layers


class GRU4Rec(SequenceModel):
    """Item embeddings, GRU layers, a linear map to the table's width; scores are tied to the item table.

    No positions: the recurrence tells the order. It reads a window of `max_len` items from a zero state.
    Padding comes after all real items, so that no packing is needed: the states beyond a history's end are
    computed and never read.

    The table begins as that of the other models, so that inputs have a standard deviation near .25. With
    inputs of one (a table of 1/√D) valid NDCG@10 fell on ML-100K from .117 and .119 to .110 and .098 (two
    seeds), with inputs of .08 to .108 and .116.
    """

    Config = GRU4RecConfig

    def __init__(self, config: GRU4RecConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        self.item_embedding = ItemTable(num_items, config.hidden_dim)
        # Layer by layer, as the dropout between cuDNN's own layers keeps a generator that no seed resets:
        # training that goes on from a checkpoint would differ from training that was never interrupted.
        self.layers = nn.ModuleList(
            nn.GRU(config.gru_dim if layer else config.hidden_dim, config.gru_dim, batch_first=True)
            for layer in range(config.num_layers)
        )
        self.output = nn.Linear(config.gru_dim, config.hidden_dim)
        initialise(self, config)
        for layer in self.layers:
            _initialise_gates(layer)

    def encode(self, history: History) -> Tensor:
        """State after each item, (B, L, D)."""
        item_BLD = self.item_embedding(history.item_id_BL)
        x_BLG = item_BLD * embedding_scale(self.config.hidden_dim)
        for layer in self.layers:
            x_BLG = drop(x_BLG, self.config.dropout, self.training)
            # Not in bfloat16: a state is rounded as often as there are items, and the layers of this width
            # wait for one another rather than for arithmetic.
            with torch.autocast(x_BLG.device.type, enabled=False):
                x_BLG, _ = layer(x_BLG)
        return self.output(x_BLG)  # type: ignore[no-any-return]


def _initialise_gates(layer: nn.Module) -> None:
    """Each gate's matrix by itself: torch packs three into one, whose fans would be those of none.

    Xavier-normal from the input; orthogonal from the state before, which keeps the size of what is fed back
    at every step (Saxe et al. 2014). Zero biases.
    """
    assert isinstance(layer, nn.GRU)
    for name, parameter in layer.named_parameters():
        for gate in parameter.detach().chunk(3):
            if name.startswith("bias"):
                nn.init.zeros_(gate)
            elif name.startswith("weight_hh"):
                nn.init.orthogonal_(gate)
            else:
                nn.init.xavier_normal_(gate)
