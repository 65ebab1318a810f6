from fractions import Fraction
from itertools import permutations
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqsweep.results.metric_names import METRIC_NAMES
from seqsweep.results.metrics import METRICS, Ranks, compute_metrics


def ranks(*better_and_tied: tuple[int, int]) -> Ranks:
    pairs = np.array(better_and_tied, dtype=np.int64).reshape(-1, 2)
    return Ranks(better_U=pairs[:, 0], tied_U=pairs[:, 1])


def gain(name: str, better: int, tied: int) -> float:
    return float(METRICS[name](ranks((better, tied)))[0])


def untied(*places: int) -> Ranks:
    return ranks(*((place - 1, 1) for place in places))


def test_ndcg_at_10_of_places_1_2_and_11() -> None:
    assert compute_metrics(untied(1, 2, 11))["ndcg@10"] == pytest.approx((1 + 1 / log2(3) + 0) / 3)


def test_hr_counts_the_kth_place_and_not_the_next() -> None:
    metrics = compute_metrics(untied(1, 5, 6, 20, 21))
    assert metrics["hr@1"] == pytest.approx(1 / 5)
    assert metrics["hr@5"] == pytest.approx(2 / 5)
    assert metrics["hr@10"] == pytest.approx(3 / 5)
    assert metrics["hr@20"] == pytest.approx(4 / 5)


def test_mrr_of_places_1_2_and_4() -> None:
    assert compute_metrics(untied(1, 2, 4))["mrr"] == pytest.approx(float(Fraction(7, 12)))


def test_three_tied_behind_nine_share_the_tenth_place() -> None:
    assert gain("hr@10", better=9, tied=3) == pytest.approx(1 / 3)
    assert gain("ndcg@10", better=9, tied=3) == pytest.approx(1 / log2(11) / 3)
    expected = (Fraction(1, 10) + Fraction(1, 11) + Fraction(1, 12)) / 3
    assert gain("mrr", better=9, tied=3) == pytest.approx(float(expected))


def test_tying_the_whole_catalogue_is_worth_a_random_order_and_no_more() -> None:
    num_items = 1000
    assert gain("hr@10", better=0, tied=num_items) == pytest.approx(10 / num_items)
    discounts = sum(1 / log2(place + 1) for place in range(1, 11))
    assert gain("ndcg@10", better=0, tied=num_items) == pytest.approx(discounts / num_items)


def test_a_million_tied_candidates_of_a_thousand_users() -> None:  # a loop over the places would take minutes
    million = 1_000_000
    many = ranks(*[(user, million) for user in range(1000)])
    metrics = compute_metrics(many)
    assert METRICS["mrr"](many)[0] == pytest.approx((np.log(million) + np.euler_gamma) / million, rel=1e-6)
    assert metrics["hr@10"] == pytest.approx(sum(10 - user for user in range(10)) / million / 1000)


@given(better=st.integers(0, 24), tied=st.integers(1, 6), name=st.sampled_from(sorted(METRICS)))
def test_gain_is_the_average_over_all_orders_of_the_tied(better: int, tied: int, name: str) -> None:
    orders = list(permutations(range(tied)))
    untied_gains = [gain(name, better + order.index(0), 1) for order in orders]
    assert gain(name, better, tied) == pytest.approx(sum(untied_gains) / len(orders))


PLACES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), min_size=1, max_size=20)


@given(PLACES)
def test_every_gain_lies_between_0_and_1(pairs: list[tuple[int, int]]) -> None:
    for gain_of in METRICS.values():
        gain_U = gain_of(ranks(*pairs))
        assert gain_U.shape == (len(pairs),)
        assert gain_U.dtype == np.float64
        assert ((gain_U >= 0) & (gain_U <= 1)).all()


@given(better=st.integers(0, 40), tied=st.integers(1, 40), name=st.sampled_from(sorted(METRICS)))
def test_one_more_better_candidate_never_helps(better: int, tied: int, name: str) -> None:
    assert gain(name, better + 1, tied) <= gain(name, better, tied) + 1e-12


def test_the_mean_is_over_users() -> None:
    pairs = [(0, 1), (3, 2), (50, 7)]
    expected = {name: np.mean([gain(name, *pair) for pair in pairs]) for name in METRICS}
    assert compute_metrics(ranks(*pairs)) == pytest.approx(expected)


def test_metrics_of_nobody_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one user"):
        compute_metrics(ranks())


def test_a_target_that_does_not_tie_with_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="tied_U >= 1"):
        ranks((0, 0))


def test_ranks_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="equally long"):
        Ranks(better_U=np.zeros(2, np.int64), tied_U=np.ones(3, np.int64))


def test_settings_name_all_of_them() -> None:
    assert tuple(METRICS) == METRIC_NAMES
