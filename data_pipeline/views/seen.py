"""What the training part holds: how often each item occurs, and which items each user has seen.

Shapes: U users, S interactions of a chunk of users.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from seqsweep.data_pipeline.views.device import DeviceSequences

Ints = npt.NDArray[np.int64]

INTERACTIONS_PER_CHUNK = 2**22  # bounds what exists beside the result


def count_items(sequences: DeviceSequences) -> Ints:
    """Training interactions of items 1..num_items, (num_items,)."""
    count = np.zeros(sequences.num_items, np.int64)
    for _, item_id_S in _training_chunks(sequences):
        count += np.bincount(item_id_S - 1, minlength=sequences.num_items)
    return count


def seen_keys(sequences: DeviceSequences) -> Ints:
    """user * num_items + item_id - 1 of every user and item that meet in training: each once, ascending."""
    keys = [np.zeros(0, np.int64)]
    for user_id_S, item_id_S in _training_chunks(sequences):
        key_S = np.sort(user_id_S * sequences.num_items + item_id_S - 1)
        keys.append(key_S[np.diff(key_S, prepend=-1) > 0])  # np.unique of NumPy 2.4 takes 13 times as long
    return np.concatenate(keys)


def _training_chunks(sequences: DeviceSequences) -> Iterator[tuple[Ints, Ints]]:
    begin_U = sequences.offset_U[:-1]
    length_U = sequences.train_end_U - begin_U
    total_U = np.cumsum(length_U)
    ends = np.arange(INTERACTIONS_PER_CHUNK, total_U[-1] if len(total_U) else 0, INTERACTIONS_PER_CHUNK)
    for user_C in np.split(np.arange(len(begin_U)), np.searchsorted(total_U, ends)):
        length_C = length_U[user_C]
        first_S = np.repeat(begin_U[user_C] - (np.cumsum(length_C) - length_C), length_C)
        position_S = torch.from_numpy(first_S + np.arange(len(first_S))).to(sequences.device)
        yield np.repeat(user_C, length_C), sequences.items(position_S).cpu().numpy()
