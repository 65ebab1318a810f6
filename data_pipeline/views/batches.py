"""From the prepared log to padded training batches on the training device.

Shapes: B batch, L length, U users of a chunk, T positions with a target.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from seqsweep.data_pipeline.history import History, Times
from seqsweep.data_pipeline.ids import MASK_ITEM_ID, PAD_ITEM_ID
from seqsweep.data_pipeline.views.device import DeviceSequences

# Batches are cut from users sorted by length within a shuffled chunk: long enough for little padding, short
# enough that who meets whom in a batch stays random. With 32 padding is 2 % of Games and 3 % of ML-1M.
BATCHES_PER_CHUNK = 32

Ints = npt.NDArray[np.int64]
Window = Literal["last", "random", "all"]


@dataclass(frozen=True)
class NextItem:
    """Every item is a target, told from those before it."""


@dataclass(frozen=True)
class MaskedItem:
    """Some items are masked and told from all others (BERT4Rec, 3.6)."""

    probability: float  # that an item is masked; each sequence has one masked item at least
    last_share: float  # of the sequences of which the last item alone is masked, as it is at inference


Task = NextItem | MaskedItem


@dataclass(frozen=True)
class TrainBatch:
    history: History
    user_id_B: Tensor
    place_T: Tensor  # places of the flattened (B * L) that have a target, ascending
    target_id_T: Tensor  # the item to be told from the state at each of them
    # Known on the CPU too, so that a batch can be sliced without waiting for the device.
    length_B: Ints
    num_targets_B: Ints  # 1 or more
    # Of its mean loss: its targets by those of an average batch, so that each target of an epoch counts the
    # same. It is near 1 where batches are cut by targets.
    weight: float = 1.0

    def padded(self, width: int, num_targets: int) -> "TrainBatch":
        """The same, histories filled up to `width` places and targets to `num_targets` positions.

        Such positions stand at the first place and ask for item 1: they must not count in a loss.
        """
        own_width, own_targets = self.history.item_id_BL.shape[1], len(self.target_id_T)
        times, more = self.history.times, width - own_width
        if times is not None:
            times = Times(
                _repeat_last(times.time_BL, more),
                _repeat_last(times.next_time_BL, more),
                times.origin_B,
                times.unit_B,
            )
        item_id_BL = F.pad(self.history.item_id_BL, (0, more), value=PAD_ITEM_ID)
        place_T = self.place_T + self.place_T // own_width * more
        return TrainBatch(
            History(item_id_BL, self.history.length_B, times),
            self.user_id_B,
            F.pad(place_T, (0, num_targets - own_targets)),
            F.pad(self.target_id_T, (0, num_targets - own_targets), value=1),
            self.length_B,
            self.num_targets_B,
            self.weight,
        )

    def slices(self, size: int) -> Iterator[tuple["TrainBatch", slice]]:
        """The batch in parts of at most `size` sequences, each with its range of the T positions.

        A part is as wide as its longest sequence. Raises ValueError if `size` is below 1.
        """
        if size < 1:
            raise ValueError(f"a slice of a batch must hold 1 sequence or more, got size={size}")
        end_B = np.cumsum(self.num_targets_B)
        for begin in range(0, len(self.length_B), size):
            rows = slice(begin, begin + size)
            first = int(end_B[begin] - self.num_targets_B[begin])
            positions = slice(first, first + int(self.num_targets_B[rows].sum()))
            yield self._part(rows, positions), positions

    def share(self, rank: int, size: int) -> tuple["TrainBatch", slice, int]:
        """The part of one of `size` workers: neighbouring sequences, about as many items as the others have.

        With its range of the T positions, and how many targets it adds to the batch. A worker for which no
        sequence is left is given the first one, which then adds 0: so every worker has a part to run.
        """
        end_B = np.cumsum(self.length_B)
        cuts = np.searchsorted(end_B, end_B[-1] * np.arange(1, size) / size, side="right")
        rows = slice(*np.concatenate([[0], cuts, [len(end_B)]])[rank : rank + 2].tolist())
        num_targets = int(self.num_targets_B[rows].sum())
        if rows.start == rows.stop:
            rows = slice(0, 1)
        first = int(self.num_targets_B[: rows.start].sum())
        positions = slice(first, first + int(self.num_targets_B[rows].sum()))
        return self._part(rows, positions), positions, num_targets

    def _part(self, rows: slice, positions: slice) -> "TrainBatch":
        whole_width, width = self.history.item_id_BL.shape[1], int(self.length_B[rows].max())
        place_T = self.place_T[positions] - rows.start * whole_width
        return TrainBatch(
            _part_of_history(self.history, rows, width),
            self.user_id_B[rows],
            place_T - place_T // whole_width * (whole_width - width),
            self.target_id_T[positions],
            self.length_B[rows],
            self.num_targets_B[rows],
            self.weight,
        )


def _repeat_last(x_BL: Tensor, times: int) -> Tensor:
    return torch.cat([x_BL, x_BL[:, -1:].expand(-1, times)], dim=1)


def _part_of_history(history: History, rows: slice, width: int) -> History:
    times = history.times
    if times is not None:
        times = Times(
            times.time_BL[rows, :width].contiguous(),
            times.next_time_BL[rows, :width].contiguous(),
            times.origin_B[rows],
            times.unit_B[rows],
        )
    return History(history.item_id_BL[rows, :width].contiguous(), history.length_B[rows], times)


class TrainBatches:
    """Shuffled batches of each user's training part, a new order (and, if asked, new windows) an epoch.

    Batches of a chunk are neighbours by length, with about as many targets each (`equal="targets"`, so that
    each step of Adam is made of as much evidence, whatever the length), or as many sequences.

    `window="last"` takes each user's last `max_len` pairs, as the papers do; "random" a random stretch of
    that length, so that over the epochs all of a long history is learned from; "all" takes every stretch of
    it, from its end, in each epoch.
    """

    def __init__(
        self,
        sequences: DeviceSequences,
        *,
        max_len: int,
        batch_size: int,
        window: Window,
        task: Task = NextItem(),
        with_times: bool = False,
        equal: Literal["targets", "sequences"] = "targets",
    ) -> None:
        self._sequences = sequences
        self._max_len = max_len
        self._batch_size = batch_size
        self._window = window
        self._task = task
        self._with_times = with_times
        self._equal = equal
        begin_U = sequences.offset_U[:-1]
        self._user_U = np.flatnonzero(sequences.train_end_U - begin_U >= 2)  # a pair: an item and its next
        self._begin_U = begin_U[self._user_U]
        self._length_U = sequences.train_end_U[self._user_U] - self._begin_U
        if window == "all":
            self._take_all_windows()
        window_U = np.minimum(self._length_U, max_len + 1)
        self._mean_targets = float(self._targets(window_U).sum()) / max(1, len(self))

    def _take_all_windows(self) -> None:
        """Replace each user's row by one per window; a window begins with the last item of the one before."""
        num_windows_U = -(-(self._length_U - 1) // self._max_len)
        row_W = np.repeat(np.arange(len(self._user_U)), num_windows_U)
        before_W = np.arange(len(row_W)) - np.repeat(np.cumsum(num_windows_U) - num_windows_U, num_windows_U)
        end_W = self._length_U[row_W] - before_W * self._max_len
        first_W = np.maximum(0, end_W - self._max_len - 1)
        self._user_U, self._begin_U = self._user_U[row_W], self._begin_U[row_W] + first_W
        self._length_U = end_W - first_W

    def __len__(self) -> int:
        return -(-len(self._user_U) // self._batch_size)

    def _targets(self, window_U: Ints) -> npt.NDArray[np.float64]:
        """Count the targets of windows of these lengths, masked ones on average."""
        length_U = window_U.astype(np.float64)
        if isinstance(self._task, NextItem):
            length_U -= 1
            return length_U
        some_U: npt.NDArray[np.float64] = np.maximum(1.0, self._task.probability * length_U)
        some_U += self._task.last_share * (1 - some_U)
        return some_U

    def epoch(self, seed: int) -> Iterator[TrainBatch]:
        generator = np.random.default_rng(seed)
        order_U = generator.permutation(len(self._user_U))
        chunk_size = self._batch_size * BATCHES_PER_CHUNK
        for chunk_begin in range(0, len(order_U), chunk_size):
            chunk_U = order_U[chunk_begin : chunk_begin + chunk_size]
            length_U = np.minimum(self._length_U[chunk_U], self._max_len + 1)
            spare_U = self._length_U[chunk_U] - length_U
            skipped_U = spare_U if self._window == "last" else generator.integers(0, spare_U + 1)
            begin_U = self._begin_U[chunk_U] + skipped_U
            by_length_U = np.argsort(length_U, kind="stable")
            groups = np.split(by_length_U, self._cuts(length_U[by_length_U]))
            for number in generator.permutation(len(groups)):
                row_B = groups[number]
                user_B = self._user_U[chunk_U[row_B]]
                if isinstance(self._task, MaskedItem):
                    yield self._masked(self._task, user_B, begin_U[row_B], length_U[row_B], generator)
                else:
                    yield self._next(user_B, begin_U[row_B], length_U[row_B])

    def _cuts(self, length_U: Ints) -> Ints:
        """Find where a chunk, shortest first, is cut into batches."""
        if self._equal == "sequences":
            return np.arange(self._batch_size, len(length_U), self._batch_size)
        total_U = np.cumsum(self._targets(length_U))
        share_N = np.arange(1, -(-len(length_U) // self._batch_size)) / -(-len(length_U) // self._batch_size)
        cuts = np.unique(np.searchsorted(total_U, total_U[-1] * share_N, side="right"))
        return cuts[cuts > 0]

    def _next(self, user_B: Ints, begin_B: Ints, length_B: Ints) -> TrainBatch:
        sequence = self._sequences.window(begin_B, length_B)
        num_inputs_B = length_B - 1
        real_BL = np.arange(sequence.shape[1] - 1) < num_inputs_B[:, None]
        place_T = self._places(real_BL)
        # A user's last item is an input nowhere: the place it takes in a padded row has no target.
        item_id_BL = sequence[:, :-1].masked_fill(sequence[:, 1:] == PAD_ITEM_ID, PAD_ITEM_ID)
        return TrainBatch(
            History(
                item_id_BL,
                self._on_device(num_inputs_B),
                self._sequences.times(user_B, begin_B, num_inputs_B) if self._with_times else None,
            ),
            self._on_device(user_B),
            place_T,
            sequence[:, 1:].flatten()[place_T],
            num_inputs_B,
            num_inputs_B,
            len(place_T) / self._mean_targets,
        )

    def _masked(
        self,
        task: MaskedItem,
        user_B: Ints,
        begin_B: Ints,
        length_B: Ints,
        generator: np.random.Generator,
    ) -> TrainBatch:
        sequence = self._sequences.window(begin_B, length_B)
        place_L = np.arange(sequence.shape[1])
        chosen_BL = generator.random(sequence.shape) < task.probability
        only_last_B = generator.random(len(length_B)) < task.last_share
        chosen_BL[only_last_B] = False
        chosen_BL &= place_L < length_B[:, None]
        forced_B = np.where(only_last_B, length_B - 1, generator.integers(0, length_B))
        empty_B = ~chosen_BL.any(axis=1)
        chosen_BL[empty_B, forced_B[empty_B]] = True
        place_T = self._places(chosen_BL)
        flat = sequence.flatten()
        item_id_BL = flat.index_fill(0, place_T, MASK_ITEM_ID).view_as(sequence)
        history = History(item_id_BL, self._on_device(length_B))
        weight = len(place_T) / self._mean_targets
        return TrainBatch(
            history, self._on_device(user_B), place_T, flat[place_T], length_B, chosen_BL.sum(axis=1), weight
        )

    def _places(self, chosen_BL: npt.NDArray[np.bool_]) -> Tensor:
        """Found on the CPU: a mask on the device would make the host wait for it."""
        return torch.from_numpy(np.flatnonzero(chosen_BL)).to(self._sequences.device)

    def _on_device(self, array: Ints) -> Tensor:
        return torch.from_numpy(array).to(self._sequences.device)
