from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from seqsweep.data_pipeline.history import History
from seqsweep.models.interface import last_places
from seqsweep.models.lrurec import LinearRecurrence, LRUBlock, LRURec, LRURecConfig, _passes, scan

GOLDEN = Path(__file__).parents[1] / "golden" / "lrurec.npz"
SMALL = LRURecConfig(hidden_dim=6, state_dim=10, dropout=0.3, max_len=16)
LENGTHS = [*range(1, 18), 31, 32, 33, 50, 200]


def build(config: LRURecConfig = SMALL, num_items: int = 20) -> LRURec:
    torch.manual_seed(0)
    return LRURec(config, num_items).double().eval()


def recurrence(config: LRURecConfig = SMALL) -> LinearRecurrence:
    block = build(config).blocks[0]
    assert isinstance(block, LRUBlock)
    return block.recurrence


def decay(layer: LinearRecurrence) -> Tensor:
    """Lambda, as equation 5 has it."""
    return torch.exp(torch.complex(-layer.nu_log_N.exp(), layer.theta_log_N.exp()))


def scan_inputs(length: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    u_BLN = torch.randn(3, length, 4, dtype=torch.complex128, generator=generator)
    size_N, angle_N = torch.rand(2, 4, dtype=torch.float64, generator=generator)
    return u_BLN.requires_grad_(), torch.polar(0.8 + 0.19 * size_N, 6.28 * angle_N).requires_grad_()


def loop(u_BLN: Tensor, lambda_N: Tensor) -> Tensor:
    states = [u_BLN[:, 0]]
    for u_BN in u_BLN.unbind(1)[1:]:
        states.append(lambda_N * states[-1] + u_BN)
    return torch.stack(states, 1)


def reference_weights(golden: dict[str, Any], num_blocks: int) -> dict[str, Tensor]:
    """The authors' names to ours; a complex matrix becomes real and imaginary parts in turn."""
    w = {name.removeprefix("w."): torch.from_numpy(golden[name]) for name in golden if name.startswith("w.")}
    ours = {"item_embedding.weight": w["embedding.token.weight"]}
    for kind in ("weight", "bias"):
        ours[f"input_norm.{kind}"] = w[f"embedding.layer_norm.{kind}"]
    for i in range(num_blocks):
        theirs, mine = f"model.lru_blocks.{i}", f"blocks.{i}"
        for row, name in enumerate(("nu", "theta", "gamma")):
            ours[f"{mine}.recurrence.{name}_log_N"] = w[f"{theirs}.lru_layer.params_log"][row]
        for kind in ("weight", "bias"):
            parts = torch.view_as_real(w[f"{theirs}.lru_layer.in_proj.{kind}"])
            ours[f"{mine}.recurrence.input.{kind}"] = parts.movedim(-1, 1).flatten(0, 1)
            for name in ("recurrence", "feed_forward"):
                layer = "lru_layer" if name == "recurrence" else name
                ours[f"{mine}.{name}_norm.{kind}"] = w[f"{theirs}.{layer}.layer_norm.{kind}"]
            ours[f"{mine}.widen.{kind}"] = w[f"{theirs}.feed_forward.w_1.{kind}"]
            ours[f"{mine}.narrow.{kind}"] = w[f"{theirs}.feed_forward.w_2.{kind}"]
        output = w[f"{theirs}.lru_layer.out_proj.weight"].conj().resolve_conj()
        ours[f"{mine}.output.weight"] = torch.view_as_real(output).flatten(
            1
        )  # Re(C h): C's parts as (re, -im)
        ours[f"{mine}.output.bias"] = w[f"{theirs}.lru_layer.out_proj.bias"].real
    return ours


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_authors_code(dtype: torch.dtype) -> None:
    """Arrays of yueqirex/LRURec in float32, padded on the left, with the norms' epsilon set to ours."""
    golden = dict(np.load(GOLDEN))
    config = LRURecConfig(hidden_dim=8, state_dim=16, max_len=13, dropout=0.3)
    model = LRURec(config, num_items=40).to(dtype).eval()
    model.load_state_dict({k: v.to(dtype) for k, v in reference_weights(golden, 2).items()})
    bias_V = torch.from_numpy(golden["w.model.bias"])  # of an item, which our scores have not
    for row, item_id in enumerate(torch.from_numpy(golden["item_id"])):
        length = int((item_id > 0).sum())
        history = History(item_id[None, -length:], torch.tensor([length]))
        expected_LD = torch.from_numpy(golden["hidden"][row, -length:]).to(dtype)
        torch.testing.assert_close(model.encode(history)[0], expected_LD, rtol=0, atol=2e-5)
        expected_V = torch.from_numpy(golden["last_scores"][row]) - bias_V
        score_V = model.score(model.last_state(history))[0]
        torch.testing.assert_close(score_V, expected_V[1:].to(dtype), rtol=0, atol=5e-5)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_scan_is_the_loop_over_time(length: int) -> None:
    u_BLN, lambda_N = scan_inputs(length)
    states, gradients = [], []
    for way in (scan, loop):
        h_BLN = way(u_BLN, lambda_N)
        weight_BLN = torch.randn(h_BLN.shape, generator=torch.Generator().manual_seed(1))
        states.append(h_BLN)
        gradients.append(
            torch.autograd.grad((h_BLN * weight_BLN).abs().sum(), (u_BLN, lambda_N), allow_unused=True)
        )
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients[0][0], gradients[1][0], rtol=0, atol=1e-10)
    of_lambda = gradients[1][1]  # none from the loop over one place, which reads no lambda
    expected_N = torch.zeros_like(lambda_N) if of_lambda is None else of_lambda
    torch.testing.assert_close(gradients[0][1], expected_N, rtol=0, atol=1e-10)


@pytest.mark.parametrize("length", [1, 2, 6])
def test_the_scans_gradient_is_that_of_differences(length: int) -> None:
    u_BLN, lambda_N = scan_inputs(length)
    assert torch.autograd.gradcheck(scan, (u_BLN, lambda_N))


@pytest.mark.parametrize("length", LENGTHS)
def test_the_scan_takes_few_passes(length: int) -> None:
    """Two for each doubling of the length, over fewer than two places for each place."""
    passes = list(_passes(length))
    targets = [len(range(length)[target]) for _, _, target in passes]
    sources = [len(range(length)[source]) for _, source, _ in passes]
    assert targets == sources and 0 not in targets
    assert len(passes) <= 2 * length.bit_length() and sum(targets) < 2 * length


def test_the_scan_leaves_its_input_as_it_is() -> None:
    u_BLN, lambda_N = scan_inputs(9)
    before_BLN = u_BLN.detach().clone()
    scan(u_BLN, lambda_N).abs().sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(u_BLN, before_BLN)


@pytest.mark.parametrize("length", range(1, 17))
def test_the_form_for_graphs_is_the_scan(length: int) -> None:
    layer = recurrence()
    u_BLN2 = torch.randn(3, length, 10, 2, dtype=torch.float64)
    expected_BLN = scan(torch.view_as_complex(u_BLN2), decay(layer))
    torch.testing.assert_close(
        torch.view_as_complex(layer._scan_of_any_length(u_BLN2)), expected_BLN, rtol=0, atol=1e-12
    )


def test_the_recurrence_is_equation_5() -> None:
    layer, x_BLD = recurrence(), torch.randn(3, 9, 6, dtype=torch.float64)
    weight_ND = torch.complex(layer.input.weight[::2], layer.input.weight[1::2])
    bias_N = torch.complex(*torch.randn(2, 10, dtype=torch.float64))
    with torch.no_grad():
        layer.input.bias.copy_(torch.view_as_real(bias_N).flatten())
        layer.gamma_log_N.normal_()
    u_BLN = layer.gamma_log_N.exp() * (x_BLD.to(torch.complex128) @ weight_ND.T + bias_N)
    expected_BLN = loop(u_BLN, decay(layer))
    h_BLN = torch.view_as_complex(layer(x_BLD).view(3, 9, 10, 2))
    torch.testing.assert_close(h_BLN, expected_BLN, rtol=0, atol=1e-12)


def test_the_last_state_is_that_of_the_last_place() -> None:
    model, length_B = build(), torch.tensor([16, 9, 2, 1])
    item_id_BL = torch.randint(1, 21, (4, 16)).masked_fill(torch.arange(16) >= length_B[:, None], 0)
    history = History(item_id_BL, length_B)
    expected_BD = last_places(model.encode(history), length_B)[:, 0]
    torch.testing.assert_close(model.last_state(history), expected_BD, rtol=0, atol=1e-12)


@pytest.mark.parametrize("init", ["normal", "xavier"])
def test_lambda_starts_in_a_ring(init: Any) -> None:
    layer = recurrence(LRURecConfig(state_dim=4000, r_min=0.5, r_max=0.9, init=init))
    size_N, angle_N = decay(layer).abs(), layer.theta_log_N.exp()
    assert 0.5 <= size_N.min() < 0.51 and 0.89 < size_N.max() <= 0.9 + 1e-6
    # Evenly over the ring's area, which makes the square of the size uniform.
    assert size_N.square().mean().item() == pytest.approx((0.5**2 + 0.9**2) / 2, rel=0.02)
    assert 0 < angle_N.min() < 0.01 and 6.27 < angle_N.max() < 6.2832
    torch.testing.assert_close(
        layer.gamma_log_N.exp(), (1 - size_N.square()).sqrt(), rtol=1e-5, atol=0
    )  # drawn in float32


def test_states_stay_finite_whatever_is_learned() -> None:
    model, history = build().float(), History(torch.randint(1, 21, (2, 16)), torch.full((2,), 16))
    for value in (-50.0, 50.0):  # |lambda| is one, and zero
        for block in model.blocks:
            assert isinstance(block, LRUBlock)
            torch.nn.init.constant_(block.recurrence.nu_log_N, value)
        state_BLD = model.encode(history)
        state_BLD.square().sum().backward()  # type: ignore[no-untyped-call]
        assert state_BLD.isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_recurrence_keeps_float32_under_autocast() -> None:
    layer, x_BLD = recurrence().float(), torch.randn(2, 16, 6)
    exact_BL2N = layer(x_BLD)
    with torch.autocast("cpu", torch.bfloat16):
        rough_BL2N = layer(x_BLD)
        rough_BL2N.square().sum().backward()
    assert rough_BL2N.dtype == torch.float32
    torch.testing.assert_close(rough_BL2N, exact_BL2N, rtol=0.02, atol=0.02 * exact_BL2N.abs().max().item())
    assert layer.nu_log_N.grad is not None and layer.nu_log_N.grad.isfinite().all()


def test_dropout_follows_the_seed() -> None:
    model = build().train()
    history = History(torch.tensor([[3, 7, 5]]), torch.tensor([3]))
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(model.encode(history))
    assert torch.equal(runs[0], runs[1]) and not torch.isclose(runs[0], runs[2]).all()


def test_size_at_the_papers_setting() -> None:
    model = LRURec(LRURecConfig(), 3416)
    complex_maps = 2 * (128 * 64 + 128) + 64 * 2 * 128 + 64  # into the state; the real part out of it
    feed_forward, norms = 2 * 64 * 256 + 256 + 64, 2 * 2 * 64
    block = complex_maps + 3 * 128 + feed_forward + norms
    assert sum(p.numel() for p in model.parameters()) == 3417 * 64 + 2 * 64 + 2 * block


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r_min": 0.9, "r_max": 0.9}, "r_min must be below r_max, got r_min=0.9 and r_max=0.9"),
        ({"r_max": 1.0}, "less than 1"),
        ({"dropout": 1.0}, "less than 1"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LRURecConfig(**settings)
