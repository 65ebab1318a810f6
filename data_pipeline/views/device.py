"""The log's columns where training needs them, and the histories that are cut from them.

Shapes: B users of a batch, L length, U users.
"""

import warnings
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.history import History, Times
from seqsweep.data_pipeline.ids import PAD_ITEM_ID
from seqsweep.data_pipeline.split import training_mask

Ints = npt.NDArray[np.int64]


class Columns(Protocol):
    """All that is needed of a log: see `store.SequenceLog`."""

    @property
    def num_items(self) -> int: ...

    @property
    def has_timestamps(self) -> bool: ...

    @property
    def offset_U(self) -> Ints: ...

    def item_chunks(self) -> list[npt.NDArray[np.int32]]: ...

    def timestamp_chunks(self) -> list[Ints]: ...


class DeviceSequences:
    """The log on the training device: mapped on the CPU, copied once on a GPU; times only when asked for."""

    def __init__(
        self, log: Columns, device: torch.device, train_end_U: Ints, usual_gap: int | None = None
    ) -> None:
        """usual_gap: see `personal_clocks`."""
        self.device = device
        self.num_items = log.num_items
        self.offset_U: Ints = log.offset_U
        self.train_end_U = train_end_U
        self._log = log
        self._usual_gap = usual_gap
        self._items = _DeviceColumn(log.item_chunks(), device)

    def items(self, position: Tensor) -> Tensor:
        """Item ids (int64) at flat positions of any shape."""
        return self._items.at(position)

    def window(self, begin_B: Ints, length_B: Ints) -> Tensor:
        """Items [begin, begin + length) of the flat log, padded on the right: (B, max(length)) int64."""
        position_BL, real_BL = self._positions(begin_B, length_B)
        return self.items(position_BL).masked_fill_(~real_BL, PAD_ITEM_ID)

    def times(self, user_B: npt.NDArray[np.integer[Any]], begin_B: Ints, length_B: Ints) -> Times:
        """Times of the same windows; the interaction after each window must exist.

        Raises DataError for a log without timestamps.
        """
        column, origin_U, unit_U = self._times
        position_BL, real_BL = self._positions(begin_B, length_B)
        last_B1 = torch.from_numpy(begin_B + length_B - 1).to(self.device)[:, None]
        position_BL = torch.where(real_BL, position_BL, last_B1)
        user = torch.from_numpy(user_B.astype(np.int64)).to(self.device)
        return Times(column.at(position_BL), column.at(position_BL + 1), origin_U[user], unit_U[user])

    def history(
        self, user_B: npt.NDArray[np.integer[Any]], begin_B: Ints, length_B: Ints, *, with_times: bool
    ) -> History:
        return History(
            self.window(begin_B, length_B),
            torch.from_numpy(length_B).to(self.device),
            self.times(user_B, begin_B, length_B) if with_times else None,
        )

    def _positions(self, begin_B: Ints, length_B: Ints) -> tuple[Tensor, Tensor]:
        begin = torch.from_numpy(begin_B).to(self.device)
        length = torch.from_numpy(length_B).to(self.device)
        place_L = torch.arange(int(length_B.max(initial=0)), device=self.device)
        real_BL = place_L < length[:, None]
        return torch.where(real_BL, begin[:, None] + place_L, 0), real_BL

    @cached_property
    def _times(self) -> tuple["_DeviceColumn", Tensor, Tensor]:
        if not self._log.has_timestamps:
            raise DataError("the log has no timestamps, which a model that uses time needs")
        origin_U, unit_U = personal_clocks(self._log, self.train_end_U, self._usual_gap)
        column = _DeviceColumn(self._log.timestamp_chunks(), self.device)
        return column, torch.from_numpy(origin_U).to(self.device), torch.from_numpy(unit_U).to(self.device)


def personal_clocks(log: Columns, train_end_U: Ints, usual_gap: int | None = None) -> tuple[Ints, Ints]:
    """Each user's first time, and the smallest positive gap of the training part: the user's unit of time.

    The training part alone: a gap to a held-out interaction would tell of the future (the reference
    implementation of TiSASRec takes the whole history). Users without such a gap get the median of the
    others' units, 1 where nobody has one: in a temporal split most that are tested may have no training part
    (of the generated log 318 of 375; with 1 s for them all gaps look endless, and TiSASRec's test NDCG@10 is
    .38 instead of .52). `usual_gap` stands for that median where few users are there to tell it.
    """
    time = np.concatenate([np.zeros(0, np.int64), *log.timestamp_chunks()])
    begin_U = log.offset_U[:-1]
    origin_U = time[np.minimum(begin_U, max(len(time) - 1, 0))] if len(time) else np.zeros_like(begin_U)
    never = np.iinfo(np.int64).max
    gap = np.full(len(time) + 1, never)  # gap[p] lies between p - 1 and p; the last one is for reduceat
    gap[1 : len(time)] = np.diff(time)
    gap[gap <= 0] = never
    gap[begin_U] = never
    gap[:-1][~training_mask(log.offset_U, train_end_U)] = never
    unit_U = np.minimum.reduceat(gap, begin_U) if len(begin_U) else begin_U
    has_none_U = (unit_U == never) | (log.offset_U[1:] == begin_U)
    if usual_gap is None:
        usual_gap = int(np.median(unit_U[~has_none_U])) if not has_none_U.all() else 1
    unit_U[has_none_U] = usual_gap
    return origin_U, unit_U


class _DeviceColumn:
    """A column of the log by flat position, whatever the number of shards."""

    def __init__(self, arrays: list[npt.NDArray[Any]], device: torch.device) -> None:
        chunks = [_as_tensor(array) for array in arrays]
        if device.type != "cpu":
            chunks = [torch.cat(chunks).to(device)]
        self._chunks = chunks
        self._end = torch.tensor([len(chunk) for chunk in chunks], device=device).cumsum(0)

    def at(self, position: Tensor) -> Tensor:
        if len(self._chunks) == 1:
            return self._chunks[0][position].long()
        shard = torch.bucketize(position, self._end, right=True)
        value = torch.empty_like(position)
        for number, chunk in enumerate(self._chunks):
            here = shard == number
            value[here] = chunk[position[here] - (self._end[number] - len(chunk))].long()
        return value


def _as_tensor(array: npt.NDArray[Any]) -> Tensor:
    with warnings.catch_warnings():  # arrays mapped from the store are read-only, and nobody here writes
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
