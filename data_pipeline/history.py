"""What a model reads: the type that goes from the data to the models.

Shapes: B users, L length.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Times:
    """When the interactions of a History happened, int64 in the log's own unit (seconds or finer)."""

    time_BL: Tensor  # padded places repeat the last real one
    next_time_BL: Tensor  # of the interaction after each: the target's; most models must not look at it
    origin_B: Tensor  # the user's first interaction
    unit_B: Tensor  # the user's smallest positive gap in the training part; 1 where there is none


@dataclass(frozen=True)
class History:
    """The last interactions of B users, oldest first, padded on the right with `PAD_ITEM_ID`."""

    item_id_BL: Tensor  # int64; `MASK_ITEM_ID` where a masked-item model must guess
    length_B: Tensor  # int64, 1 or more
    times: Times | None = None  # there for models with `uses_time`
