"""Parts that several architectures share.

Shapes: B batch, L length, D width, H heads, K = D / H head width, V items + padding.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqsweep.data_pipeline.ids import PAD_ITEM_ID
from seqsweep.models.interface import ModelConfig

LINEAR_STD = 0.02  # of linear maps at the start: BERT's, and so RecBole's and most references'
LAYER_NORM_EPS = 1e-8  # of the references; torch's default 1e-5 moves the golden values


class SelfInitialised(nn.Module):
    """A part whose parameters `initialise` leaves to the part itself."""

    def reset_parameters(self) -> None:
        raise NotImplementedError


class PackedLinear(nn.Linear):
    """Several projections of one width in one matrix; each is initialised as the matrix it is."""

    def __init__(self, width: int, num_parts: int) -> None:
        super().__init__(width, num_parts * width)

    def parts(self) -> tuple[Tensor, ...]:
        return self.weight.detach().chunk(self.out_features // self.in_features)


class FeedForward(nn.Module):
    """Position-wise D -> multiplier * D -> D with ReLU and dropout after each linear (SASRec, 3.2).

    With `swiglu` the inner layer is silu(a) * b of two projections of that width (Shazeer 2020), which makes
    three matrices of two.
    """

    def __init__(
        self, width: int, multiplier: int, dropout: float, activation: Literal["relu", "swiglu"] = "relu"
    ) -> None:
        super().__init__()
        self.activation = activation
        self.widen = nn.Linear(width, multiplier * width * (2 if activation == "swiglu" else 1))
        self.narrow = nn.Linear(multiplier * width, width)
        self.dropout = dropout

    def forward(self, x_BLD: Tensor) -> Tensor:
        if self.activation == "swiglu":
            gate, value = self.widen(x_BLD).chunk(2, dim=-1)
            inner = drop(F.silu(gate) * value, self.dropout, self.training)
        else:
            inner = F.relu(drop(self.widen(x_BLD), self.dropout, self.training))
        return drop(self.narrow(inner), self.dropout, self.training)


def drop(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout. On a CPU with random numbers of our own: torch's take half of a training step."""
    if not training or p == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p, training=True)
    factor, share = draw_kept(tuple(x.shape), p, x.device, x.dtype)
    return x * factor.mul_(1 / share)  # a factor of x's own type: one pass forwards and one backwards


def draw_kept(
    shape: tuple[int, ...], p: float, device: torch.device, dtype: torch.dtype = torch.uint8
) -> tuple[Tensor, float]:
    """Mask that is 0 with probability `p` (to 2^-17), else 1, and the exact probability of 1.

    Four places share a 64-bit random number: on a CPU 5 to 9 times as fast as torch's Bernoulli. Never bool,
    which CPU kernels write 6 times and multiply 4 times as slowly as uint8.
    """
    size, threshold = math.prod(shape), min(round(p * 2**16), 2**16 - 1)
    bits = torch.empty(-(-size // 4), dtype=torch.int64, device=device).random_(-(2**63), None)
    kept = torch.empty(shape, dtype=dtype, device=device)
    torch.ge(bits.view(torch.int16)[:size].view(shape), threshold - 2**15, out=kept)
    return kept, 1 - threshold / 2**16


class ItemTable(nn.Embedding):
    """Item embeddings (num_items + 1, D) with a zero row, that gets no gradient, for padding."""

    def __init__(self, num_items: int, width: int) -> None:
        super().__init__(num_items + 1, width, padding_idx=PAD_ITEM_ID)


def window_positions(length_B: Tensor, max_len: int, width_L: int) -> Tensor:
    """Row of the position table for every place of a right-padded batch, (B, L).

    Positions count from the end of the window: the last item sits at row `max_len`, whatever the length, so
    that a short and a long history look alike near their end (equal to the references' left padding).
    Padded places get row 0, which is never trained.
    """
    place_L = torch.arange(width_L, device=length_B.device)
    row_BL = max_len - (length_B[:, None] - 1 - place_L)
    return row_BL.masked_fill(place_L >= length_B[:, None], 0)


def initialise(module: nn.Module, config: ModelConfig) -> None:
    """Zero biases and padding rows; the rest by `config.init`.

    `normal`: all matrices and tables with a standard deviation of .02, as in BERT. `xavier`: Xavier-normal,
    as in SASRec.pytorch. Items are normal with `config.item_std` either way: of a large table Xavier makes a
    small one, that takes thousands of steps to grow (docs/decisions.md).
    """
    for parameter in module.parameters():
        if parameter.dim() > 1:
            _initialise_matrix(parameter, config)
    for child in module.modules():
        if isinstance(child, nn.Linear) and child.bias is not None:
            nn.init.zeros_(child.bias)
        if isinstance(child, PackedLinear):
            for matrix in child.parts():
                _initialise_matrix(matrix, config)
        if isinstance(child, ItemTable):
            nn.init.normal_(child.weight, std=config.item_std)
        if isinstance(child, nn.Embedding) and child.padding_idx is not None:
            with torch.no_grad():
                child.weight[child.padding_idx].zero_()
        if isinstance(child, SelfInitialised):
            child.reset_parameters()


def _initialise_matrix(matrix: Tensor, config: ModelConfig) -> None:
    if config.init == "normal":
        nn.init.normal_(matrix, std=LINEAR_STD)
    else:
        nn.init.xavier_normal_(matrix)


def embedding_scale(width: int) -> float:
    return math.sqrt(width)  # Transformer paper, 3.4; position embeddings stay unscaled
