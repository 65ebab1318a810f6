import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses import SAMPLED_LOSSES, NegativeScores, bce, ce, gbce, sampled_softmax

GOLDEN = Path(__file__).parents[1] / "golden"


def scores(positive: list[float], negative: list[list[float]], num_items: int = 10) -> NegativeScores:
    negative_TN = torch.tensor(negative, dtype=torch.float64)
    collision_TN = torch.zeros(negative_TN.shape, dtype=torch.bool)
    return NegativeScores(torch.tensor(positive, dtype=torch.float64), negative_TN, collision_TN, num_items)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def random_inputs(positions: int = 7, width: int = 4, items: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    state_TD = torch.randn(positions, width, generator=generator, dtype=torch.float64, requires_grad=True)
    item_VD = torch.randn(items, width, generator=generator, dtype=torch.float64, requires_grad=True)
    return state_TD, item_VD, torch.randint(items, (positions,), generator=generator)


def test_bce_by_hand() -> None:
    expected = -math.log(sigmoid(2.0)) - math.log(sigmoid(1.0)) - math.log(sigmoid(-0.5))
    assert bce(scores([2.0], [[-1.0, 0.5]]), 0.0).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["sasrec_pre", "sasrec_post", "sasrec_original"])
def test_bce_equals_the_reference(name: str) -> None:
    golden = dict(np.load(GOLDEN / f"{name}.npz"))
    positive = torch.from_numpy(golden["positive_logit"]).flatten()
    negative = torch.from_numpy(golden["negative_logit"]).flatten()[:, None]
    none_T1 = torch.zeros_like(negative, dtype=torch.bool)
    ours = bce(NegativeScores(positive, negative, none_T1, 40), 0.0).mean()
    assert ours.item() == pytest.approx(float(golden["bce_loss"]), abs=1e-12)


def test_gbce_by_hand() -> None:
    # 2 negatives of 9 other items: alpha = 2/9; t = .5: beta = 2/9 * (.5 * (1 - 9/2) + 9/2) = 11/18
    expected = (-(11 / 18) * math.log(sigmoid(2.0)) - math.log(sigmoid(1.0)) - math.log(sigmoid(-0.5))) / 3
    assert gbce(scores([2.0], [[-1.0, 0.5]]), 0.5).item() == pytest.approx(expected)


def test_gbce_without_calibration_is_bce() -> None:
    given = scores([2.0, -1.0], [[-1.0, 0.5], [3.0, 0.1]])
    torch.testing.assert_close(gbce(given, 0.0) * 3, bce(given, 0.0))


@pytest.mark.parametrize(("num_items", "negatives"), [(1, 1), (3, 3)])
def test_gbce_names_the_condition(num_items: int, negatives: int) -> None:
    with pytest.raises(ValueError, match=f"got num_negatives={negatives} and num_items={num_items}"):
        gbce(scores([1.0], [[0.0] * negatives], num_items), 0.5)


def test_sampled_softmax_by_hand() -> None:
    # two of ten items drawn: each stands for five, so its exponential counts 5 times
    expected = -math.log(math.exp(2.0) / (math.exp(2.0) + 5 * math.exp(-1.0) + 5 * math.exp(0.5)))
    assert sampled_softmax(scores([2.0], [[-1.0, 0.5]]), 0.0).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", SAMPLED_LOSSES)
def test_a_negative_that_hits_the_target_weighs_nothing(name: str) -> None:
    given = scores([2.0], [[2.0, 0.5]])
    given.collision_TN[0, 0] = True
    other = scores([2.0], [[-40.0, 0.5]])  # too small to weigh anything in any loss
    torch.testing.assert_close(SAMPLED_LOSSES[name](given, 0.3), SAMPLED_LOSSES[name](other, 0.3))


@pytest.mark.parametrize("name", SAMPLED_LOSSES)
def test_gradients_of_sampled_losses(name: str) -> None:
    none_TN = torch.zeros(3, 2, dtype=torch.bool)

    def loss(positive_T: Tensor, negative_TN: Tensor) -> Tensor:
        return SAMPLED_LOSSES[name](NegativeScores(positive_T, negative_TN, none_TN, 10), 0.6)

    positive_T = torch.randn(3, dtype=torch.float64, requires_grad=True)
    negative_TN = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (positive_T, negative_TN))


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
