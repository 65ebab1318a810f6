"""A generated log whose best possible NDCG@10 and HR@10 are known exactly, with and without looking at time.

A user follows one of a few interests and moves from item to item. The source of the next item is the last one
if the gap between the last two was short, and the item before the last if it was long: who reads times knows
the source, who does not must guess. The gap to the target itself decides nothing.

The price of knowing everything: the process is a caricature. It shows whether a model can learn order and
time, not how models compare on real logs.

Shapes: U users, B users of one step, L positions, V items, Z interests, K successors.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class DemoConfig:
    """The process; the fingerprint of a generated log covers every field.

    popularity_share: how often the next item ignores its source (lambda).
    repeats: whether a user may meet an item again.
    version: raised with every change of the process, so that an old prepared log does not pass for a new one.
    """

    seed: int = 0
    num_users: int = 4000
    num_items: int = 300
    num_interests: int = 5
    min_length: int = 10
    max_length: int = 40
    popularity_share: float = 0.3
    stay_probability: float = 0.95
    successor_weights: tuple[float, ...] = (0.6, 0.25, 0.15)
    long_gap_probability: float = 0.5
    repeats: bool = False
    version: int = 1


@dataclass(frozen=True)
class Demo:
    """The log and what it was drawn from. item_UL is -1 past a user's end; long_UL tells the gap before."""

    config: DemoConfig
    popularity_ZV: Floats
    successor_KV: Ints
    length_U: Ints
    item_UL: Ints
    long_UL: Bools
    time_UL: Ints

    @property
    def interactions(self) -> pa.Table:
        """user, item, timestamp in seconds, in order of time as a service logs them; ids count from 1."""
        present_UL = self.item_UL >= 0
        time = self.time_UL[present_UL]
        order = np.argsort(time, kind="stable")
        user = np.repeat(np.arange(len(self.length_U)), self.length_U)
        columns = {
            "user": pa.array(user[order] + 1).dictionary_encode(),
            "item": pa.array(self.item_UL[present_UL][order] + 1).dictionary_encode(),
            "timestamp": pa.array(time[order]),
        }
        return pa.table(columns, metadata={"time_unit": "s"})


def generate(config: DemoConfig) -> Demo:
    """Draw the log, one position of all users at a time."""
    rng = np.random.default_rng(config.seed)
    U, V, L = config.num_users, config.num_items, config.max_length
    interest_V = rng.integers(0, config.num_interests, V)
    popularity_ZV = (interest_V == np.arange(config.num_interests)[:, None]) / np.arange(1.0, V + 1)
    popularity_ZV /= popularity_ZV.sum(axis=1, keepdims=True)
    successor_KV = np.stack([rng.permutation(V) for _ in config.successor_weights])
    length_U = rng.integers(config.min_length, L + 1, U)
    long_UL = rng.random((U, L)) < config.long_gap_probability
    hours_UL = np.where(long_UL, rng.integers(48, 97, (U, L)), rng.integers(1, 4, (U, L)))
    long_UL[:, 0] = False
    hours_UL[:, 0] = 0
    start_U1 = 1_600_000_000 + rng.integers(0, 365 * 86_400, (U, 1))
    item_UL = _draw_items(config, popularity_ZV, successor_KV, length_U, long_UL, rng)
    time_UL = start_U1 + 3600 * hours_UL.cumsum(axis=1)
    return Demo(config, popularity_ZV, successor_KV, length_U, item_UL, long_UL, time_UL)


def _draw_items(
    config: DemoConfig,
    popularity_ZV: Floats,
    successor_KV: Ints,
    length_U: Ints,
    long_UL: Bools,
    rng: np.random.Generator,
) -> Ints:
    U, V, Z = config.num_users, config.num_items, config.num_interests
    item_UL = np.full(long_UL.shape, -1, dtype=np.int64)
    seen_UV = np.zeros((U, V), dtype=np.bool_)
    interest_U = rng.integers(0, Z, U)
    for position in range(config.max_length):
        if position > 0:
            moves_U = rng.random(U) >= config.stay_probability
            interest_U = np.where(moves_U, (interest_U + rng.integers(1, max(Z, 2), U)) % Z, interest_U)
        user_B = np.flatnonzero(length_U > position)
        weight_BV = popularity_ZV[interest_U[user_B]]
        if position > 0:
            weight_BV *= config.popularity_share
            source_B = np.where(
                long_UL[user_B, position - 1], item_UL[user_B, position - 2], item_UL[user_B, position - 1]
            )
            for successor_V, share in zip(successor_KV, config.successor_weights, strict=True):
                weight_BV[np.arange(len(user_B)), successor_V[source_B]] += (
                    1 - config.popularity_share
                ) * share
        weight_BV *= ~seen_UV[user_B]
        cumulated_BV = weight_BV.cumsum(axis=1)
        if not np.all(cumulated_BV[:, -1] > 0):
            raise ValueError(
                "a user has seen every item that could come next: num_items must be well above num_interests "
                f"* max_length, got num_items={V}, num_interests={Z} and max_length={config.max_length}"
            )
        threshold_B1 = rng.random((len(user_B), 1)) * cumulated_BV[:, -1:]
        item_B = (cumulated_BV > threshold_B1).argmax(axis=1)
        item_UL[user_B, position] = item_B
        seen_UV[user_B, item_B] = not config.repeats
    return item_UL


def ceilings(demo: Demo) -> dict[str, dict[str, dict[str, float]]]:
    """The best expected metrics any model can reach: split -> "aware" or "blind" of time -> metric -> value.

    Expected over what the process may draw next, so a realised split scatters around it (by .0055 NDCG at the
    default size).
    """
    by_awareness = {name: _ceilings_of(demo, aware=name == "aware") for name in ("aware", "blind")}
    return {
        split: {name: values[split] for name, values in by_awareness.items()} for split in ("valid", "test")
    }


def _ceilings_of(demo: Demo, *, aware: bool) -> dict[str, dict[str, float]]:
    """Forward filter over interests: belief_UZ is P(interest | items so far), and times if aware."""
    config, item_UL, length_U = demo.config, demo.item_UL, demo.length_U
    U, Z = len(length_U), config.num_interests
    transition_ZZ = np.full((Z, Z), (1 - config.stay_probability) / max(Z - 1, 1))
    np.fill_diagonal(transition_ZZ, config.stay_probability if Z > 1 else 1.0)
    belief_UZ = demo.popularity_ZV[:, item_UL[:, 0]].T.copy()
    belief_UZ /= belief_UZ.sum(axis=1, keepdims=True)
    seen_UV = np.zeros((U, config.num_items), dtype=np.bool_)
    seen_UV[np.arange(U), item_UL[:, 0]] = not config.repeats
    gains: dict[str, list[Floats]] = {"valid": [], "test": []}
    for position in range(1, config.max_length):
        belief_UZ = belief_UZ @ transition_ZZ
        for split, distance in (("valid", 2), ("test", 1)):
            user_B = np.flatnonzero(length_U - distance == position)
            if len(user_B):
                step = _Step(demo, user_B, position, seen_UV[user_B], aware)
                gains[split].append(_best_gains(step.predict(belief_UZ[user_B])))
        user_B = np.flatnonzero(length_U - 1 > position)
        step = _Step(demo, user_B, position, seen_UV[user_B], aware)
        belief_BZ = belief_UZ[user_B] * step.likelihood(item_UL[user_B, position])
        belief_UZ[user_B] = belief_BZ / belief_BZ.sum(axis=1, keepdims=True)
        seen_UV[user_B, item_UL[user_B, position]] = not config.repeats
    means = {split: np.concatenate(values, axis=1).mean(axis=1) for split, values in gains.items()}
    return {split: {"ndcg@10": float(ndcg), "hr@10": float(hr)} for split, (ndcg, hr) in means.items()}


def _best_gains(probability_BV: Floats) -> Floats:
    """Expected NDCG@10 and HR@10 of ranking by the true probabilities: two rows, a column a user."""
    top_BK = -np.sort(-probability_BV, axis=1)[:, :10]
    return np.stack([top_BK @ (1 / np.log2(np.arange(2, top_BK.shape[1] + 2))), top_BK.sum(axis=1)])


class _Step:
    """What may come next for users B at one position, given the interest; averaged over gaps where unaware.

    P(j | s, z) = ((1 - l) sum_k w_k [j = successor_k(s)] + l popularity_z(j)) / norm(s, z) for unseen j.
    """

    def __init__(self, demo: Demo, user_B: Ints, position: int, seen_BV: Bools, aware: bool) -> None:
        config = demo.config
        self.popularity_ZV = config.popularity_share * demo.popularity_ZV
        self.unseen_BV = ~seen_BV
        self.row_B = np.arange(len(user_B))
        last_B, before_B = demo.item_UL[user_B, position - 1], demo.item_UL[user_B, position - 2]
        long_B = demo.long_UL[user_B, position - 1]
        self.sources: list[tuple[float, Ints, Floats, Floats]] = []
        if position == 1:
            options = [(1.0, last_B)]
        elif aware:
            options = [(1.0, np.where(long_B, before_B, last_B))]
        else:
            p = config.long_gap_probability
            options = [(1 - p, last_B), (p, before_B)]
        popularity_BZ = self.unseen_BV @ self.popularity_ZV.T
        weight_K = (1 - config.popularity_share) * np.array(config.successor_weights)
        for probability, source_B in options:
            successor_BK = demo.successor_KV[:, source_B].T
            weight_BK = weight_K * self.unseen_BV[self.row_B[:, None], successor_BK]
            norm_BZ = popularity_BZ + weight_BK.sum(axis=1, keepdims=True)
            self.sources.append((probability, successor_BK, weight_BK, norm_BZ))

    def likelihood(self, item_B: Ints) -> Floats:
        """P(item | interest), one column an interest."""
        total_BZ = np.zeros((len(item_B), len(self.popularity_ZV)))
        for probability, successor_BK, weight_BK, norm_BZ in self.sources:
            from_source_B1 = np.where(successor_BK == item_B[:, None], weight_BK, 0).sum(
                axis=1, keepdims=True
            )
            total_BZ += probability * (from_source_B1 + self.popularity_ZV[:, item_B].T) / norm_BZ
        return total_BZ

    def predict(self, belief_BZ: Floats) -> Floats:
        """P(item) under the belief over interests, zero for seen items."""
        total_BV = np.zeros(self.unseen_BV.shape)
        for probability, successor_BK, weight_BK, norm_BZ in self.sources:
            share_BZ = probability * belief_BZ / norm_BZ
            total_BV += (share_BZ @ self.popularity_ZV) * self.unseen_BV
            share_B = share_BZ.sum(axis=1)
            for k in range(successor_BK.shape[1]):
                total_BV[self.row_B, successor_BK[:, k]] += share_B * weight_BK[:, k]
        return total_BV
