"""The floor every leaderboard shows: models without parameters to train, fitted by counting.

Shapes: B users, L length, V items + padding, S entries of a sparse table.
"""

import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seqsweep.data_pipeline.history import History

RECENT_SHARE = 0.1  # of the training interactions: those that count as recent
MAX_NEIGHBOURS = 100  # kept of each item
MAX_NEIGHBOUR_ENTRIES = 2**24  # over all items; above 168,000 of them each keeps fewer: 16 at a million
MAX_FIT_PAIRS = 2**27  # pairs of items that one user has, over all users
ENTRIES_PER_CHUNK = 2**21  # of the table of item pairs at a time, at most: some 100 MB

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TrainingPart:
    """All training interactions, user after user, each user's in order of time."""

    user_id: npt.NDArray[np.int32]
    item_id: npt.NDArray[np.int32]
    previous_id: npt.NDArray[np.int32]  # the user's item before; 0 for the first
    time: npt.NDArray[np.int64] | None  # None for a log without timestamps
    num_items: int

    def count_items(self, chosen: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.float32]:
        """How often each item occurs, (V - 1,): all over, or among the chosen interactions."""
        item_id = self.item_id if chosen is None else self.item_id[chosen]
        return np.bincount(item_id, minlength=self.num_items + 1)[1:].astype(np.float32)


class MostPopular:
    """Every user gets the items most often seen in training."""

    max_len = 1
    uses_time = False
    needs_time = False  # a log without timestamps cannot fit the baseline

    def __init__(self, part: TrainingPart) -> None:
        self._score = torch.from_numpy(part.count_items())

    def read(self, history: History) -> Tensor:
        return history.length_B

    def score(self, length_B: Tensor) -> Tensor:
        return self._score.to(length_B.device).expand(len(length_B), -1).clone()


class RecentPopular(MostPopular):
    """The items most often seen in the latest tenth of the training interactions; equals by popularity.

    A tenth of the interactions and not of the log's time: logs thin out towards their ends, and one wrong
    timestamp would stretch the range. What shares the oldest such timestamp is in. "Recent" is as of the
    log's end, whenever a user's target happened.
    """

    needs_time = True

    def __init__(self, part: TrainingPart) -> None:
        if part.time is None:
            raise ValueError("recent popularity needs a log with timestamps, and this one has none")
        recent = np.zeros(len(part.time), np.bool_)
        if len(part.time):
            first = int((1 - RECENT_SHARE) * len(part.time))
            recent = part.time >= np.partition(part.time, first)[first]
        self._score = torch.from_numpy(part.count_items(recent) + _below_one(part.count_items()))


class Markov:
    """First-order transitions: how often j followed i; equals among them, and all others, by popularity."""

    max_len = 1
    uses_time = False
    needs_time = False

    def __init__(self, part: TrainingPart) -> None:
        follows = part.previous_id > 0
        key = part.previous_id[follows].astype(np.int64) * part.num_items + part.item_id[follows] - 1
        pair, count = np.unique(key, return_counts=True)
        self._table = _Table(pair // part.num_items, pair % part.num_items, count, part.num_items)
        self._popularity = torch.from_numpy(_below_one(part.count_items()))

    def read(self, history: History) -> Tensor:
        """Each user's last item."""
        return history.item_id_BL.gather(1, history.length_B[:, None] - 1)[:, 0]

    def score(self, last_B: Tensor) -> Tensor:
        score_BV = self._popularity.repeat(len(last_B), 1)
        self._table.add_rows(score_BV, torch.arange(len(last_B)), last_B.cpu())
        return score_BV.to(last_B.device)


class ItemKNN:
    """Items like those of the history: the sum of their similarities to each of its items.

    Two items are similar when the same users have them: the cosine of the items' users, who count as having
    an item or not (Sarwar et al. 2001; Deshpande and Karypis 2004). Each item of the history, all of it up to
    `max_len`, speaks for its `MAX_NEIGHBOURS` most similar others; an item met twice speaks twice. Equals,
    and all items that nothing speaks for, go by popularity. The order of a history plays no part.

    The table is fitted from each user's last `max_len` training interactions, and from the last half, a
    quarter, ... of them where the log has so many that `MAX_FIT_PAIRS` would be passed. It holds
    `MAX_NEIGHBOUR_ENTRIES` at most, 8 bytes each. On one core: half a second and 130 MB for 24,000 items of
    31,000 users (Games), half a minute and 900 MB for a million of each with 20 interactions a user.
    """

    max_len = 200
    uses_time = False
    needs_time = False

    def __init__(self, part: TrainingPart) -> None:
        user_S, column_S = _users_and_items(part, _history_length(part.user_id, self.max_len))
        num_users_V = np.bincount(column_S, minlength=part.num_items)
        self._table = _nearest_items(user_S, column_S, num_users_V)
        # The smallest similarity is above one over the largest count: popularity never outweighs one.
        popularity = _below_one(part.count_items()) / max(1, num_users_V.max(initial=0))
        self._popularity = torch.from_numpy(popularity.astype(np.float32))

    def read(self, history: History) -> Tensor:
        """Each user's items, padded."""
        return history.item_id_BL

    def score(self, item_id_BL: Tensor) -> Tensor:
        row_S, place_S = item_id_BL.cpu().nonzero(as_tuple=True)
        score_BV = self._popularity.repeat(len(item_id_BL), 1)
        self._table.add_rows(score_BV, row_S, item_id_BL.cpu()[row_S, place_S])
        return score_BV.to(item_id_BL.device)


BASELINES: dict[str, type[MostPopular | Markov | ItemKNN]] = {
    "most_popular": MostPopular,
    "recent_popular": RecentPopular,
    "markov": Markov,
    "item_knn": ItemKNN,
}


class _Table:
    """A sparse table (V, V - 1): what an item says of the others. Entries are given in order of the item."""

    def __init__(self, item_S: Array, column_S: Array, value_S: Array, num_items: int) -> None:
        self._column = torch.from_numpy(column_S)
        self._value = torch.from_numpy(value_S.astype(np.float32))
        self._begin = torch.from_numpy(np.searchsorted(item_S, np.arange(num_items + 2)))

    def add_rows(self, score_BV: Tensor, row_T: Tensor, item_T: Tensor) -> None:
        """To each given row of the scores, what the item beside it says."""
        size_T = self._begin[item_T + 1] - self._begin[item_T]
        row_S = torch.repeat_interleave(row_T, size_T)
        first_S = torch.repeat_interleave(self._begin[item_T] - (size_T.cumsum(0) - size_T), size_T)
        entry_S = first_S + torch.arange(len(row_S))
        place_S = row_S * score_BV.shape[1] + self._column[entry_S]
        score_BV.view(-1).index_add_(0, place_S, self._value[entry_S])


def _below_one(count_V: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Counts that only decide between equal whole scores (a float32 holds both below 2**12)."""
    return count_V / (float(count_V.max(initial=0)) + 1)


def _history_length(user_id: npt.NDArray[np.int32], max_len: int) -> int:
    """How many interactions of a user to fit from, so that all users' pairs stay within MAX_FIT_PAIRS."""
    length_U = np.bincount(user_id).astype(np.int64)
    while max_len > 2 and (np.minimum(length_U, max_len) ** 2).sum() > MAX_FIT_PAIRS:
        max_len //= 2
    return max_len


def _users_and_items(part: TrainingPart, max_len: int) -> tuple[Array, Array]:
    """Who has what, each pair once, from the users' last `max_len` interactions; in order of the item.

    Returns the user's and the item's columns, both from 0.
    """
    end_S = np.searchsorted(part.user_id, part.user_id, side="right")
    late_S = end_S - np.arange(len(end_S)) <= max_len
    num_users = int(part.user_id.max(initial=-1)) + 1
    column_S = part.item_id[late_S].astype(np.int64) - 1
    pair_S = np.sort(column_S * num_users + part.user_id[late_S])
    pair_S = pair_S[np.diff(pair_S, prepend=-1) > 0]  # np.unique hashes and takes 5 x as long
    return pair_S % max(1, num_users), pair_S // max(1, num_users)


def _nearest_items(user_S: Array, column_S: Array, num_users_V: Array) -> _Table:
    """Of every item the most similar others: (item, neighbour) and their cosine.

    user_S, column_S: the pairs of `_users_and_items`; num_users_V: (V - 1,) users of each item. Some items
    at a time, so that memory holds a few million entries whatever the log's size.
    """
    num_items, num_users = len(num_users_V), int(user_S.max(initial=-1)) + 1
    most = max(1, min(MAX_NEIGHBOURS, MAX_NEIGHBOUR_ENTRIES // max(1, num_items)))
    length_U = np.bincount(user_S, minlength=num_users)
    met_V = np.bincount(column_S, weights=length_U[user_S], minlength=num_items)
    bound_V = np.minimum(met_V, num_items).cumsum()  # entries of an item's row, at most
    cuts = np.searchsorted(bound_V, np.arange(ENTRIES_PER_CHUNK, bound_V.max(initial=0), ENTRIES_PER_CHUNK))
    edges = sorted({0, *cuts.tolist(), num_items})
    items_UV = _sparse(user_S, column_S, (num_users, num_items))
    parts = [(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))]
    for begin, end in pairwise(edges):
        here = slice(*np.searchsorted(column_S, [begin, end]))
        users_CU = _sparse(column_S[here] - begin, user_S[here], (end - begin, num_users))
        row, neighbour, both = _product(users_CU, items_UV)
        other = row + begin != neighbour
        row, neighbour, both = row[other], neighbour[other], both[other]
        similarity = both / np.sqrt(num_users_V[row + begin] * num_users_V[neighbour]).astype(np.float32)
        order = np.argsort(row - similarity / np.float64(2), kind="stable")  # by row, the most similar first
        first = np.searchsorted(row, np.arange(end - begin))
        kept = order[np.arange(len(row)) - first[row] < most]  # rows come in order already: row[order] is row
        item = row[kept] + begin + 1
        parts.append((item.astype(np.int32), neighbour[kept].astype(np.int32), similarity[kept]))
    item, neighbour, similarity = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _Table(item, neighbour, similarity, num_items)


def _sparse(row_S: Array, column_S: Array, shape: tuple[int, int]) -> Tensor:
    index = torch.from_numpy(np.stack([row_S, column_S]))
    return torch.sparse_coo_tensor(index, torch.ones(len(row_S)), shape, check_invariants=True).coalesce()


def _product(a: Tensor, b: Tensor) -> tuple[Array, Array, Array]:
    """Entries of a sparse product: rows, columns, values."""
    with warnings.catch_warnings():  # inside, torch takes a format it still calls beta
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        product = torch.sparse.mm(a, b).coalesce()
    return *product.indices().numpy(), product.values().numpy()
