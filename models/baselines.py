"""The floor every leaderboard shows: models without parameters to train, fitted by counting.

Shapes: B users, L length, V items + padding.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data_pipeline.history import History


class MostPopular:
    """Every user gets the items most often seen in training."""

    max_len = 1
    uses_time = False

    def __init__(
        self, item_id: npt.NDArray[np.int32], previous_id: npt.NDArray[np.int32], num_items: int
    ) -> None:
        del previous_id  # popularity looks at items one by one
        count = np.bincount(item_id, minlength=num_items + 1)[1:]
        self._score = torch.from_numpy(count.astype(np.float32))

    def __call__(self, history: History) -> Tensor:
        return self._score.to(history.length_B.device).expand(len(history.length_B), -1).clone()


class Markov:
    """First-order transitions: how often j followed i; equals among them, and all others, by popularity."""

    max_len = 1
    uses_time = False

    def __init__(
        self, item_id: npt.NDArray[np.int32], previous_id: npt.NDArray[np.int32], num_items: int
    ) -> None:
        self._num_items = num_items
        follows = previous_id > 0
        key = previous_id[follows].astype(np.int64) * num_items + item_id[follows] - 1
        pair, count = np.unique(key, return_counts=True)
        self._column = torch.from_numpy(pair % num_items)
        self._count = torch.from_numpy(count.astype(np.float32))
        begin = np.searchsorted(pair // num_items, np.arange(num_items + 2))
        self._begin = torch.from_numpy(begin)
        popularity = np.bincount(item_id, minlength=num_items + 1)[1:].astype(np.float32)
        # Below one, so that popularity only decides between equal counts (a float32 holds both below 2**12).
        self._popularity = torch.from_numpy(popularity / (popularity.max(initial=0) + 1))

    def __call__(self, history: History) -> Tensor:
        item_id_BL, length_B = history.item_id_BL, history.length_B
        last_B = item_id_BL[torch.arange(len(length_B)), length_B - 1].cpu()
        size_B = self._begin[last_B + 1] - self._begin[last_B]
        row_S = torch.repeat_interleave(torch.arange(len(last_B)), size_B)
        first_S = torch.repeat_interleave(self._begin[last_B] - (size_B.cumsum(0) - size_B), size_B)
        entry_S = first_S + torch.arange(len(row_S))
        score_BV = self._popularity.repeat(len(last_B), 1)
        score_BV[row_S, self._column[entry_S]] += self._count[entry_S]
        return score_BV.to(item_id_BL.device)


BASELINES: dict[str, type[MostPopular | Markov]] = {"most_popular": MostPopular, "markov": Markov}
