"""The frozen candidates of the `sampled:N` protocol.

Shapes: U evaluated users, N candidates, B users with candidates still missing, M drawn at once.
"""

import numpy as np
import numpy.typing as npt

from seqsweep.data_pipeline.ids import PAD_ITEM_ID
from seqsweep.data_pipeline.store import SequenceLog
from seqsweep.sweep.seeds import derive_seed


def draw_candidates(
    log: SequenceLog,
    user_id_U: npt.NDArray[np.int32],
    target_position_U: npt.NDArray[np.int64],
    num_candidates: int,
    part: str,
) -> npt.NDArray[np.int32]:
    """For each user, items to rank the target against: (U, N) item ids, PAD_ITEM_ID where none is left.

    Uniform over the items the user had not seen before the target, without the target and without repeats
    (SASRec, 4.2, with 100). Drawn from the log's content alone, so that every study of a log, every
    trial and every machine ranks against the same ones. For validation the test item stays a candidate.
    """
    excluded_key = _excluded(log, user_id_U, target_position_U)
    num_items, wanted = log.num_items, min(num_candidates, log.num_items)
    candidate_UN = np.full((len(user_id_U), wanted), PAD_ITEM_ID, np.int32)
    generator = np.random.default_rng(derive_seed(0, log.manifest.content, part, "candidates"))
    num_excluded_U = np.bincount(excluded_key // (num_items + 1), minlength=len(user_id_U))
    available_U = num_items - num_excluded_U
    # Where most of the catalogue is seen or wanted, drawing again and again would hit little that is new.
    dense_U = available_U < np.maximum(4 * wanted, num_items // 4)
    for row in np.flatnonzero(dense_U):
        begin, end = np.searchsorted(excluded_key, [row * (num_items + 1), (row + 1) * (num_items + 1)])
        free = np.setdiff1d(np.arange(1, num_items + 1), excluded_key[begin:end] - row * (num_items + 1))
        drawn = generator.permutation(free)[:wanted]
        candidate_UN[row, : len(drawn)] = drawn
    rest_B = np.flatnonzero(~dense_U)
    while len(rest_B):
        candidate_UN[rest_B], complete_B = _draw(generator, rest_B, excluded_key, num_items, wanted)
        rest_B = rest_B[~complete_B]
    return candidate_UN


def _draw(
    generator: np.random.Generator,
    row_B: npt.NDArray[np.int64],
    excluded_key: npt.NDArray[np.int64],
    num_items: int,
    wanted: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Draw with repeats, keep the first `wanted` new and allowed items of each row: rejection sampling."""
    item_BM = generator.integers(1, num_items + 1, (len(row_B), 2 * wanted + 16))
    key_BM = item_BM + row_B[:, None] * (num_items + 1)
    place_BM = np.searchsorted(excluded_key, key_BM).clip(max=len(excluded_key) - 1)
    allowed_BM = excluded_key[place_BM] != key_BM
    order_BM = np.argsort(item_BM, axis=1, kind="stable")
    sorted_BM = np.take_along_axis(item_BM, order_BM, axis=1)
    repeated_BM = np.zeros_like(allowed_BM)
    np.put_along_axis(repeated_BM, order_BM[:, 1:], sorted_BM[:, 1:] == sorted_BM[:, :-1], axis=1)
    kept_BM = allowed_BM & ~repeated_BM
    first_BM = np.argsort(~kept_BM, axis=1, kind="stable")[:, :wanted]
    drawn_BN = np.take_along_axis(item_BM, first_BM, axis=1).astype(np.int32)
    return drawn_BN, kept_BM.sum(axis=1) >= wanted


def _excluded(
    log: SequenceLog, user_id_U: npt.NDArray[np.int32], target_position_U: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Sorted keys row * (num_items + 1) + item of every history and target, each once."""
    begin_U = log.offset_U[user_id_U]
    length_U = target_position_U + 1 - begin_U
    row_S = np.repeat(np.arange(len(user_id_U)), length_U)
    position_S = np.repeat(begin_U - (np.cumsum(length_U) - length_U), length_U) + np.arange(len(row_S))
    item = np.concatenate(log.item_chunks())
    return np.unique(row_S * (log.num_items + 1) + item[position_S])
