"""The gradient of a large item table on a CPU, of which a batch touches few rows."""

import torch
from torch import Tensor, nn


class TableGradient:
    """One dense gradient that lives through the steps, so that only the touched rows are written and cleared.

    Without it each look-up of a step makes a gradient as large as the table and fills it with zeros: of Games
    (23,715 items) a seventh of a step, of a million items nearly all of it. Adam needs it dense, as it moves
    every row at every step.

    A step: `begin`, the backward pass, `settle`, then the optimizer.
    """

    def __init__(self, table: nn.Embedding) -> None:
        self._table = table
        self._gradient: Tensor | None = None
        self._touched: Tensor | None = None

    def begin(self, num_look_ups: float) -> None:
        """`num_look_ups`: rows that the step will read, repeats counted; with more than there are, all is
        left to torch."""
        weight = self._table.weight
        self._table.sparse = weight.device.type == "cpu" and num_look_ups < len(weight)
        if self._gradient is not None and self._touched is not None:
            self._gradient.index_fill_(0, self._touched, 0.0)
        self._touched = None

    def settle(self) -> None:
        """Make the sparse gradient of the backward pass dense."""
        weight = self._table.weight
        if weight.grad is None or not weight.grad.is_sparse:
            return
        if self._gradient is None:
            self._gradient = torch.zeros_like(weight)
        self._touched = weight.grad._indices()[0]
        self._gradient.index_add_(0, self._touched, weight.grad._values())
        weight.grad = self._gradient
