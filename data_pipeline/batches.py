"""From the prepared log to padded batches on the training device.

Shapes: B batch, L length, U users of a chunk, T positions with a target, N negatives.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data_pipeline.ids import PAD_ITEM_ID
from data_pipeline.store import SequenceLog

# Batches are cut from users sorted by length within a shuffled chunk: long enough for little padding, short
# enough that who meets whom in a batch stays random. With 32 padding is 2 % of Games and 3 % of ML-1M.
BATCHES_PER_CHUNK = 32


class DeviceSequences:
    """The log's flat item ids where training needs them: mapped on the CPU, copied once on a GPU."""

    def __init__(self, log: SequenceLog, device: torch.device) -> None:
        chunks = [_as_tensor(chunk) for chunk in log.item_chunks()]
        if device.type != "cpu":
            chunks = [torch.cat(chunks).to(device)]
        self.device = device
        self.num_items = log.num_items
        self.offset_U: npt.NDArray[np.int64] = log.offset_U
        self._chunks = chunks
        self._end = torch.tensor([len(chunk) for chunk in chunks], device=device).cumsum(0)

    def window(self, begin_B: npt.NDArray[np.int64], length_B: npt.NDArray[np.int64]) -> Tensor:
        """Items [begin, begin + length) of the flat log, padded on the right: (B, max(length)) int64."""
        begin = torch.from_numpy(begin_B).to(self.device)
        length = torch.from_numpy(length_B).to(self.device)
        place_L = torch.arange(int(length_B.max(initial=0)), device=self.device)
        real_BL = place_L < length[:, None]
        position_BL = torch.where(real_BL, begin[:, None] + place_L, 0)
        return self.items(position_BL).masked_fill_(~real_BL, PAD_ITEM_ID)

    def items(self, position: Tensor) -> Tensor:
        """Item ids (int64) at flat positions of any shape."""
        if len(self._chunks) == 1:
            return self._chunks[0][position].long()
        shard = torch.bucketize(position, self._end, right=True)
        item = torch.empty_like(position)
        for number, chunk in enumerate(self._chunks):
            here = shard == number
            item[here] = chunk[position[here] - (self._end[number] - len(chunk))].long()
        return item


def _as_tensor(array: npt.NDArray[np.int32]) -> Tensor:
    with warnings.catch_warnings():  # arrays mapped from the store are read-only, and nobody here writes
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


@dataclass(frozen=True)
class TrainBatch:
    item_id_BL: Tensor  # inputs, padded on the right
    length_B: Tensor
    real_T: Tensor  # places of the flattened (B * L) that have a target
    target_id_T: Tensor  # the item that follows each of them


class TrainBatches:
    """Shuffled batches of each user's training part, a new order (and, if asked, new windows) an epoch.

    `window="last"` takes each user's last `max_len` pairs, as the papers do; "random" a random stretch of
    that length, so that over the epochs all of a long history is learned from.
    """

    def __init__(
        self,
        sequences: DeviceSequences,
        train_end_U: npt.NDArray[np.int64],
        *,
        max_len: int,
        batch_size: int,
        window: Literal["last", "random"],
    ) -> None:
        self._sequences = sequences
        self._max_len = max_len
        self._batch_size = batch_size
        self._window = window
        begin_U = sequences.offset_U[:-1]
        self._user_U = np.flatnonzero(train_end_U - begin_U >= 2)  # a pair needs an item and its next
        self._begin_U = begin_U[self._user_U]
        self._length_U = train_end_U[self._user_U] - self._begin_U

    def __len__(self) -> int:
        return -(-len(self._user_U) // self._batch_size)

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
            cuts = np.arange(self._batch_size, len(chunk_U), self._batch_size)
            groups = np.split(by_length_U, cuts)
            for number in generator.permutation(len(groups)):
                row_B = groups[number]
                yield self._batch(begin_U[row_B], length_U[row_B])

    def _batch(self, begin_B: npt.NDArray[np.int64], length_B: npt.NDArray[np.int64]) -> TrainBatch:
        sequence = self._sequences.window(begin_B, length_B)
        num_inputs_B = length_B - 1
        # Found on the CPU, from lengths: a mask on the device would make the host wait for it.
        real_BL = np.arange(sequence.shape[1] - 1) < num_inputs_B[:, None]
        real_T = torch.from_numpy(np.flatnonzero(real_BL)).to(sequence.device)
        length = torch.from_numpy(num_inputs_B).to(sequence.device)
        # A user's last item is an input nowhere: the place it takes in a padded row has no target.
        item_id_BL = sequence[:, :-1].masked_fill(sequence[:, 1:] == PAD_ITEM_ID, PAD_ITEM_ID)
        return TrainBatch(item_id_BL, length, real_T, sequence[:, 1:].flatten()[real_T])
