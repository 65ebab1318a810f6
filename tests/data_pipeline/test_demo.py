from pathlib import Path

import numpy as np
import pytest

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.demo import Demo, DemoConfig, ceilings, generate
from seqsweep.data_pipeline.preparing.prepare import prepare
from seqsweep.data_pipeline.store import open_log

SMALL = DemoConfig(seed=3, num_users=40, num_items=60, num_interests=3, min_length=4, max_length=12)


@pytest.fixture(scope="module")
def demo() -> Demo:
    return generate(DemoConfig())


def slow_ceiling(demo: Demo, *, distance: int, aware: bool) -> tuple[float, float]:
    """The design's formulas, one user and one matrix at a time."""
    config = demo.config
    V, Z, share = config.num_items, config.num_interests, config.popularity_share
    tau_VV = np.zeros((V, V))
    for successor_V, weight in zip(demo.successor_KV, config.successor_weights, strict=True):
        tau_VV[np.arange(V), successor_V] += weight
    move_ZZ = np.full((Z, Z), (1 - config.stay_probability) / (Z - 1))
    np.fill_diagonal(move_ZZ, config.stay_probability)
    gains = []
    for length, all_L, long_L in zip(demo.length_U, demo.item_UL, demo.long_UL, strict=True):
        item_L = all_L[: length - distance]
        belief_Z = demo.popularity_ZV[:, item_L[0]] / demo.popularity_ZV[:, item_L[0]].sum()
        for k in range(1, len(item_L) + 1):
            belief_Z = belief_Z @ move_ZZ
            probability_ZV = np.zeros((Z, V))
            gaps = [False] if k == 1 else [bool(long_L[k - 1])] if aware else [False, True]
            for is_long in gaps:
                term_ZV = (1 - share) * tau_VV[
                    item_L[k - 2] if is_long else item_L[k - 1]
                ] + share * demo.popularity_ZV
                if not config.repeats:
                    term_ZV[:, item_L[:k]] = 0
                probability_ZV += term_ZV / term_ZV.sum(axis=1, keepdims=True) / len(gaps)
            if k < len(item_L):
                belief_Z = belief_Z * probability_ZV[:, item_L[k]]
                belief_Z /= belief_Z.sum()
        top = np.sort(belief_Z @ probability_ZV)[::-1][:10]
        gains.append([(top / np.log2(np.arange(2, 12))).sum(), top.sum()])
    ndcg, hr = np.mean(gains, axis=0)
    return float(ndcg), float(hr)


@pytest.mark.parametrize("repeats", [False, True])
def test_ceilings_equal_the_slow_formulas(repeats: bool) -> None:
    demo = generate(DemoConfig(**{**vars(SMALL), "repeats": repeats}))
    fast = ceilings(demo)
    for split, distance in (("valid", 2), ("test", 1)):
        for name in ("aware", "blind"):
            ndcg, hr = slow_ceiling(demo, distance=distance, aware=name == "aware")
            assert fast[split][name]["ndcg@10"] == pytest.approx(ndcg, abs=1e-12)
            assert fast[split][name]["hr@10"] == pytest.approx(hr, abs=1e-12)


def test_ceilings_of_the_design(demo: Demo) -> None:
    test = ceilings(demo)["test"]
    assert test["blind"]["ndcg@10"] == pytest.approx(0.55, abs=0.01)
    assert test["aware"]["ndcg@10"] == pytest.approx(0.685, abs=0.01)


def test_process(demo: Demo) -> None:
    present_UL = demo.item_UL >= 0
    assert (present_UL.sum(axis=1) == demo.length_U).all()
    assert (demo.length_U.min(), demo.length_U.max()) == (10, 40)
    assert all(len(set(item_L[item_L >= 0])) == (item_L >= 0).sum() for item_L in demo.item_UL)
    hours_UL = np.diff(demo.time_UL, axis=1) / 3600
    assert set(hours_UL[~demo.long_UL[:, 1:]]) == {1, 2, 3}
    assert set(hours_UL[demo.long_UL[:, 1:]]) == set(range(48, 97))
    assert demo.long_UL[:, 1:].mean() == pytest.approx(0.5, abs=0.01)


def test_gap_between_the_last_two_decides_the_source(demo: Demo) -> None:
    """The first successor of the source comes next in (1 - .3) * .6 = .42 of the cases, were none seen."""
    first_V = demo.successor_KV[0]
    for is_long in (False, True):
        here_UL = (demo.item_UL[:, 2:] >= 0) & (demo.long_UL[:, 1:-1] == is_long)
        follows_last, follows_before = (
            float((first_V[source_UL] == demo.item_UL[:, 2:])[here_UL].mean())
            for source_UL in (demo.item_UL[:, 1:-1], demo.item_UL[:, :-2])
        )
        follows_source, follows_other = (
            (follows_before, follows_last) if is_long else (follows_last, follows_before)
        )
        assert follows_source == pytest.approx(0.42, abs=0.07)
        assert follows_other < 0.02


def test_log_in_its_natural_form(demo: Demo) -> None:
    table = demo.interactions
    time = table["timestamp"].to_numpy()
    assert table.num_rows == demo.length_U.sum()
    assert table.column_names == ["user", "item", "timestamp"]
    assert (np.diff(time) >= 0).all()
    assert 1_600_000_000 <= time.min() < time.max() < 1_700_000_000
    assert np.unique(table["user"].to_numpy()).tolist() == list(range(1, 4001))


def test_seed_decides_the_log() -> None:
    again, other = generate(SMALL), generate(DemoConfig(**{**vars(SMALL), "seed": 4}))
    assert (generate(SMALL).item_UL == again.item_UL).all()
    assert (again.item_UL != other.item_UL).any()


def test_impossible_process_is_refused() -> None:
    with pytest.raises(ValueError, match="num_items must be well above num_interests"):
        generate(DemoConfig(num_users=50, num_items=9, num_interests=3, min_length=9, max_length=12))


def test_manifest_has_ceilings_only_for_the_unchanged_log(tmp_path: Path, demo: Demo) -> None:
    log = open_log(prepare(DataConfig(), tmp_path))
    assert log.manifest.ceilings == ceilings(demo)
    assert (log.num_users, log.num_items, log.manifest.tie_share) == (4000, 300, 0.0)
    assert (log.manifest.name, log.manifest.origin, log.manifest.time_unit) == ("demo", "demo", "s")
    without_effect = open_log(prepare(DataConfig(min_user_interactions=10), tmp_path)).manifest
    assert without_effect.ceilings == log.manifest.ceilings
    filtered = open_log(prepare(DataConfig(min_user_interactions=11, seed=1), tmp_path)).manifest
    assert filtered.ceilings is None
    assert filtered.num_interactions < filtered.counts[0].num_rows != log.manifest.num_interactions
