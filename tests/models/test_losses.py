import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seqsweep.models.losses import (
    SAMPLED_LOSSES,
    Excluded,
    LossSettings,
    Negatives,
    NegativeScores,
    bce,
    bpr,
    bpr_max,
    ce,
    gbce,
    sampled,
    sampled_softmax,
    top1_max,
)

GOLDEN = Path(__file__).parents[1] / "golden"
DEFAULT = LossSettings()


def scores(
    positive: list[float],
    negative: list[list[float]],
    num_items: int = 10,
    *,
    masked: list[list[bool]] | None = None,
    log_q: list[list[float]] | None = None,
) -> NegativeScores:
    """Of negatives that are uniform over the items, and count, unless it is said otherwise."""
    negative_TN = torch.tensor(negative, dtype=torch.float64)
    uniform_TN = torch.full_like(negative_TN, -math.log(num_items))
    return NegativeScores(
        torch.tensor(positive, dtype=torch.float64),
        negative_TN,
        torch.zeros_like(negative_TN, dtype=torch.bool) if masked is None else torch.tensor(masked),
        uniform_TN if log_q is None else torch.tensor(log_q, dtype=torch.float64),
        num_items,
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def random_inputs(positions: int = 7, width: int = 4, items: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    state_TD = torch.randn(positions, width, generator=generator, dtype=torch.float64, requires_grad=True)
    item_VD = torch.randn(items, width, generator=generator, dtype=torch.float64, requires_grad=True)
    return state_TD, item_VD, torch.randint(items, (positions,), generator=generator)


def test_bce_by_hand() -> None:
    expected = -math.log(sigmoid(2.0)) - math.log(sigmoid(1.0)) - math.log(sigmoid(-0.5))
    assert bce(scores([2.0], [[-1.0, 0.5]]), DEFAULT).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["sasrec_pre", "sasrec_post", "sasrec_original"])
def test_bce_equals_the_reference(name: str) -> None:
    golden = dict(np.load(GOLDEN / f"{name}.npz"))
    positive = torch.from_numpy(golden["positive_logit"]).flatten()
    negative = torch.from_numpy(golden["negative_logit"]).flatten()[:, None]
    none_T1, log_q_T1 = torch.zeros_like(negative, dtype=torch.bool), torch.zeros_like(negative)
    ours = bce(NegativeScores(positive, negative, none_T1, log_q_T1, 40), DEFAULT).mean()
    assert ours.item() == pytest.approx(float(golden["bce_loss"]), abs=1e-12)


def test_gbce_by_hand() -> None:
    # 2 negatives of 9 other items: alpha = 2/9; t = .5: beta = 2/9 * (.5 * (1 - 9/2) + 9/2) = 11/18
    expected = (-(11 / 18) * math.log(sigmoid(2.0)) - math.log(sigmoid(1.0)) - math.log(sigmoid(-0.5))) / 3
    ours = gbce(scores([2.0], [[-1.0, 0.5]]), LossSettings(gbce_t=0.5))
    assert ours.item() == pytest.approx(expected)


def test_gbce_without_calibration_is_bce() -> None:
    given = scores([2.0, -1.0], [[-1.0, 0.5], [3.0, 0.1]])
    torch.testing.assert_close(gbce(given, LossSettings(gbce_t=0)) * 3, bce(given, DEFAULT))


@pytest.mark.parametrize(("num_items", "negatives"), [(1, 1), (3, 3)])
def test_gbce_names_the_condition(num_items: int, negatives: int) -> None:
    with pytest.raises(ValueError, match=f"got num_negatives={negatives} and num_items={num_items}"):
        gbce(scores([1.0], [[0.0] * negatives], num_items), DEFAULT)


def test_bpr_by_hand() -> None:
    expected = -(math.log(sigmoid(3.0)) + math.log(sigmoid(1.5))) / 2
    assert bpr(scores([2.0], [[-1.0, 0.5]]), DEFAULT).item() == pytest.approx(expected)


def test_bpr_max_by_hand() -> None:
    # scores 0 and log 3 have weights 1/4 and 3/4; the target scores log 3: it wins with 3/4 and 1/2
    penalty = 0.75 * math.log(3) ** 2
    expected = -math.log(3 / 16 + 3 / 8) + 0.5 * penalty
    ours = bpr_max(scores([math.log(3)], [[0.0, math.log(3)]]), LossSettings(score_penalty=0.5))
    assert ours.item() == pytest.approx(expected)


def test_top1_max_by_hand() -> None:
    expected = 0.25 * (0.25 + 0.5) + 0.75 * (0.5 + sigmoid(math.log(3) ** 2))
    assert top1_max(scores([math.log(3)], [[0.0, math.log(3)]]), DEFAULT).item() == pytest.approx(expected)


def test_sampled_softmax_by_hand() -> None:
    # two of ten items drawn: each stands for five, so its exponential counts 5 times
    expected = -math.log(math.exp(2.0) / (math.exp(2.0) + 5 * math.exp(-1.0) + 5 * math.exp(0.5)))
    assert sampled_softmax(scores([2.0], [[-1.0, 0.5]]), DEFAULT).item() == pytest.approx(expected)


def test_sampled_softmax_without_correction_by_hand() -> None:
    expected = -math.log(math.exp(2.0) / (math.exp(2.0) + math.exp(-1.0) + math.exp(0.5)))
    ours = sampled_softmax(scores([2.0], [[-1.0, 0.5]]), LossSettings(log_q=False))
    assert ours.item() == pytest.approx(expected)


def test_sampled_softmax_is_cross_entropy_where_draws_are_as_frequent_as_probable() -> None:
    # Of four draws, an item of probability 1/2 comes twice and two of 1/4 once: 4 q draws of each.
    score = [0.3, -1.2, 2.0]
    items = [0, 0, 1, 2]
    log_q = [[math.log(0.5)] * 2 + [math.log(0.25)] * 2]
    for target in range(3):
        given = scores(
            [score[target]],
            [[score[item] for item in items]],
            num_items=3,
            masked=[[item == target for item in items]],
            log_q=log_q,
        )
        full = F.cross_entropy(torch.tensor([score], dtype=torch.float64), torch.tensor([target]))
        assert sampled_softmax(given, DEFAULT).item() == pytest.approx(full.item())


Pairs = list[tuple[float, float]]  # score and log q of the negatives that count


def naive_weights(pairs: Pairs) -> list[float]:
    total = sum(math.exp(score) for score, _ in pairs)
    return [math.exp(score) / total for score, _ in pairs]


def naive_bpr_max(positive: float, pairs: Pairs, drawn: int, num_items: int, given: LossSettings) -> float:
    if not pairs:
        return 0.0
    weighted = list(zip(naive_weights(pairs), (score for score, _ in pairs), strict=True))
    win = sum(weight * sigmoid(positive - score) for weight, score in weighted)
    return -math.log(win) + given.score_penalty * sum(weight * score**2 for weight, score in weighted)


def naive_top1_max(positive: float, pairs: Pairs, drawn: int, num_items: int, given: LossSettings) -> float:
    return sum(
        weight * (sigmoid(score - positive) + sigmoid(score**2))
        for weight, (score, _) in zip(naive_weights(pairs), pairs, strict=True)
    )


def naive_bce(positive: float, pairs: Pairs, drawn: int, num_items: int, given: LossSettings) -> float:
    return -math.log(sigmoid(positive)) - sum(math.log(1 - sigmoid(score)) for score, _ in pairs)


def naive_gbce(positive: float, pairs: Pairs, drawn: int, num_items: int, given: LossSettings) -> float:
    alpha = drawn / (num_items - 1)
    beta = alpha * (given.gbce_t * (1 - 1 / alpha) + 1 / alpha)
    others = sum(math.log(1 - sigmoid(score)) for score, _ in pairs)
    return (-math.log(sigmoid(positive) ** beta) - others) / (drawn + 1)


def naive_bpr(positive: float, pairs: Pairs, drawn: int, num_items: int, given: LossSettings) -> float:
    return -sum(math.log(sigmoid(positive - score)) for score, _ in pairs) / drawn


def naive_softmax(positive: float, pairs: Pairs, drawn: int, num_items: int, given: LossSettings) -> float:
    others = sum(math.exp(score) / (drawn * math.exp(log_q) if given.log_q else 1) for score, log_q in pairs)
    return -math.log(math.exp(positive) / (math.exp(positive) + others))


NAIVE: dict[str, Callable[[float, Pairs, int, int, LossSettings], float]] = {
    "bce": naive_bce,
    "gbce": naive_gbce,
    "bpr": naive_bpr,
    "bpr_max": naive_bpr_max,
    "top1_max": naive_top1_max,
    "sampled_softmax": naive_softmax,
}


def random_scores() -> NegativeScores:
    """Nine positions and four negatives, some of them masked: all of one position's, none of another's."""
    generator = torch.Generator().manual_seed(2)
    positive_T = torch.randn(9, generator=generator, dtype=torch.float64)
    negative_TN = 2 * torch.randn(9, 4, generator=generator, dtype=torch.float64)
    masked_TN = torch.rand(9, 4, generator=generator) < 0.4
    masked_TN[0], masked_TN[1] = True, False
    log_q_TN = torch.rand(9, 4, generator=generator, dtype=torch.float64).log()
    return NegativeScores(positive_T, negative_TN, masked_TN, log_q_TN, 10)


@pytest.mark.parametrize("settings", [DEFAULT, LossSettings(gbce_t=0.2, score_penalty=0.3, log_q=False)])
@pytest.mark.parametrize("name", SAMPLED_LOSSES)
def test_sampled_losses_equal_naive_ones_row_by_row(name: str, settings: LossSettings) -> None:
    given = random_scores()
    for row, ours in enumerate(SAMPLED_LOSSES[name](given, settings).tolist()):
        counts = (~given.masked_TN[row]).tolist()
        pairs = [
            (given.negative_TN[row, column].item(), given.log_q_TN[row, column].item())
            for column in range(4)
            if counts[column]
        ]
        naive = NAIVE[name](given.positive_T[row].item(), pairs, 4, 10, settings)
        assert ours == pytest.approx(naive, rel=1e-10), row


@pytest.mark.parametrize("name", SAMPLED_LOSSES)
def test_a_masked_negative_weighs_nothing(name: str) -> None:
    given = scores([2.0], [[2.0, 0.5]], masked=[[True, False]])
    other = scores([2.0], [[-40.0, 0.5]])  # too small to weigh anything in any loss
    loss, settings = SAMPLED_LOSSES[name], LossSettings(gbce_t=0.3)
    torch.testing.assert_close(loss(given, settings), loss(other, settings))


@pytest.mark.parametrize("name", SAMPLED_LOSSES)
def test_gradients_of_sampled_losses(name: str) -> None:
    given = random_scores()

    def loss(positive_T: Tensor, negative_TN: Tensor) -> Tensor:
        changed = NegativeScores(positive_T, negative_TN, given.masked_TN, given.log_q_TN, 10)
        return SAMPLED_LOSSES[name](changed, LossSettings(gbce_t=0.6, score_penalty=0.7))

    inputs = (given.positive_T.requires_grad_(), given.negative_TN.requires_grad_())
    assert torch.autograd.gradcheck(loss, inputs)
    (gradient_TN,) = torch.autograd.grad(loss(*inputs).sum(), inputs[1:])
    assert not gradient_TN[given.masked_TN].any() and gradient_TN[~given.masked_TN].all()


@pytest.mark.parametrize("size", [1e4, 1e-4])
@pytest.mark.parametrize("name", SAMPLED_LOSSES)
def test_sampled_losses_are_finite_for_extreme_scores(name: str, size: float) -> None:
    sign = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 3)
    masked = torch.cartesian_prod(*[torch.tensor([False, True])] * 2)
    positive_T = (size * sign[:, 0]).repeat_interleave(len(masked)).requires_grad_()
    negative_TN = (size * sign[:, 1:]).repeat_interleave(len(masked), 0).requires_grad_()
    masked_TN = masked.repeat(len(sign), 1)
    log_q_TN = torch.full_like(negative_TN, -math.log(10))
    given = NegativeScores(positive_T, negative_TN, masked_TN, log_q_TN.detach(), 10)
    loss_T = SAMPLED_LOSSES[name](given, DEFAULT)
    for tensor in (loss_T, *torch.autograd.grad(loss_T.sum(), (positive_T, negative_TN))):
        assert tensor.dtype == torch.float32 and torch.isfinite(tensor).all()


def random_negatives(shared: bool, num_items: int) -> Negatives:
    generator = torch.Generator().manual_seed(3)
    item_id = torch.randint(1, num_items + 1, (5,) if shared else (7, 5), generator=generator)
    masked_TN = torch.rand(7, 5, generator=generator) < 0.3
    log_q_TN = torch.rand(1, 5, generator=generator).log().expand(7, 5)
    return Negatives(item_id, masked_TN, log_q_TN, num_items)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", SAMPLED_LOSSES)
def test_sampled_equals_the_loss_of_scores_one_by_one(name: str, shared: bool) -> None:
    state_TD, item_VD, target_T = random_inputs()
    target_T = target_T.clamp(min=1)
    negatives = random_negatives(shared, 10)
    item_id_TN = negatives.item_id.expand(7, 5)
    given = NegativeScores(
        torch.stack([state_TD[t] @ item_VD[target_T[t]] for t in range(7)]),
        torch.stack([item_VD[item_id_TN[t]] @ state_TD[t] for t in range(7)]),
        negatives.masked_TN,
        negatives.log_q_TN,
        10,
    )
    expected = SAMPLED_LOSSES[name](given, DEFAULT).mean()
    ours = sampled(name, state_TD, item_VD, target_T, negatives, DEFAULT)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("max_elements", [1, 5 * (4 + 8) * 3])  # one position and three at a time
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", SAMPLED_LOSSES)
def test_sampled_in_chunks_equals_all_at_once(name: str, shared: bool, max_elements: int) -> None:
    state_TD, item_VD, target_T = random_inputs()
    results = []
    for most in (max_elements, 10_000):
        negatives = random_negatives(shared, 10)
        loss = sampled(name, state_TD, item_VD, target_T.clamp(min=1), negatives, DEFAULT, most)
        results.append((loss, *torch.autograd.grad(loss, (state_TD, item_VD))))
    for ours, whole in zip(*results, strict=True):
        torch.testing.assert_close(ours, whole)


@pytest.mark.parametrize("max_logits", [1, 22, 10_000])
def test_ce_in_chunks_equals_the_naive_formula(max_logits: int) -> None:
    state_TD, item_VD, target_T = random_inputs()
    naive = F.cross_entropy(state_TD @ item_VD.T, target_T)
    expected = torch.autograd.grad(naive, (state_TD, item_VD))
    ours = ce(state_TD, item_VD, target_T, max_logits)
    torch.testing.assert_close(ours, naive)
    for gradient, reference in zip(torch.autograd.grad(ours, (state_TD, item_VD)), expected, strict=True):
        torch.testing.assert_close(gradient, reference)


def test_ce_gradient_scales_with_what_comes_after() -> None:
    state_TD, item_VD, target_T = random_inputs()

    def loss(state_TD: Tensor, item_VD: Tensor) -> Tensor:
        return ce(state_TD, item_VD, target_T, 30) ** 2

    assert torch.autograd.gradcheck(loss, (state_TD, item_VD))


def test_ce_is_finite_for_huge_scores() -> None:
    state_TD, item_VD, target_T = (t.detach() for t in random_inputs())
    state_TD = (1e4 * state_TD).requires_grad_()
    loss = ce(state_TD, item_VD, target_T)
    (gradient,) = torch.autograd.grad(loss, (state_TD,))
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()


def test_excluded_items_are_in_no_sum_but_as_target() -> None:
    """Against softmax over the items that are left; in chunks, with users that lie beside each other."""
    torch.manual_seed(0)
    num_items, user_id_T = 7, np.array([0, 0, 0, 2, 2, 1])
    seen = [[0, 1, 2], [3], [5, 6]]
    begin_U = np.array([0, 3, 4, 6])
    begin_T = begin_U[user_id_T]
    column_S = torch.tensor([0, 1, 2, 3, 5, 6])
    excluded = Excluded(column_S, begin_T, begin_U[user_id_T + 1] - begin_T)
    target_T = torch.tensor([1, 4, 0, 5, 3, 3])
    weight_T = torch.rand(6, dtype=torch.float64)
    state_TD = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    item_VD = torch.randn(num_items, 4, dtype=torch.float64, requires_grad=True)
    logit_TV = state_TD @ item_VD.T
    kept_TV = torch.ones(6, num_items, dtype=torch.bool)
    for row, user in enumerate(user_id_T):
        kept_TV[row, seen[user]] = False
    kept_TV[torch.arange(6), target_T] = True
    naive_T = F.cross_entropy(logit_TV.masked_fill(~kept_TV, -torch.inf), target_T, reduction="none")
    expected = torch.autograd.grad((naive_T * weight_T).sum(), [state_TD, item_VD])
    for max_logits in (7, 14, 100):
        loss = ce(state_TD, item_VD, target_T, max_logits, weight_T=weight_T, excluded=excluded)
        torch.testing.assert_close(loss, (naive_T * weight_T).sum())
        torch.testing.assert_close(torch.autograd.grad(loss, [state_TD, item_VD]), expected)
