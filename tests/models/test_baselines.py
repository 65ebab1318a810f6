from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

import seqsweep.models.baselines
from seqsweep.data_pipeline.history import History
from seqsweep.models.baselines import BASELINES, ItemKNN, Markov, MostPopular, RecentPopular, TrainingPart
from seqsweep.sweep.engine.baselines import score_baselines, training_part
from seqsweep.sweep.engine.opened_log import open_data
from seqsweep.sweep.engine.ranking import Scorer
from seqsweep.sweep.settings.protocol import ProtocolConfig
from tests.logs import log_of, random_log

CPU = torch.device("cpu")
ONE = [[1, 2, 3], [1, 2], [1, 4], [4]]


def part_of(sequences: list[list[int]], num_items: int, times: list[list[int]] | None = None) -> TrainingPart:
    """Every interaction trains."""

    def flat(rows: list[list[int]], dtype: type[np.integer[Any]]) -> npt.NDArray[Any]:
        return np.array([value for row in rows for value in row], dtype)

    return TrainingPart(
        user_id=np.repeat(np.arange(len(sequences), dtype=np.int32), [len(row) for row in sequences]),
        item_id=flat(sequences, np.int32),
        previous_id=flat([[0, *row[:-1]] for row in sequences if row], np.int32),
        time=None if times is None else flat(times, np.int64),
        num_items=num_items,
    )


def history(*rows: list[int]) -> History:
    length_B = torch.tensor([len(row) for row in rows])
    item_id_BL = torch.zeros(len(rows), int(length_B.max()), dtype=torch.int64)
    for item_id_L, row in zip(item_id_BL, rows, strict=True):
        item_id_L[: len(row)] = torch.tensor(row)
    return History(item_id_BL, length_B)


def scores(baseline: Scorer, given: History) -> Tensor:
    return baseline.score(baseline.read(given))


def order(score_V: Tensor) -> list[int]:
    return [int(item) + 1 for item in score_V.argsort(descending=True, stable=True)]


def test_most_popular_counts() -> None:
    score_BV = scores(MostPopular(part_of(ONE, 5)), history([1], [4]))
    assert score_BV.tolist() == [[3, 2, 1, 2, 0]] * 2


def test_recent_popularity_counts_the_latest_tenth_and_breaks_ties_by_the_whole() -> None:
    # twenty interactions: the latest two are at 18 and 19, of items 3 and 4; 4 is the more popular of them
    part = part_of([[1] * 10 + [4, 4, 2, 2, 2, 2, 2, 2], [3, 4]], 5, [list(range(18)), [18, 19]])
    score_V = scores(RecentPopular(part), history([1]))[0]
    torch.testing.assert_close(score_V, torch.tensor([10 / 11, 6 / 11, 1 + 1 / 11, 1 + 3 / 11, 0]))


def test_recent_popularity_takes_in_all_of_the_oldest_recent_timestamp() -> None:
    part = part_of([[1] * 7 + [2, 2, 3]], 3, [[0] * 7 + [5, 5, 5]])
    assert scores(RecentPopular(part), history([1]))[0].floor().tolist() == [0, 2, 1]


def test_recent_popularity_needs_times() -> None:
    with pytest.raises(ValueError, match="timestamps"):
        RecentPopular(part_of(ONE, 5))


def test_markov_counts_what_followed_and_breaks_ties_by_popularity() -> None:
    part = part_of([[1, 2, 1, 2], [1, 3], [3, 4], [3, 4]], 5)
    score_BV = scores(Markov(part), history([4, 1], [3], [5]))
    popular = [3 / 4, 2 / 4, 3 / 4, 2 / 4, 0]
    expected = torch.tensor([popular, popular, popular])
    expected[0, 1] += 2  # 1 -> 2 twice, 1 -> 3 once; 3 -> 4 twice; nothing follows 5
    expected[0, 2] += 1
    expected[1, 3] += 2
    torch.testing.assert_close(score_BV, expected)


def test_similarity_is_the_cosine_of_the_items_users() -> None:
    # users of 1: a, b, c; of 2: a, b; of 3: a; of 4: c, d
    score_BV = scores(ItemKNN(part_of(ONE, 5)), history([2], [4, 3], [5]))
    popular_V = torch.tensor([3, 2, 1, 2, 0]) / 4 / 3
    expected_BV = popular_V.repeat(3, 1)
    expected_BV[0, 0] += 2 / np.sqrt(2 * 3)
    expected_BV[0, 2] += 1 / np.sqrt(2 * 1)
    expected_BV[1, 0] += 1 / np.sqrt(2 * 3) + 1 / np.sqrt(1 * 3)  # 4 and 3 both speak for 1
    expected_BV[1, 1] += 1 / np.sqrt(1 * 2)
    torch.testing.assert_close(score_BV, expected_BV)


def test_a_user_has_an_item_once_however_often() -> None:
    score_BV = scores(ItemKNN(part_of([[1, 2, 1, 2, 3], [2, 3, 3]], 3)), history([1]))
    popular_V = torch.tensor([2, 3, 3]) / 4 / 2  # counts every time
    torch.testing.assert_close(score_BV[0] - popular_V, torch.tensor([0, 1 / 2**0.5, 1 / 2**0.5]))


@pytest.mark.parametrize("entries_per_chunk", [1, 40, 2**21])
def test_item_knn_equals_a_dense_product(monkeypatch: pytest.MonkeyPatch, entries_per_chunk: int) -> None:
    monkeypatch.setattr(seqsweep.models.baselines, "ENTRIES_PER_CHUNK", entries_per_chunk)
    log = random_log(num_users=60)
    data = open_data(log, ProtocolConfig(), CPU)
    part = training_part(data)
    has_UV = np.zeros((log.num_users, log.num_items))
    has_UV[part.user_id, part.item_id - 1] = 1
    count_V = np.maximum(has_UV.sum(0), 1)
    cosine_VV = has_UV.T @ has_UV / np.sqrt(count_V[:, None] * count_V)
    np.fill_diagonal(cosine_VV, 0)
    popularity_V = has_UV.sum(0) / (has_UV.sum(0).max() + 1) / has_UV.sum(0).max()
    rows = [[3], [1, 2, 7], [25, 4]]
    expected = [cosine_VV[np.array(row) - 1].sum(0) + popularity_V for row in rows]
    score_BV = scores(ItemKNN(part), history(*rows)).numpy()
    np.testing.assert_allclose(score_BV, expected, rtol=1e-5, atol=1e-6)


def test_only_the_nearest_items_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seqsweep.models.baselines, "MAX_NEIGHBOURS", 1)
    knn = ItemKNN(part_of([[1, 2, 3], [1, 2, 4], [1, 3, 3]], 4))
    # of 1: 2 and 3 alike (2 / sqrt(3 * 2)), the smaller id stays; 4's nearest is 2 (1 / sqrt(2))
    assert scores(knn, history([1], [4])).gt(0.5).tolist() == [
        [False, True, False, False],
        [False, True, False, False],
    ]


def test_a_log_with_many_pairs_is_fitted_from_late_interactions(monkeypatch: pytest.MonkeyPatch) -> None:
    part = part_of([[1, 2, 3, 4, 5, 6], [5, 6]], 6)
    assert scores(ItemKNN(part), history([1]))[0].gt(0.5).tolist() == [False, True, True, True, True, True]
    monkeypatch.setattr(
        seqsweep.models.baselines, "MAX_FIT_PAIRS", 10
    )  # 6 * 6 + 2 * 2 are more, 2 * 2 + 2 * 2 are not
    monkeypatch.setattr(ItemKNN, "max_len", 8)  # 8, 4, 2
    score_BV = scores(ItemKNN(part), history([5], [4]))
    assert score_BV.gt(0.5).tolist() == [[False] * 5 + [True], [False] * 6]


def test_popularity_never_outweighs_a_similarity() -> None:
    # 3 and 4 are met together once, each by many users besides; 1 is the most popular of all
    log = [[1]] * 50 + [[3]] * 30 + [[4]] * 30 + [[3, 4]]
    assert order(scores(ItemKNN(part_of(log, 4)), history([3]))[0])[0] == 4


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("sequences", [[], [[1]], [[1, 1, 1]]])
def test_next_to_nothing_to_count(name: str, sequences: list[list[int]]) -> None:
    baseline = BASELINES[name](part_of(sequences, 1, sequences))
    score_BV = scores(baseline, history([1], [1, 1]))
    assert score_BV.shape == (2, 1) and score_BV.isfinite().all()


def test_the_training_part_holds_nothing_held_out() -> None:
    log = log_of([[1, 2, 3, 4], [5], [2, 3, 1]], 5, num_shards=2, times=[[1, 2, 3, 4], [7], [5, 6, 8]])
    part = training_part(open_data(log, ProtocolConfig(), CPU))
    assert part.time is not None
    rows = zip(part.user_id, part.item_id, part.previous_id, part.time, strict=True)
    assert list(rows) == [(0, 1, 0, 1), (0, 2, 1, 2), (1, 5, 0, 7), (2, 2, 0, 5)]


@pytest.mark.parametrize("with_times", [True, False])
def test_a_row_for_each_baseline_that_the_log_can_fit(with_times: bool) -> None:
    log = random_log(with_times=with_times)
    protocol = ProtocolConfig()
    records = score_baselines(open_data(log, protocol, CPU), protocol, "ndcg@10")
    names = ["most_popular", "recent_popular", "markov", "item_knn"]
    assert [record.model for record in records] == [
        name for name in names if with_times or name != "recent_popular"
    ]
    score = {record.model: record.objective or 0 for record in records}
    assert score["markov"] > score["most_popular"]  # users walk around a ring
