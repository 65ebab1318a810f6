from typing import Any

import pytest
import torch
from torch import Tensor

from seqsweep.models import attention
from seqsweep.models.attention import attend
from seqsweep.models.layers import draw_kept, drop

CPU = torch.device("cpu")


def heads(length: int = 9, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (5, 2, length, 3)
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


def naive(
    q: Tensor, k: Tensor, v: Tensor, kept: Tensor, share: float, is_real_BL: Tensor | None = None
) -> Tensor:
    score = (q @ k.mT) / q.shape[-1] ** 0.5
    hidden = torch.ones(score.shape[-2:], dtype=torch.bool).triu_(1)
    if is_real_BL is not None:
        hidden = ~is_real_BL[:, None, None, :]
    weight: Tensor = score.masked_fill(hidden, -torch.inf).softmax(-1) * kept / share
    return torch.matmul(weight, v)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("rows", "tile"), [(64, 2**18), (4, 2**18), (4, 1)])
@pytest.mark.parametrize("kept_weights", [2**24, 0])
def test_dropped_attention_equals_the_formula(
    kept_weights: int, rows: int, tile: int, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs and all gradients, whatever the tiles, weights kept or not."""
    masks: list[tuple[Tensor, float]] = []

    def recorded(*arguments: Any) -> tuple[Tensor, float]:
        masks.append(draw_kept(*arguments))
        return masks[-1]

    for name, value in {"ROWS": rows, "TILE": tile, "KEPT_WEIGHTS": kept_weights}.items():
        monkeypatch.setattr(attention, name, value)
    monkeypatch.setattr(attention, "draw_kept", recorded)
    inputs = heads()
    is_real_BL = None if causal else torch.arange(9) < torch.tensor([[9], [1], [4], [9], [8]])
    out = attend(*inputs, 0.3, is_real_BL)
    kept, drawn = torch.zeros(10, 9, 9), iter(masks)
    for some, queries, seen in attention._tiles(kept.shape, causal=causal):
        kept[some, queries, seen], share = next(drawn)
    expected = naive(*inputs, kept.view(5, 2, 9, 9), share, is_real_BL)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    weight = torch.randn(out.shape, dtype=torch.float64)
    ours = torch.autograd.grad((out * weight).sum(), inputs)
    theirs = torch.autograd.grad((expected * weight).sum(), inputs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


def test_without_dropout_it_is_plain_attention() -> None:
    inputs = heads()
    everything = torch.ones(5, 2, 9, 9)
    torch.testing.assert_close(attend(*inputs, 0.0), naive(*inputs, everything, 1.0))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_its_share_and_the_mean(p: float) -> None:
    torch.manual_seed(0)
    kept, share = draw_kept((1000, 1003), p, CPU)
    assert share == pytest.approx(1 - p, abs=2**-16)
    assert float(kept.float().mean()) == pytest.approx(1 - p, abs=0.002)  # four standard errors
    rows = kept.float().mean(1)
    assert float(rows.std()) == pytest.approx(
        (p * (1 - p) / 1003) ** 0.5, rel=0.15
    )  # as of independent draws
    x = torch.ones(1000, 1003)
    dropped = drop(x, p, training=True)
    torch.testing.assert_close(dropped[dropped > 0], torch.full((int((dropped > 0).sum()),), 1 / share))
    assert drop(x, p, training=False) is x


def test_dropout_follows_the_seed() -> None:
    x = torch.ones(50, 7)
    torch.manual_seed(1)
    first = drop(x, 0.5, training=True)
    torch.manual_seed(1)
    assert torch.equal(first, drop(x, 0.5, training=True))
    assert not torch.equal(first, drop(x, 0.5, training=True))
