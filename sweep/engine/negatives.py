"""Drawing negatives, on the training device and from a generator alone.

Shapes: B users of a batch, T positions with a target, N negatives, V real items (no padding), U users,
S pairs of a user and an item seen in training.
"""

import math
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor

from seqsweep.data_pipeline.views.batches import TrainBatch
from seqsweep.data_pipeline.views.device import DeviceSequences
from seqsweep.data_pipeline.views.seen import Ints, count_items, seen_keys
from seqsweep.models.losses import Excluded, Negatives


class NegativeSettings(BaseModel):
    """Which items the sampled losses set against the targets.

    Shared by the batch, negatives are one matrix product; but then a loss depends on who else is in a batch.
    A batch that is trained in parts is drawn for once, as a whole.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_negatives: PositiveInt = 1  # drawn with repeats; never more than there are other items
    negatives: Literal["position", "batch"] = "position"  # own negatives a position, or shared by the batch
    # Drawn by (training count) ** power; 0 is uniform. With a power, items without a training count are never
    # drawn: nothing is added to the counts.
    popularity_power: float = Field(default=0.0, ge=0, le=1)
    exclude_seen: bool = False  # no training item of the user is a negative, under `ce` neither


class NegativeSampler:
    """Draws for one training; its tables are made at the first draw, from the training part alone."""

    def __init__(self, sequences: DeviceSequences, settings: NegativeSettings) -> None:
        self.device = sequences.device
        self.num_items = sequences.num_items
        self._sequences = sequences
        self._settings = settings
        self._num_negatives = max(1, min(settings.num_negatives, sequences.num_items - 1))

    def draw(self, batch: TrainBatch, generator: torch.Generator) -> Negatives:
        """The target is masked where it was drawn, as are seen items where they are excluded."""
        shared, power = self._settings.negatives == "batch", self._settings.popularity_power
        row_T = batch.place_T // batch.history.item_id_BL.shape[1]
        if self._settings.exclude_seen and not shared and power == 0:
            return self._draw_unseen(batch.user_id_B[row_T], generator)
        num_positions = len(batch.target_id_T)
        shape = (self._num_negatives,) if shared else (num_positions, self._num_negatives)
        if power == 0:
            item_id = torch.randint(1, self.num_items + 1, shape, generator=generator, device=self.device)
            log_q = torch.full((), -math.log(self.num_items), device=self.device)
        else:
            item_id, log_q = self._popularity.draw(shape, generator)
        masked_TN = item_id == batch.target_id_T[:, None]
        if self._settings.exclude_seen and shared:
            masked_TN |= self._seen.contains(batch.user_id_B[:, None], item_id)[row_T]
        elif self._settings.exclude_seen:
            masked_TN |= self._seen.contains(batch.user_id_B[row_T, None], item_id)
        return Negatives(item_id, masked_TN, log_q.expand(masked_TN.shape), self.num_items)

    def _draw_unseen(self, user_id_T: Tensor, generator: torch.Generator) -> Negatives:
        item_id_TN, num_unseen_T1 = self._unseen.draw(user_id_T, self._num_negatives, generator)
        log_q_T1 = -num_unseen_T1.clamp(min=1).log()
        return Negatives(
            item_id_TN,
            (num_unseen_T1 == 0).expand(item_id_TN.shape),
            log_q_T1.expand(item_id_TN.shape),
            self.num_items,
        )

    def excluded(self, batch: TrainBatch) -> Excluded | None:
        """Find what each target's user has seen, for `ce`; None unless it is excluded."""
        if not self._settings.exclude_seen:
            return None
        column_S, begin_U = self._seen_columns
        user_id_T = np.repeat(batch.user_id_B.cpu().numpy(), batch.num_targets_B)
        begin_T = begin_U[user_id_T]
        return Excluded(column_S, begin_T, begin_U[user_id_T + 1] - begin_T)

    @cached_property
    def _seen_columns(self) -> tuple[Tensor, Ints]:
        """Return the columns of all users' seen items, user after user, and where each begins (U + 1)."""
        key_S, num_users = seen_keys(self._sequences), len(self._sequences.train_end_U)
        begin_U = np.searchsorted(key_S, np.arange(num_users + 1) * self.num_items)
        return torch.from_numpy(key_S % self.num_items).to(self.device), begin_U

    @cached_property
    def _popularity(self) -> "_Popularity":
        return _Popularity(count_items(self._sequences), self._settings.popularity_power, self.device)

    @cached_property
    def _seen(self) -> "_SeenItems":
        return _SeenItems(seen_keys(self._sequences), self.num_items, self.device)

    @cached_property
    def _unseen(self) -> "_UnseenItems":
        num_users = len(self._sequences.train_end_U)
        return _UnseenItems(seen_keys(self._sequences), num_users, self.num_items, self.device)


class _Popularity:
    """Items by count ** power, found in the cumulative weights: exact to 2**-53, whatever the catalogue."""

    def __init__(self, count_V: Ints, power: float, device: torch.device) -> None:
        weight_V = np.where(count_V > 0, count_V.astype(np.float64) ** power, 0.0)
        cumulative_V = np.cumsum(weight_V)
        self._total = float(cumulative_V[-1])
        with np.errstate(divide="ignore"):  # log 0 of items that are never drawn
            log_q_V = np.log(weight_V / self._total)
        self._cumulative_V = torch.from_numpy(cumulative_V).to(device)
        self._log_q_V = torch.from_numpy(log_q_V.astype(np.float32)).to(device)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Item ids and the logs of their probabilities."""
        device = self._cumulative_V.device
        # Below 1 by 2**-53 at least, so that the product rounds to less than the total: always an item.
        point = torch.rand(shape, dtype=torch.float64, generator=generator, device=device) * self._total
        column = torch.searchsorted(self._cumulative_V, point, right=True)  # passes by weights of 0
        return column + 1, self._log_q_V[column]


class _SeenItems:
    """Which items a user has seen in training: a search in the sorted keys of all users."""

    def __init__(self, key_S: Ints, num_items: int, device: torch.device) -> None:
        above_all = np.iinfo(np.int64).max  # so that every search ends at a key
        self._key_S = torch.from_numpy(np.append(key_S, above_all)).to(device)
        self._num_items = num_items

    def contains(self, user_id: Tensor, item_id: Tensor) -> Tensor:
        key = user_id * self._num_items + item_id - 1
        return self._key_S[torch.searchsorted(self._key_S, key)] == key


class _UnseenItems:
    """Uniform draws of what a user has not seen in training: the r-th such item, without trial and error.

    Of a user's seen columns s_0 < s_1 < ..., s_k has s_k - k unseen ones before it. So the r-th unseen
    column (from 0) is r + the number of k with s_k - k <= r, a search in what ascends with k.
    """

    def __init__(self, key_S: Ints, num_users: int, num_items: int, device: torch.device) -> None:
        begin_U = np.searchsorted(key_S, np.arange(num_users + 1) * num_items)
        num_seen_U = np.diff(begin_U)
        unseen_before_S = key_S - (np.arange(len(key_S)) - np.repeat(begin_U[:-1], num_seen_U))
        self._unseen_before_S = torch.from_numpy(unseen_before_S).to(device)  # + user * num_items
        self._begin_U = torch.from_numpy(begin_U[:-1]).to(device)
        self._num_unseen_U = torch.from_numpy(num_items - num_seen_U).to(device)
        self._num_items = num_items

    def draw(
        self, user_id_T: Tensor, num_negatives: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Item ids (T, N), and of how many (T, 1); an id means nothing where that is 0."""
        num_unseen_T1 = self._num_unseen_U[user_id_T, None]
        shape, device = (len(user_id_T), num_negatives), user_id_T.device
        share_TN = torch.rand(shape, dtype=torch.float64, generator=generator, device=device)
        order_TN = (share_TN * num_unseen_T1).long()
        key_TN = user_id_T[:, None] * self._num_items + order_TN
        num_before_TN = torch.searchsorted(self._unseen_before_S, key_TN, right=True)
        column_TN = order_TN + num_before_TN - self._begin_U[user_id_T, None]
        return column_TN.clamp_(max=self._num_items - 1) + 1, num_unseen_T1
