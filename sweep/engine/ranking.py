"""Rank of every evaluated user's held-out item, over the full catalogue or against sampled candidates.

Shapes: B users of a block, L length, N candidates, U evaluated users.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.history import History
from seqsweep.data_pipeline.ids import PAD_ITEM_ID
from seqsweep.data_pipeline.split import (
    Targets,
)
from seqsweep.data_pipeline.store import SequenceLog
from seqsweep.data_pipeline.views.device import DeviceSequences
from seqsweep.models import SequenceModel
from seqsweep.models.interface import REAL_ITEMS
from seqsweep.results.metrics import Ranks
from seqsweep.sweep.engine.candidates import draw_candidates
from seqsweep.sweep.engine.process import keep_freed_memory
from seqsweep.sweep.engine.workers import ALONE, Workers
from seqsweep.sweep.settings.protocol import ProtocolConfig

TOKENS_PER_BLOCK = 2**13  # items read at a time: what a layer makes of them stays in cache
SCORES_AT_A_TIME = 2**20  # 4 MiB: stays in cache while it is counted; larger takes twice as long
ROWS_STEP = 16  # users that are scored come in multiples of it, as the kernels of matrix products take them
SEEN_PER_CHUNK = 2**22
NOT_FINITE = "a score is not finite: the model has diverged"

Ints = npt.NDArray[np.int64]


class Scorer(Protocol):
    """Anything that ranks, in two steps, since many histories are read at a time and few scored."""

    max_len: int  # of the histories that are read
    uses_time: bool

    def read(self, history: History) -> Tensor:
        """What scoring needs of each user: (B, ...)."""
        ...

    def score(self, read_B: Tensor) -> Tensor:
        """Scores (B, num_items) of all real items, in any layout; they are written over."""
        ...


class ModelScorer:
    """A trained model as a scorer; states under autocast if asked, scores always in float32."""

    def __init__(self, model: SequenceModel, *, autocast: bool = False) -> None:
        self.max_len: int = model.config.max_len
        self.uses_time: bool = model.uses_time
        self._model = model
        self._autocast = autocast

    def read(self, history: History) -> Tensor:
        with torch.autocast(history.length_B.device.type, torch.bfloat16, enabled=self._autocast):
            return self._model.last_state(history).float()

    def score(self, state_BD: Tensor, items: slice | Tensor = REAL_ITEMS) -> Tensor:
        return self._model.score(state_BD, items)


class Histories:
    """Of U users, what lies before a position of each: read in blocks, so that many fit into memory."""

    def __init__(
        self, sequences: DeviceSequences, user_id_U: npt.NDArray[np.integer[Any]], position_U: Ints
    ) -> None:
        self.sequences = sequences
        self.user_id_U, self.position_U = user_id_U, position_U
        self.begin_U: Ints = sequences.offset_U[user_id_U]

    def of(self, row_B: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "Histories":
        return Histories(self.sequences, self.user_id_U[row_B], self.position_U[row_B])

    def blocks(self, max_len: int) -> Iterator[Ints]:
        """Rows of users of like length, so that a block that is read holds little padding."""
        length_U = np.minimum(self.position_U - self.begin_U, max_len)
        order_U = np.argsort(length_U, kind="stable")
        end = len(order_U)
        while end > 0:
            rows = max(1, TOKENS_PER_BLOCK // max(1, int(length_U[order_U[end - 1]])))
            yield order_U[max(0, end - rows) : end]
            end -= rows

    def windows(self, scorer: "Scorer", row_B: Ints) -> History:
        """The last `max_len` interactions before the positions."""
        position_B = self.position_U[row_B]
        length_B = np.minimum(position_B - self.begin_U[row_B], scorer.max_len)
        return self.sequences.history(
            self.user_id_U[row_B], position_B - length_B, length_B, with_times=scorer.uses_time
        )

    def seen(self, row_B: Ints) -> tuple[Tensor, Tensor]:
        """The whole histories of a block, not only the window the model reads: (row, item) pairs."""
        begin_B = self.begin_U[row_B]
        length_B = self.position_U[row_B] - begin_B
        row_S = np.repeat(np.arange(len(length_B)), length_B)
        first_S = np.repeat(begin_B - (np.cumsum(length_B) - length_B), length_B)
        position_S = torch.from_numpy(first_S + np.arange(len(row_S))).to(self.sequences.device)
        return torch.from_numpy(row_S).to(self.sequences.device), self.sequences.items(position_S)


class Ranker:
    """Holds what one split's ranking needs, so that it can be asked after every epoch.

    With seen items removed, users whose target was already in their history are left out and counted
    (`num_seen_targets`): removing their other seen items would tell the answer.
    """

    def __init__(
        self,
        log: SequenceLog,
        sequences: DeviceSequences,
        targets: Targets,
        protocol: ProtocolConfig,
        part: Literal["valid", "test"],
        num_scored: int | None = None,
    ) -> None:
        """num_scored: the items that scorers score, where they are not the log's alone."""
        self._sequences = sequences
        self._num_scored = num_scored or sequences.num_items
        self._removes_seen = protocol.removes_seen(log)
        histories = Histories(sequences, targets.user_id, targets.position)
        kept_U = np.ones(len(targets.user_id), bool)
        if self._removes_seen and log.manifest.repeat_share > 0:
            kept_U = ~_target_was_seen(histories)
        self.num_seen_targets = int((~kept_U).sum())
        if self.num_seen_targets and not kept_U.any():
            raise DataError(
                f"no user is left to rank for {part}: each of the {len(kept_U)} had the target before, and "
                'seen items are removed; keep them (seen = "keep")'
            )
        self._histories = histories.of(kept_U)
        self.user_id_U = targets.user_id[kept_U]
        self._candidate_UN: npt.NDArray[np.int32] | None = None
        if protocol.ranking != "full":
            self._candidate_UN = draw_candidates(
                log,
                self.user_id_U,
                self._histories.position_U,
                int(protocol.ranking.removeprefix("sampled:")),
                part,
            )

    def rank(self, scorer: Scorer, workers: Workers = ALONE) -> Ranks:
        """Ranks in the order of `user_id_U`, those of all users in every worker.

        Raises FloatingPointError for a score that is not finite, whichever of the workers it came up in.
        """
        keep_freed_memory()
        better_U, tied_U, num_failed = self._ranks_of(scorer, workers)
        if workers.size > 1:
            joint = torch.cat([better_U, tied_U, better_U.new_tensor([num_failed])])
            summed = workers.all_reduce_(joint)
            better_U, tied_U, num_failed = (
                summed[: len(better_U)],
                summed[len(better_U) : -1],
                int(summed[-1]),
            )
        if num_failed:
            raise FloatingPointError(NOT_FINITE)
        return Ranks(better_U.cpu().numpy(), tied_U.cpu().numpy())

    def _ranks_of(self, scorer: Scorer, workers: Workers) -> tuple[Tensor, Tensor, int]:
        """Ranks of this worker's users, 0 for the others', on the device; and 1 if a score was not finite.

        They are written to their places at once. Kept apart, block by block, they would lie between the
        scores of the blocks in the heap, whose room could not be used again then: 3 GB for Games.
        """
        device = self._sequences.device
        better_U = torch.zeros(len(self.user_id_U), dtype=torch.int64, device=device)
        tied_U = torch.zeros_like(better_U)
        with torch.inference_mode():
            for row_B in islice(self._histories.blocks(scorer.max_len), workers.rank, None, workers.size):
                read_B = scorer.read(self._histories.windows(scorer, row_B))
                row_on_device_B = torch.from_numpy(row_B).to(device)
                for part in self._parts(len(row_B)):
                    score_BN = scorer.score(read_B[part]).float()
                    try:
                        better_B, tied_B = self._rank_block(score_BN, row_B[part])
                    except FloatingPointError:
                        return better_U, tied_U, 1
                    better_U[row_on_device_B[part]] = better_B
                    tied_U[row_on_device_B[part]] = tied_B
        return better_U, tied_U, 0

    def _parts(self, num_rows: int) -> Iterator[slice]:
        """Of a block that was read, what is scored at a time."""
        at_a_time = max(1, round(SCORES_AT_A_TIME / self._num_scored / ROWS_STEP)) * ROWS_STEP
        for begin in range(0, num_rows, at_a_time):
            yield slice(begin, begin + at_a_time)

    def _rank_block(self, score_BN: Tensor, row_B: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        _check_finite(score_BN)
        position_B = torch.from_numpy(self._histories.position_U[row_B]).to(score_BN.device)
        target_B1 = self._sequences.items(position_B)[:, None]
        target_score_B1 = score_BN.gather(1, target_B1 - 1)
        if self._candidate_UN is not None:
            candidate_BN = torch.from_numpy(self._candidate_UN[row_B]).to(score_BN.device).long()
            score_BN = score_BN.gather(1, (candidate_BN - 1).clamp_(min=0))
            score_BN.masked_fill_(candidate_BN == PAD_ITEM_ID, -torch.inf)
        elif self._removes_seen:
            row_S, item_S = self._histories.seen(row_B)
            score_BN = score_BN.index_put_((row_S, item_S - 1), score_BN.new_tensor(-torch.inf))
        return _count(score_BN, target_score_B1, target_among=self._candidate_UN is None)


def _target_was_seen(histories: Histories) -> npt.NDArray[np.bool_]:
    sequences = histories.sequences
    was_seen_U = np.zeros(len(histories.position_U), bool)
    total_U = np.cumsum(histories.position_U - histories.begin_U)
    cuts = np.searchsorted(
        total_U, np.arange(SEEN_PER_CHUNK, total_U[-1] if len(total_U) else 0, SEEN_PER_CHUNK)
    )
    for row_B in np.split(np.arange(len(was_seen_U)), cuts):
        row_S, item_S = histories.seen(row_B)
        target_B = sequences.items(torch.from_numpy(histories.position_U[row_B]).to(sequences.device))
        hit_S = (item_S == target_B[row_S]).cpu()
        was_seen_U[row_B[row_S.cpu()[hit_S].numpy()]] = True
    return was_seen_U


def _check_finite(score_BN: Tensor) -> None:
    """One cheap pass: only a sum that is not finite (or overflowed) is looked at again, score by score."""
    if not torch.isfinite(score_BN.sum()) and not torch.isfinite(score_BN).all():
        raise FloatingPointError(NOT_FINITE)


def _count(score_BN: Tensor, target_score_B1: Tensor, *, target_among: bool) -> tuple[Tensor, Tensor]:
    """Candidates above the target, and level with it (the target counted).

    Comparisons are written as numbers and summed: a CPU writes and counts booleans 4 times as slowly. Exact
    in float32 below 2**24 candidates.
    """
    dtype = torch.float32 if score_BN.shape[1] < 2**24 else torch.float64
    not_below_BN = torch.ge(score_BN, target_score_B1, out=torch.empty_like(score_BN))
    not_below_B = not_below_BN.sum(1, dtype=dtype).long()
    above_BN = torch.gt(score_BN, target_score_B1, out=score_BN)  # the block's scores are not needed any more
    better_B = above_BN.sum(1, dtype=dtype).long()
    tied_B = not_below_B - better_B
    return better_B, tied_B if target_among else tied_B + 1
