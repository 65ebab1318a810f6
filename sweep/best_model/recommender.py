"""Recommending with a trained model: the best items of every history, block by block.

Shapes: B users of a block, K items recommended, N candidates of a block, S seen items, U users, V items.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from seqsweep.data_pipeline.preparing.raw_log import OpenSequences, RawLog, known_sequences, places_among
from seqsweep.data_pipeline.views.device import DeviceSequences
from seqsweep.sweep.best_model.model_folder import (
    Exported,
    ExportedConfig,
    ModelError,
    find_model,
    read_exported,
)
from seqsweep.sweep.engine.process import flush_denormals, keep_freed_memory
from seqsweep.sweep.engine.ranking import ROWS_STEP, SCORES_AT_A_TIME, Histories, ModelScorer

ITEMS_AT_A_TIME = 2**14  # of the catalogue; 64 users' scores of them are `SCORES_AT_A_TIME`
GROUP = 32  # neighbouring scores of which first the largest alone is looked at

Sequences = Sequence[Sequence[Any]] | Mapping[Any, Sequence[Any]]


@dataclass(frozen=True)
class Recommendations:
    """The best first. Where a user has fewer than K items left the rest is item 0."""

    item_UK: npt.NDArray[np.int64]
    score_UK: npt.NDArray[np.float32]

    def table(self, raw_user_id: pa.Array[Any], raw_item_id: pa.Array[Any]) -> pa.Table:
        """Columns user, item, score, rank; one row a recommended item, users in the order given."""
        is_there_UK = self.item_UK > 0
        user_R, place_R = np.nonzero(is_there_UK)
        return pa.table(
            {
                "user": raw_user_id.take(pa.array(user_R, pa.int64())),
                "item": raw_item_id.take(pa.array(self.item_UK[is_there_UK] - 1, pa.int64())),
                "score": pa.array(self.score_UK[is_there_UK]),
                "rank": pa.array((place_R + 1).astype(np.int32)),
            }
        )


class Recommender:
    """A trained model and the raw ids of its items. `load_model` makes one."""

    def __init__(self, exported: Exported) -> None:
        self._exported = exported

    @property
    def config(self) -> ExportedConfig:
        return self._exported.config

    @property
    def metrics(self) -> Mapping[str, Any]:
        """As they were measured when it was exported: `["test"]["ndcg@10"]`."""
        return self._exported.metrics

    @property
    def item_ids(self) -> list[Any]:
        """Raw ids of the items it knows: item 1 first."""
        ids: list[Any] = self._exported.item_ids.to_pylist()
        return ids

    def recommend(
        self,
        sequences: Sequences,
        k: int = 10,
        *,
        times: Sequences | None = None,
        exclude_seen: bool | None = None,
        candidates: Sequence[Any] | None = None,
    ) -> pd.DataFrame:
        """The k items that are likeliest to follow each sequence, best first.

        sequences: raw item ids, oldest first: a list of lists, or a dict from user to list.
        times: of the same form and lengths, in the unit of the log that was trained on (`config.clock`);
            models that use time (TiSASRec, HSTU) need them.
        exclude_seen: leave out a sequence's own items; None does as the model was compared.
        candidates: raw ids of the only items that may come out.

        Gives a frame with the columns user (the dict's key, or the place in the list), item, score and rank
        (from 1). Items that the model does not know are dropped; a sequence without any other has no rows.
        Raises ModelError for what can't be used.
        """
        users, raw = raw_log(sequences, times)
        known = self.known(raw)
        found = self.best_items(
            known, k, exclude_seen=exclude_seen, candidates=None if candidates is None else ids_of(candidates)
        )
        frame = found.table(pa.array(known.row_U), self._exported.item_ids).to_pandas()
        frame["user"] = pd.Index(users, tupleize_cols=False).take(frame["user"])
        return frame

    def known(self, raw: RawLog, chosen_U: npt.NDArray[np.bool_] | None = None) -> OpenSequences:
        """What the model knows of a log."""
        clock = self.config.clock
        if self._exported.model.uses_time and raw.time_S is None:
            raise ModelError(f"{self.config.model} uses times, and there are none: give them too")
        return known_sequences(raw, self._exported.item_ids, None if clock is None else clock.unit, chosen_U)

    def best_items(
        self,
        sequences: OpenSequences,
        k: int,
        *,
        exclude_seen: bool | None = None,
        candidates: pa.Array[Any] | None = None,
    ) -> Recommendations:
        if k < 1:
            raise ModelError(f"k must be 1 or more, got {k}")
        if exclude_seen is None:
            exclude_seen = self._exported.removes_seen
        item_N = self._item_numbers(candidates)
        exported, clock = self._exported, self.config.clock
        on_device = DeviceSequences(
            sequences, exported.device, sequences.target_U, None if clock is None else clock.usual_gap
        )
        histories = Histories(on_device, np.arange(len(sequences.row_U)), sequences.target_U)
        scorer = ModelScorer(exported.model, autocast=exported.autocast)
        search = _Search(scorer, item_N.to(exported.device), min(k, len(item_N)))
        num_users = len(sequences.row_U)
        item_UK = np.zeros((num_users, search.k), np.int64)
        score_UK = np.zeros((num_users, search.k), np.float32)
        keep_freed_memory()
        flush_denormals()
        with torch.inference_mode():
            for row_B in histories.blocks(scorer.max_len):
                state_BD = scorer.read(histories.windows(scorer, row_B))
                for begin in range(0, len(row_B), search.users_at_a_time):
                    part = slice(begin, begin + search.users_at_a_time)
                    seen = histories.seen(row_B[part]) if exclude_seen else None
                    item_BK, score_BK = search.best(state_BD[part], seen)
                    item_UK[row_B[part]], score_UK[row_B[part]] = item_BK.cpu(), score_BK.cpu()
        return Recommendations(item_UK, score_UK)

    def _item_numbers(self, candidates: pa.Array[Any] | None) -> Tensor:
        """In ascending order. Raises ModelError where the model knows none of them."""
        if candidates is None:
            return torch.arange(1, self.config.num_items + 1)
        place = places_among(candidates, self._exported.item_ids)
        item_N = np.unique(place[place >= 0]) + 1
        if len(item_N) == 0:
            raise ModelError(
                f"the model must know a candidate, got {len(place)} that it does not know, such as "
                f"{candidates[:3].to_pylist()}"
            )
        return torch.from_numpy(item_N)


class _Search:
    """The best of the candidates, a part of them at a time: memory does not grow with the catalogue."""

    def __init__(self, scorer: ModelScorer, item_N: Tensor, k: int) -> None:
        self.k = k
        self._scorer = scorer
        self._parts = torch.split(item_N, ITEMS_AT_A_TIME)
        at_a_time = SCORES_AT_A_TIME / min(len(item_N), ITEMS_AT_A_TIME)
        self.users_at_a_time = max(1, round(at_a_time / ROWS_STEP)) * ROWS_STEP

    def best(self, state_BD: Tensor, seen: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Item ids and scores (B, K), the best first."""
        score_BK = state_BD.new_zeros((len(state_BD), 0))
        item_BK = torch.zeros((len(state_BD), 0), dtype=torch.int64, device=state_BD.device)
        for item_N in self._parts:
            score_BN = self._scorer.score(state_BD, _selector(item_N)).float()
            if seen is not None:
                _leave_out(score_BN, item_N, *seen)
            score_BM, place_BM = _top(score_BN, min(self.k, len(item_N)))
            score_BK, order_BK = (
                torch.cat([score_BK, score_BM], 1).sort(dim=1, descending=True, stable=True)
            )  # fmt: skip
            item_BK = torch.cat([item_BK, item_N[place_BM]], 1).gather(1, order_BK)
            score_BK, item_BK = score_BK[:, : self.k], item_BK[:, : self.k]
        return item_BK.masked_fill(score_BK == -torch.inf, 0), score_BK


def _selector(item_N: Tensor) -> slice | Tensor:
    """Neighbours are a slice, which copies nothing of the item table."""
    first, last = int(item_N[0]), int(item_N[-1])
    return slice(first, last + 1) if last - first + 1 == len(item_N) else item_N


def _leave_out(score_BN: Tensor, item_N: Tensor, row_S: Tensor, item_S: Tensor) -> None:
    place_S = torch.searchsorted(item_N, item_S).clamp_(max=len(item_N) - 1)
    is_here_S = item_N[place_S] == item_S
    score_BN.index_put_((row_S[is_here_S], place_S[is_here_S]), score_BN.new_tensor(-torch.inf))


def _top(score_BN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row and their places, in ascending order of the places.

    What is among the k largest lies in one of the k groups with the largest maxima: only those are sorted.
    """
    num_groups = score_BN.shape[1] // GROUP
    if num_groups > 2 * k:
        whole = num_groups * GROUP
        group_BG = score_BN[:, :whole].reshape(-1, num_groups, GROUP).amax(2).topk(k).indices
        place_BM = (group_BG[:, :, None] * GROUP + torch.arange(GROUP, device=score_BN.device)).flatten(1)
        rest = torch.arange(whole, score_BN.shape[1], device=score_BN.device)
        place_BM = torch.cat([place_BM, rest.expand(len(place_BM), -1)], 1)
        place_BK = place_BM.gather(1, score_BN.gather(1, place_BM).topk(k).indices)
    else:
        place_BK = score_BN.topk(k).indices
    place_BK = place_BK.sort(dim=1).values
    return score_BN.gather(1, place_BK), place_BK


def ids_of(values: Sequence[Any]) -> pa.Array[Any]:
    """Raw ids from Python, as an array; numbers beside text become text."""
    ids: pa.Array[Any]
    try:
        ids = pa.array(list(values))
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        ids = pa.array([str(value) for value in values], pa.string())
    if ids.null_count:
        raise ModelError(f"raw ids must be there, got {ids.null_count} that are None; leave them out")
    return ids


def rows_of(values: Sequences, name: str) -> list[list[Any]]:
    rows = values.values() if isinstance(values, Mapping) else values
    if not isinstance(rows, Iterable) or isinstance(rows, str | pd.DataFrame):
        raise ModelError(f"{name} must be a list of lists, or a dict of them, got a {type(values).__name__}")
    of_each = list(rows)
    for row in of_each:
        if not isinstance(row, Iterable) or isinstance(row, str):
            raise ModelError(f"{name} must be lists, one a user, got {row!r} in the place of one")
    return [list(row) for row in of_each]


def whole_times(values: list[Any]) -> npt.NDArray[np.int64]:
    times = np.array(values) if values else np.zeros(0, np.int64)
    if times.ndim != 1 or times.dtype.kind not in "iu":
        odd = next((value for value in values if not isinstance(value, int | np.integer)), values[0])
        raise ModelError(
            f"times must be whole numbers in the unit of the log that was trained on, got {odd!r}"
        )
    return times.astype(np.int64)


def raw_log(sequences: Sequences, times: Sequences | None) -> tuple[list[Any], RawLog]:
    """Users, and their sequences as a log. Raises ModelError where the times don't go with them."""
    each = rows_of(sequences, "sequences")
    users = list(sequences) if isinstance(sequences, Mapping) else list(range(len(each)))
    offset_U = np.concatenate(
        [np.zeros(1, np.int64), np.cumsum([len(items) for items in each], dtype=np.int64)]
    )
    ids = ids_of([item for items in each for item in items]).dictionary_encode()
    time_S = None
    if times is not None:
        if isinstance(times, Mapping):
            of_each = [list(times.get(user, ())) for user in users]
        else:
            of_each = rows_of(times, "times")
        if [len(row) for row in of_each] != [len(items) for items in each]:
            raise ModelError("times must have one time for each item of each sequence")
        time_S = whole_times([time for row in of_each for time in row])
    codes = ids.indices.to_numpy().astype(np.int32)
    return users, RawLog(pa.array(range(len(users))), ids.dictionary, offset_U, codes, time_S, None)


def load_model(path: str | Path, device: str | None = None) -> Recommender:
    """Load the model in a `best/` folder, or of a study by its folder or its name below `runs`.

    device: "cpu", "cuda"; a GPU if there is one where None is given. Raises ModelError, a ValueError, for a
    folder that holds no model or one that this version can't use. Nothing in the folder is executed.

        load_model("runs/mine/best").recommend([[31, 1029, 17]], k=10)
    """
    return Recommender(read_exported(find_model(str(path), Path("runs")), device))
