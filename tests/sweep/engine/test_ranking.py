import numpy as np
import pytest
import torch
from torch import Tensor

from seqsweep.data_pipeline.history import History
from seqsweep.data_pipeline.split import leave_one_out
from seqsweep.data_pipeline.store import SequenceLog
from seqsweep.results.metrics import Ranks
from seqsweep.sweep.engine.candidates import draw_candidates
from seqsweep.sweep.engine.opened_log import open_data
from seqsweep.sweep.engine.ranking import Ranker
from seqsweep.sweep.settings.protocol import ProtocolConfig
from tests.logs import log_of, random_log

CPU = torch.device("cpu")


class CoarseScorer:
    """Scores from the last item alone, rounded so that many tie."""

    max_len = 3
    uses_time = False

    def __init__(self, num_items: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.table = torch.randint(0, 4, (num_items + 1, num_items), generator=generator).float()

    def read(self, history: History) -> Tensor:
        return history.item_id_BL[torch.arange(len(history.length_B)), history.length_B - 1]

    def score(self, last_B: Tensor) -> Tensor:
        return self.table[last_B].clone()


def rank(log: SequenceLog, scorer: CoarseScorer, **settings: str) -> tuple[Ranker, Ranks]:
    protocol = ProtocolConfig.model_validate(settings)
    data = open_data(log, protocol, CPU)
    ranker = Ranker(log, data.sequences, data.split.test, protocol, "test")
    return ranker, ranker.rank(scorer)


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("seen", ["keep", "remove"])
def test_ranks_equal_a_loop_over_users(seen: str, num_shards: int) -> None:
    log = random_log(num_shards=num_shards)
    scorer = CoarseScorer(log.num_items)
    ranker, ranks = rank(log, scorer, seen=seen)
    items = np.concatenate(log.item_chunks())
    assert len(ranker.user_id_U) > 20
    for user, better, tied in zip(ranker.user_id_U, ranks.better_U, ranks.tied_U, strict=True):
        *history, target = items[log.offset_U[user] : log.offset_U[user + 1]]
        score = scorer.table[history[-1]].numpy()
        candidates = [i for i in range(1, log.num_items + 1) if seen == "keep" or i not in history]
        assert better == sum(score[i - 1] > score[target - 1] for i in candidates)
        assert tied == sum(score[i - 1] == score[target - 1] for i in candidates)


def test_users_whose_target_was_seen_are_left_out_when_seen_items_are_removed() -> None:
    log = log_of([[1, 2, 3, 1], [1, 2, 3, 4], [2, 2, 3, 4]], num_items=5)
    ranker, _ = rank(log, CoarseScorer(5), seen="remove")
    assert ranker.user_id_U.tolist() == [1, 2]
    assert ranker.num_seen_targets == 1
    ranker, _ = rank(log, CoarseScorer(5), seen="auto")  # two repeats in twelve: repeats are normal here
    assert ranker.user_id_U.tolist() == [0, 1, 2]


def test_a_score_that_is_not_finite_fails() -> None:
    log = random_log()
    for bad in (torch.nan, torch.inf, -torch.inf):
        scorer = CoarseScorer(log.num_items)
        scorer.table[:, 7] = bad
        with pytest.raises(FloatingPointError, match="not finite"):
            rank(log, scorer)


def test_sampled_ranking_counts_the_candidates_alone() -> None:
    log = random_log()
    scorer = CoarseScorer(log.num_items)
    ranker, ranks = rank(log, scorer, ranking="sampled:5")
    split = leave_one_out(log.offset_U)
    candidate_UN = draw_candidates(log, split.test.user_id, split.test.position, 5, "test")
    items = np.concatenate(log.item_chunks())
    for row, position in enumerate(split.test.position):
        score = scorer.table[items[position - 1]].numpy()
        drawn = score[candidate_UN[row] - 1]
        assert ranks.better_U[row] == (drawn > score[items[position] - 1]).sum()
        assert ranks.tied_U[row] == (drawn == score[items[position] - 1]).sum() + 1
    assert len(ranker.user_id_U) == len(candidate_UN)


@pytest.mark.parametrize("num_items", [25, 400])
def test_candidates_are_new_items_without_repeats_and_frozen(num_items: int) -> None:
    log = random_log(num_items=num_items, num_users=60)
    targets = leave_one_out(log.offset_U).valid
    first, second = (draw_candidates(log, targets.user_id, targets.position, 20, "valid") for _ in range(2))
    np.testing.assert_array_equal(first, second)
    items = np.concatenate(log.item_chunks())
    for user, position, drawn in zip(targets.user_id, targets.position, first, strict=True):
        real = drawn[drawn > 0]
        history = items[log.offset_U[user] : position + 1]
        assert len(set(real)) == len(real) == min(20, num_items - len(history))
        assert not set(real) & set(history)
