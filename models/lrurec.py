"""LRURec: linear recurrent units for sequential recommendation (Yue et al., WSDM 2024; the unit itself:
Orvieto et al., ICML 2023).

Shapes: B batch, L length, D width, N units of the complex state, 2N their real and imaginary parts in turn,
V items + padding.
"""

import math
from collections.abc import Iterator
from typing import Self

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seqsweep.data_pipeline.history import History
from seqsweep.models.interface import ModelConfig, SequenceModel, last_places
from seqsweep.models.layers import LAYER_NORM_EPS, ItemTable, SelfInitialised, drop, initialise


class LRURecConfig(ModelConfig):
    hidden_dim: PositiveInt = 64  # 64 in the paper
    state_dim: PositiveInt = 128  # N; twice the width in the paper (3.2)
    num_blocks: PositiveInt = 2  # 2 in the paper (3.4)
    ffn_multiplier: PositiveInt = 4  # 4 in the paper (equation 8)
    r_min: float = Field(default=0.8, ge=0, lt=1)  # of |lambda| at the start: a ring of 0.8 to 0.99 (3.2)
    r_max: float = Field(default=0.99, gt=0, lt=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)  # 0.2 on ML-1M, 0.6 on sparse logs (5.6)

    @model_validator(mode="after")
    def _ring_has_a_width(self) -> Self:
        if self.r_min >= self.r_max:
            raise ValueError(f"r_min must be below r_max, got r_min={self.r_min} and r_max={self.r_max}")
        return self


class LRURec(SequenceModel):
    """Normalised item embeddings, blocks of a linear recurrence and a feed-forward; tied scores.

    No positions: the recurrence tells the order. It reads a window of `max_len` items from a zero state, and
    padding comes after all real items: the states beyond a history's end are computed and never read.

    Left out is the paper's bias an item: scores are dot products with the item table alone, as of all models
    here. Embeddings aren't scaled by the root of the width, as the norm takes any scale away.
    """

    Config = LRURecConfig

    def __init__(self, config: LRURecConfig, num_items: int) -> None:
        super().__init__(config, num_items)
        self.item_embedding = ItemTable(num_items, config.hidden_dim)
        self.input_norm = nn.LayerNorm(config.hidden_dim, eps=LAYER_NORM_EPS)
        self.blocks = nn.ModuleList(LRUBlock(config) for _ in range(config.num_blocks))
        initialise(self, config)

    def encode(self, history: History) -> Tensor:
        """Give the state after each item, (B, L, D): section 3.4."""
        x_BLD = self._embed(history)
        for block in self.blocks:
            x_BLD = block(x_BLD)
        return x_BLD

    def last_state(self, history: History) -> Tensor:
        """Give the state after the last item, (B, D): the last block works out no other place's."""
        x_BLD = self._embed(history)
        blocks: list[LRUBlock] = list(self.blocks)  # type: ignore[arg-type]
        for block in blocks[:-1]:
            x_BLD = block(x_BLD)
        return blocks[-1].last(x_BLD, history.length_B)[:, 0]

    def _embed(self, history: History) -> Tensor:
        item_BLD = self.item_embedding(history.item_id_BL)
        return self.input_norm(drop(item_BLD, self.config.dropout, self.training))  # type: ignore[no-any-return]


class LRUBlock(nn.Module):
    """Equations 5 and 9: x = LN(x + dropout(Re(C h))), then x = LN(x + dropout(W2 dropout(GELU(W1 x)))).

    The paper's D is the identity, which makes D x the residual. Re(C h) is one real map of the parts of h.
    """

    def __init__(self, config: LRURecConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.dropout = config.dropout
        self.recurrence = LinearRecurrence(config)
        self.output = nn.Linear(2 * config.state_dim, width)
        self.recurrence_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.widen = nn.Linear(width, config.ffn_multiplier * width)
        self.narrow = nn.Linear(config.ffn_multiplier * width, width)
        self.feed_forward_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, x_BLD: Tensor) -> Tensor:
        return self._finish(x_BLD, self.recurrence(x_BLD))

    def last(self, x_BLD: Tensor, length_B: Tensor) -> Tensor:
        """Do what `forward` does at each user's last real place alone, (B, 1, D)."""
        h_BL2N = self.recurrence(x_BLD)
        return self._finish(last_places(x_BLD, length_B), last_places(h_BL2N, length_B))

    def _finish(self, x_BLD: Tensor, h_BL2N: Tensor) -> Tensor:
        x_BLD = self.recurrence_norm(x_BLD + drop(self.output(h_BL2N), self.dropout, self.training))
        inner = drop(F.gelu(self.widen(x_BLD)), self.dropout, self.training)
        return self.feed_forward_norm(x_BLD + drop(self.narrow(inner), self.dropout, self.training))  # type: ignore[no-any-return]


class LinearRecurrence(SelfInitialised):
    """h_t = lambda h_{t-1} + gamma (B x_t), lambda = exp(-exp(nu) + i exp(theta)), a complex number a unit.

    Equation 5 of Yue et al.; equations 6 to 8 of Orvieto et al. Whatever is learned, |lambda| < 1: no state
    grows. Complex numbers are kept as two real ones, so that each parameter is real and B is a linear map.
    """

    def __init__(self, config: LRURecConfig) -> None:
        super().__init__()
        self.r_min, self.r_max, self.max_len = config.r_min, config.r_max, config.max_len
        self.input = nn.Linear(config.hidden_dim, 2 * config.state_dim)
        self.nu_log_N = nn.Parameter(torch.empty(config.state_dim))
        self.theta_log_N = nn.Parameter(torch.empty(config.state_dim))
        self.gamma_log_N = nn.Parameter(torch.empty(config.state_dim))

    def reset_parameters(self) -> None:
        """Draw lambda evenly from the ring r_min <= |lambda| <= r_max; gamma is sqrt(1 - |lambda|^2)."""
        with torch.no_grad():
            share_N, turn_N = 1 - torch.rand(2, len(self.nu_log_N))  # never 0, whose logarithm is none
            square_N = self.r_min**2 + share_N * (self.r_max**2 - self.r_min**2)
            self.nu_log_N.copy_((-square_N.log() / 2).log())
            self.theta_log_N.copy_((2 * math.pi * turn_N).log())
            self.gamma_log_N.copy_((1 - square_N).log() / 2)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Give the parts of h after each item, (B, L, 2N), in the parameters' precision under autocast too:
        a state is the sum of as many numbers as there are items."""
        gamma_2N = self.gamma_log_N.exp().repeat_interleave(2)
        u_BL2N = F.linear(x_BLD, self.input.weight * gamma_2N[:, None], self.input.bias * gamma_2N)
        u_BLN2 = u_BL2N.to(self.nu_log_N.dtype).view(*x_BLD.shape[:2], -1, 2)
        if torch.compiler.is_exporting():
            return self._scan_of_any_length(u_BLN2).flatten(-2)
        lambda_N = torch.polar((-self.nu_log_N.exp()).exp(), self.theta_log_N.exp())
        return torch.view_as_real(scan(torch.view_as_complex(u_BLN2), lambda_N)).flatten(-2)

    def _scan_of_any_length(self, u_BLN2: Tensor) -> Tensor:
        """`scan` for a graph: without complex numbers, and with as many passes for all lengths.

        After the pass with step s a place holds the sum of its last 2s inputs. (B, L, N, 2)
        """
        length = u_BLN2.shape[1]
        re_BLN, im_BLN = u_BLN2.unbind(-1)
        for s in _powers_of_two(self.max_len):
            size_N, angle_N = (-s * self.nu_log_N.exp()).exp(), s * self.theta_log_N.exp()
            a_N, b_N = size_N * angle_N.cos(), size_N * angle_N.sin()
            re_s, im_s = (F.pad(part, (0, 0, s, 0))[:, :length] for part in (re_BLN, im_BLN))
            re_BLN, im_BLN = re_BLN + a_N * re_s - b_N * im_s, im_BLN + a_N * im_s + b_N * re_s
        return torch.stack((re_BLN, im_BLN), -1)


def scan(u_BLN: Tensor, lambda_N: Tensor) -> Tensor:
    """Give h_t = lambda h_{t-1} + u_t for all t, from h_{-1} = 0: (B, L, N), complex.

    In 2 log2 L passes over 2 L places altogether (Brent and Kung 1982), where Hillis and Steele's doubling
    takes log2 L passes over L places each. Written by hand with its gradient, so that no pass is kept.
    """
    h_BLN: Tensor = _Scan.apply(u_BLN, lambda_N)  # type: ignore[no-untyped-call]
    return h_BLN


class _Scan(torch.autograd.Function):
    """The passes are linear in u: the gradient is their transposes in reverse."""

    @staticmethod
    def forward(ctx, u, decay):  # type: ignore[no-untyped-def]
        h = u.clone(memory_format=torch.contiguous_format)
        powers = _powers(decay, u.shape[1])
        for step, source, target in _passes(u.shape[1]):
            h[:, target].addcmul_(powers[step], h[:, source])
        ctx.save_for_backward(h, decay)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_h):  # type: ignore[no-untyped-def]
        h, decay = ctx.saved_tensors
        grad_u = grad_h.clone(memory_format=torch.contiguous_format)
        powers = _powers(decay.conj().resolve_conj(), h.shape[1])
        for step, source, target in reversed(list(_passes(h.shape[1]))):
            grad_u[:, source].addcmul_(powers[step], grad_u[:, target])
        return grad_u, (grad_u[:, 1:] * h[:, :-1].conj()).sum((0, 1))


def _passes(length: int) -> Iterator[tuple[int, slice, slice]]:
    """Step s, source and target places of each pass: h[target] += lambda^s h[source], s places earlier.

    On the way up, the last place of every 2s gets the sum of those places; on the way down, the places in
    the middle between two that are done.
    """
    steps = list(_powers_of_two(length))
    for s in steps:
        if 2 * s <= length:
            yield s, *_places(2 * s - 1, s, length)
    for s in reversed(steps):
        if 3 * s <= length:
            yield s, *_places(3 * s - 1, s, length)


def _places(first: int, s: int, length: int) -> tuple[slice, slice]:
    """Each 2s-th place from `first` on, as those s places earlier and as themselves."""
    return slice(first - s, length - s, 2 * s), slice(first, length, 2 * s)


def _powers_of_two(length: int) -> Iterator[int]:
    """Those below `length`."""
    return (2**k for k in range((length - 1).bit_length()))


def _powers(decay_N: Tensor, length: int) -> dict[int, Tensor]:
    powers = {}
    for s in _powers_of_two(length):
        powers[s] = decay_N
        decay_N = decay_N * decay_N
    return powers
