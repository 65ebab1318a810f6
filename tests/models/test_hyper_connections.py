from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call

from seqsweep.models.hyper_connections import HyperConnection, sinkhorn
from seqsweep.models.interface import BlocksConfig

GOLDEN = Path(__file__).parents[1] / "golden"
SETTINGS = [(c, m) for c in ("dynamic", "static") for m in ("sinkhorn", "identity")]


def connection(index: int = 1, *, width: int = 3, streams: int = 4, **settings: Any) -> HyperConnection:
    """In float64; coefficients that depend on the token to a good part, where they do at all."""
    torch.manual_seed(index)
    config = BlocksConfig(hidden_dim=width, residual="mhc", num_streams=streams, **settings)
    result = HyperConnection(config, index).double()
    if result.phi is not None and result.alpha is not None:
        torch.nn.init.normal_(result.phi)
        torch.nn.init.normal_(result.alpha)
    return result


def naive_sinkhorn(logit: Tensor, iterations: int) -> Tensor:
    for _ in range(iterations):
        logit = logit - logit.logsumexp(-2, keepdim=True)
        logit = logit - logit.logsumexp(-1, keepdim=True)
    return logit.exp()


def naive_connection(c: HyperConnection, x_BLSD: Tensor, sublayer: Any) -> Tensor:
    assert c.phi is not None and c.alpha is not None
    size = c.num_streams
    v = x_BLSD.flatten(2)
    projected = v / (v.square().mean(-1, keepdim=True) + 1e-6).sqrt() @ c.phi
    scale = torch.cat([c.alpha[i].expand(n) for i, n in enumerate((size, size, size * size))])
    pre, post, res = torch.split(projected * scale + c.bias, c.sizes, dim=-1)
    h_res = naive_sinkhorn(res.reshape(*res.shape[:2], size, size), c.sinkhorn_iterations)
    written = sublayer(torch.einsum("bls,blsd->bld", pre.sigmoid(), x_BLSD))
    mixed = torch.einsum("blij,bljd->blid", h_res, x_BLSD)
    return mixed + 2 * post.sigmoid()[..., None] * written[:, :, None]  # type: ignore[no-any-return]


def column_error(x: Tensor) -> float:
    return float((x.sum(-2) - 1).abs().max())


def test_sinkhorn_is_doubly_stochastic() -> None:
    torch.manual_seed(0)
    result = sinkhorn(torch.randn(2000, 4, 4), 20)
    assert float((result.sum(-1) - 1).abs().max()) < 1e-6
    assert column_error(result) < 1e-3
    assert bool((result >= 0).all())


def test_columns_get_better_with_the_iterations() -> None:
    """Large logits converge slowly; rows are exact all the same."""
    torch.manual_seed(0)
    logit = 4 * torch.randn(2000, 4, 4)
    errors = [column_error(sinkhorn(logit, iterations)) for iterations in (1, 5, 20, 100)]
    assert errors == sorted(errors, reverse=True) and errors[2] < 0.15 and errors[3] < 0.05
    assert float((sinkhorn(logit, 20).sum(-1) - 1).abs().max()) < 1e-6


@pytest.mark.parametrize("iterations", [1, 2, 20])
@pytest.mark.parametrize("size", [2, 4, 5])
def test_sinkhorn_equals_the_loop_over_logarithms(size: int, iterations: int) -> None:
    torch.manual_seed(0)
    logit = (3 * torch.randn(50, size, size, dtype=torch.float64)).requires_grad_()
    grad = torch.randn_like(logit)
    ours, naive = sinkhorn(logit, iterations), naive_sinkhorn(logit, iterations)
    torch.testing.assert_close(ours, naive, rtol=0, atol=1e-13)
    (our_grad,), (naive_grad,) = (torch.autograd.grad(x, logit, grad) for x in (ours, naive))
    torch.testing.assert_close(our_grad, naive_grad, rtol=0, atol=1e-11)


@pytest.mark.parametrize("scale", [30.0, 1000.0])
def test_only_the_first_iteration_needs_logarithms(scale: float) -> None:
    """Logits that exp cannot hold, among them rows and columns that are nothing beside the others."""
    torch.manual_seed(0)
    logit = scale * torch.randint(-1, 2, (3000, 4, 4)) + torch.randn(3000, 4, 4)
    exact = naive_sinkhorn(logit.double(), 20)
    torch.testing.assert_close(sinkhorn(logit.double(), 20), exact, rtol=0, atol=1e-12)
    # float32 holds a difference of 2000 to 6e-5
    torch.testing.assert_close(sinkhorn(logit, 20).double(), exact, rtol=0, atol=6e-5)


@pytest.mark.parametrize("value", [-1000.0, 1000.0, None])
def test_sinkhorn_is_finite_for_extreme_logits(value: float | None) -> None:
    torch.manual_seed(0)
    logit = torch.full((200, 4, 4), value or 0.0)
    if value is None:
        logit = 1000.0 * (2 * torch.randint(0, 2, (200, 4, 4)) - 1)
    logit.requires_grad_()
    result = sinkhorn(logit, 20)
    (grad,) = torch.autograd.grad(result, logit, torch.randn_like(result))
    assert bool(torch.isfinite(result).all()) and bool(torch.isfinite(grad).all())
    torch.testing.assert_close(result.sum(-1), torch.ones(200, 4))


@pytest.mark.parametrize("iterations", [1, 3, 20])
def test_gradient_of_sinkhorn(iterations: int) -> None:
    torch.manual_seed(0)
    logit = torch.randn(3, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: sinkhorn(x, iterations), (logit,))


def test_sinkhorn_leaves_the_gradient_it_is_given_alone() -> None:
    """Of one token all layouts are the same, so that nothing is copied on the way."""
    logit, grad = torch.randn(1, 4, 4, requires_grad=True), torch.ones(1, 4, 4)
    torch.autograd.grad(sinkhorn(logit, 20), logit, grad)
    assert bool((grad == 1).all())


def test_sinkhorn_keeps_the_logits_only() -> None:
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        sinkhorn(torch.randn(10, 4, 4, requires_grad=True), 20)
    assert kept == [10 * 16]


def test_equals_the_reference_implementation() -> None:
    golden = {name: torch.from_numpy(array) for name, array in np.load(GOLDEN / "mhc.npz").items()}
    streams, size = golden["streams"], 4
    config = BlocksConfig(
        hidden_dim=16, residual="mhc", sinkhorn_iterations=int(golden["sinkhorn_iterations"])
    )
    ours = HyperConnection(config, 0)
    assert ours.phi is not None and ours.alpha is not None
    # the reference has h_res[i, j] in row 2 * size + j * size + i, ours in column 2 * size + i * size + j
    transposed = torch.arange(size * size).view(size, size).T.flatten()
    order = torch.cat([torch.arange(2 * size), 2 * size + transposed])
    with torch.no_grad():
        ours.phi.copy_(golden["phi"][order].T)
        ours.bias.copy_(golden["bias"][order])
        ours.alpha.copy_(golden["alpha"])
    read: list[Tensor] = []

    def sublayer(x_BLD: Tensor) -> Tensor:
        read.append(x_BLD)
        return golden["sublayer_output"]

    new_streams = ours(streams, sublayer)
    _, h_post, h_res = ours.coefficients(streams)
    for result, name in (
        (new_streams, "new_streams"),
        (read[0], "sublayer_input"),
        (h_post, "h_post"),
        (h_res, "h_res"),
    ):
        torch.testing.assert_close(result, golden[name], rtol=0, atol=1e-5, msg=name)


def test_equals_the_formula() -> None:
    ours = connection()
    x_BLSD = torch.randn(2, 5, 4, 3, dtype=torch.float64, requires_grad=True)
    inputs = (x_BLSD, *ours.parameters())
    weight = torch.randn_like(x_BLSD)
    new, expected = ours(x_BLSD, torch.tanh), naive_connection(ours, x_BLSD, torch.tanh)
    torch.testing.assert_close(new, expected, rtol=0, atol=1e-13)
    for gradient, reference in zip(
        torch.autograd.grad(new, inputs, weight), torch.autograd.grad(expected, inputs, weight), strict=True
    ):
        torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("coefficients", "mixing"), SETTINGS)
def test_gradients(coefficients: str, mixing: str) -> None:
    ours = connection(streams=2, mhc_coefficients=coefficients, mhc_mixing=mixing)
    names = [name for name, _ in ours.named_parameters()]

    def new_streams(x_BLSD: Tensor, *params: Tensor) -> Tensor:
        named = dict(zip(names, params, strict=True))
        return functional_call(ours, named, (x_BLSD, torch.tanh))  # type: ignore[no-any-return]

    x_BLSD = torch.randn(2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(new_streams, (x_BLSD, *ours.parameters()))


@pytest.mark.parametrize("width", [3, 2**17])
def test_tokens_are_summed_in_parts_that_fit_a_cache(width: int) -> None:
    """With the larger width a part is one token."""
    torch.manual_seed(0)
    ours = connection(width=width)
    x_BLSD = torch.randn(1, 3, 4, width, dtype=torch.float64)
    torch.testing.assert_close(ours(x_BLSD, torch.tanh), naive_connection(ours, x_BLSD, torch.tanh))


@pytest.mark.parametrize(("coefficients", "mixing"), SETTINGS)
def test_what_an_ablation_takes_away(coefficients: str, mixing: str) -> None:
    ours = connection(mhc_coefficients=coefficients, mhc_mixing=mixing)
    sizes = {name: tuple(parameter.shape) for name, parameter in ours.named_parameters()}
    num_coefficients = 4 + 4 + (16 if mixing == "sinkhorn" else 0)
    expected: dict[str, tuple[int, ...]] = {"bias": (num_coefficients,)}
    if coefficients == "dynamic":
        expected |= {
            "phi": (4 * 3, num_coefficients),
            "alpha": (3 if mixing == "sinkhorn" else 2,),
        }
    assert sizes == expected
    x_BLSD = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    pre_BLS, _, res_BLSS = ours.coefficients(x_BLSD)
    assert (res_BLSS is None) == (mixing == "identity")
    assert bool((pre_BLS == pre_BLS[0, 0]).all()) == (coefficients == "static")


def test_start() -> None:
    config = BlocksConfig(hidden_dim=64, residual="mhc")
    fifth = HyperConnection(config, 5)  # favours stream 5 mod 4 = 1
    assert fifth.phi is not None and fifth.alpha is not None
    pre, post, res = torch.split(fifth.bias.detach(), fifth.sizes)
    assert pre.tolist() == [-2, 2, -2, -2]
    torch.testing.assert_close(post, torch.tensor([-1 / 3, 1, -1 / 3, -1 / 3]))
    assert torch.equal(res.view(4, 4), 3 * torch.eye(4) - 3)
    assert fifth.alpha.tolist() == pytest.approx([0.01] * 3)
    assert float(fifth.phi.detach().std()) == pytest.approx(0.02, rel=0.05)


def test_permuting_streams_permutes_the_state() -> None:
    ours, permuted = connection(), connection()
    assert ours.phi is not None and permuted.phi is not None
    order = torch.tensor([2, 0, 3, 1])
    # coefficients of stream order[i] at place i: pre, post, then the matrix in both directions
    place = torch.cat([order, 4 + order, 8 + (4 * order[:, None] + order).flatten()])
    with torch.no_grad():
        permuted.phi.copy_(ours.phi.view(4, 3, -1)[order].flatten(0, 1)[:, place])
        permuted.bias.copy_(ours.bias[place])
    x_BLSD = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    new = ours(x_BLSD, torch.tanh)
    torch.testing.assert_close(
        permuted(x_BLSD[:, :, order], torch.tanh), new[:, :, order], rtol=0, atol=1e-12
    )


def test_zero_tokens_are_finite() -> None:
    ours = connection().float()
    x_BLSD = torch.randn(2, 3, 4, 3)
    x_BLSD[:, 1] = 0
    x_BLSD.requires_grad_()
    new = ours(x_BLSD, torch.tanh)
    gradients = torch.autograd.grad(new.square().sum(), (x_BLSD, *ours.parameters()))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in (new, *gradients))


def test_extreme_coefficients_are_finite() -> None:
    ours = connection().float()
    torch.manual_seed(0)
    with torch.no_grad():
        ours.bias.copy_(1000.0 * torch.randn(24).sign())
    x_BLSD = torch.randn(2, 3, 4, 3, requires_grad=True)
    new = ours(x_BLSD, torch.tanh)
    gradients = torch.autograd.grad(new.square().sum(), (x_BLSD, *ours.parameters()))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in (new, *gradients))


def test_autocast_leaves_coefficients_alone() -> None:
    ours = connection(width=16).float()
    linear = torch.nn.Linear(16, 16)
    x_BLSD = torch.randn(2, 5, 4, 16, requires_grad=True)
    exact = ours.coefficients(x_BLSD)
    with torch.autocast("cpu", torch.bfloat16):
        coefficients = ours.coefficients(x_BLSD)
        new = ours(x_BLSD, linear)
        assert linear(x_BLSD).dtype == torch.bfloat16  # the sub-layer itself is under autocast
    for coefficient, expected in zip(coefficients, exact, strict=True):
        assert coefficient is not None and expected is not None
        assert coefficient.dtype == torch.float32 and torch.equal(coefficient, expected)
    assert new.dtype == torch.float32
    torch.testing.assert_close(new, ours(x_BLSD, linear), rtol=0, atol=0.05)
    new.sum().backward()
    assert x_BLSD.grad is not None and bool(torch.isfinite(x_BLSD.grad).all())


def test_a_float64_model_has_float64_coefficients() -> None:
    ours = connection()
    coefficients = ours.coefficients(torch.randn(1, 2, 4, 3, dtype=torch.float64))
    assert [tensor.dtype for tensor in coefficients if tensor is not None] == [torch.float64] * 3
