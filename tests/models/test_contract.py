"""What every model of MODELS must do. A new one is tested by its line in MODELS and a small config here."""

from typing import Any

import pytest
import torch
from torch import Tensor

from seqsweep.data_pipeline.history import History, Times
from seqsweep.data_pipeline.ids import MASK_ITEM_ID, PAD_ITEM_ID
from seqsweep.models import MODELS, SequenceModel

NUM_ITEMS = 30
MAX_LEN = 8
# A small model of each kind that a study can ask for: the registry, and what its configs switch.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "sasrec": ("sasrec", {"hidden_dim": 16, "num_heads": 2}),
    "sasrec-original": ("sasrec", {"hidden_dim": 16, "norm": "original"}),
    "sasrec-post": ("sasrec", {"hidden_dim": 16, "norm": "post"}),
    "sasrec-gated": ("sasrec", {"hidden_dim": 16, "residual": "gated"}),
    "sasrec-mhc": ("sasrec", {"hidden_dim": 16, "residual": "mhc"}),
    "tisasrec": ("tisasrec", {"hidden_dim": 16, "num_heads": 2, "time_span": 16}),
    "tisasrec-mhc": ("tisasrec", {"hidden_dim": 16, "time_span": 16, "residual": "mhc"}),
    "gru4rec": ("gru4rec", {"hidden_dim": 16, "gru_dim": 24, "num_layers": 2}),
    "bert4rec": ("bert4rec", {"hidden_dim": 16, "num_heads": 2}),
    "hstu": ("hstu", {"hidden_dim": 16, "num_heads": 2}),
    "lrurec": ("lrurec", {"hidden_dim": 16, "state_dim": 24}),
}
# Another value for every field of every config; what changes only training is listed apart.
CHANGES: dict[str, Any] = {
    "max_len": 5,
    "init": "xavier",
    "item_std": 0.5,
    "hidden_dim": 8,
    "num_blocks": 3,
    "num_heads": 4,
    "norm": "post",
    "ffn_multiplier": 2,
    "position_std": 0.7,
    "residual": "gated",
    "activation": "swiglu",
    "num_streams": 2,
    "sinkhorn_iterations": 1,
    "mhc_coefficients": "static",
    "mhc_mixing": "identity",
    "time_span": 3,
    "gru_dim": 40,
    "num_layers": 1,
    "state_dim": 12,
    "r_min": 0.3,
    "r_max": 0.9,
    "time_buckets": 2,
    "target_time": True,
}
ONLY_TRAINING = {"dropout", "mask_probability", "mask_last_share"}
ONLY_MHC = {"num_streams", "sinkhorn_iterations", "mhc_coefficients", "mhc_mixing"}

every_variant = pytest.mark.parametrize("variant", VARIANTS)


def build(variant: str, num_items: int = NUM_ITEMS, seed: int = 0, **changes: Any) -> SequenceModel:
    name, settings = VARIANTS[variant]
    torch.manual_seed(seed)
    config = MODELS[name].Config(**{"max_len": MAX_LEN, **settings, **changes})
    return MODELS[name](config, num_items).double().eval()


def history(lengths: list[int], num_items: int = NUM_ITEMS, seed: int = 0) -> History:
    generator = torch.Generator().manual_seed(seed)
    length_B = torch.tensor(lengths)
    shape = (len(lengths), max(lengths))
    item_id_BL = torch.randint(1, num_items + 1, shape, generator=generator)
    real_BL = torch.arange(shape[1]) < length_B[:, None]
    gap_BL = torch.randint(0, 100_000, shape, generator=generator)
    time_BL = 1_600_000_000 + gap_BL.cumsum(1)
    times = Times(time_BL, time_BL + 77, time_BL[:, 0], torch.full((len(lengths),), 5000))
    return History(item_id_BL.masked_fill(~real_BL, PAD_ITEM_ID), length_B, times)


def change_place(whole: History, place: int, to: int = 1) -> History:
    """Another item, and another time, at one place of every row."""
    assert whole.times is not None
    item_id_BL = whole.item_id_BL.clone()
    item_id_BL[:, place] = item_id_BL[:, place] % (NUM_ITEMS - 1) + to
    time_BL = whole.times.time_BL.clone()
    time_BL[:, place] += 123_456
    times = Times(time_BL, whole.times.next_time_BL, whole.times.origin_B, whole.times.unit_B)
    return History(item_id_BL, whole.length_B, times)


def rows(whole: History, row_B: Tensor) -> History:
    assert whole.times is not None
    t = whole.times
    times = Times(t.time_BL[row_B], t.next_time_BL[row_B], t.origin_B[row_B], t.unit_B[row_B])
    return History(whole.item_id_BL[row_B], whole.length_B[row_B], times)


def cut(whole: History, width: int) -> History:
    assert whole.times is not None
    t = whole.times
    times = Times(t.time_BL[:, :width], t.next_time_BL[:, :width], t.origin_B, t.unit_B)
    return History(whole.item_id_BL[:, :width], whole.length_B, times)


def test_every_model_is_here() -> None:
    assert {name for name, _ in VARIANTS.values()} == MODELS.keys()


@every_variant
def test_later_items_do_not_change_earlier_states(variant: str) -> None:
    model = build(variant)
    if model.masked:
        pytest.skip("a masked model looks both ways by design")
    whole = history([MAX_LEN] * 3)
    before = model.encode(whole)
    for place in (3, MAX_LEN - 1):
        after = model.encode(change_place(whole, place))
        assert torch.equal(before[:, :place], after[:, :place])
        assert not torch.allclose(before[:, place], after[:, place])


@every_variant
def test_earlier_items_do_change_later_states(variant: str) -> None:
    model, whole = build(variant), history([MAX_LEN] * 3)
    before, after = model.last_state(whole), model.last_state(change_place(whole, 0))
    assert (before - after).abs().amax() > 1e-6


@every_variant
def test_states_are_blind_to_padding(variant: str) -> None:
    """A row alone, and the same row beside longer ones: the same states at its real places."""
    model, whole = build(variant), history([2, MAX_LEN, 5, 1])
    together, last = model.encode(whole), model.last_state(whole)
    assert torch.isfinite(together).all()
    for row, length in enumerate(whole.length_B.tolist()):
        alone = cut(rows(whole, torch.tensor([row])), length)
        torch.testing.assert_close(model.encode(alone)[0], together[row, :length], rtol=0, atol=1e-10)
        torch.testing.assert_close(model.last_state(alone)[0], last[row], rtol=0, atol=1e-10)


@every_variant
def test_states_are_blind_to_the_order_of_the_batch(variant: str) -> None:
    model, whole = build(variant), history([2, MAX_LEN, 5, 1])
    order = torch.tensor([3, 1, 0, 2])
    torch.testing.assert_close(
        model.last_state(rows(whole, order)), model.last_state(whole)[order], rtol=0, atol=1e-10
    )


def fields() -> list[Any]:
    return [
        pytest.param(variant, field, id=f"{variant}-{field}")
        for variant, (name, _) in VARIANTS.items()
        for field in MODELS[name].Config.model_fields
        if field not in ONLY_TRAINING and not (field in ONLY_MHC and "mhc" not in variant)
    ]


@pytest.mark.parametrize(("variant", "field"), fields())
def test_every_config_field_changes_something(variant: str, field: str) -> None:
    if field in ("norm", "activation") and ("mhc" in variant or "gated" in variant):
        pytest.skip("only with the plain residual")
    if field == "residual" and not variant.endswith("rec"):
        pytest.skip("tried from the plain variant")
    name, settings = VARIANTS[variant]
    whole = history([MAX_LEN, 6, 2])
    if field == "max_len" and name in ("gru4rec", "lrurec"):
        pytest.skip("no positions: it bounds what training and ranking hand over, which test_training sees")
    if field == "max_len":  # what is cut off is the caller's work; positions or scales are the model's
        whole = history([5, 4, 2])
    value = "pre" if field == "norm" and settings.get("norm") == "post" else CHANGES[field]
    if field == "init" and MODELS[name].Config.model_fields["init"].default == "xavier":
        value = "normal"
    base = build(variant)
    change: dict[str, Any] = {field: value}
    changed = build(variant, **change)
    before, after = base.score(base.last_state(whole)), changed.score(changed.last_state(whole))
    assert (before - after).abs().amax() > 1e-9


@every_variant
def test_dropout_acts_in_training_alone(variant: str) -> None:
    whole = history([MAX_LEN, 6, 2])
    assert "dropout" in MODELS[VARIANTS[variant][0]].Config.model_fields
    model = build(variant, dropout=0.5)
    torch.testing.assert_close(model.last_state(whole), model.last_state(whole), rtol=0, atol=0)
    model.train()
    assert not torch.allclose(model.last_state(whole), model.last_state(whole))
    still = build(variant, dropout=0.0).train()
    torch.testing.assert_close(still.last_state(whole), still.last_state(whole), rtol=0, atol=0)


@every_variant
def test_overfits_one_batch(variant: str) -> None:
    """Each row's next item learned by heart from its history: all ten at rank one."""
    whole = history([MAX_LEN, 7, 6, 5, 4, 3, 3, 2, 2, 1], seed=5)
    target_B = torch.arange(10) * 3
    model = build(variant, dropout=0.0).float().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(model.score(model.last_state(whole)), target_B)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if loss < 0.02:
            break
    assert torch.equal(model.score(model.last_state(whole)).argmax(1), target_B)
    assert not model.item_embedding.weight[PAD_ITEM_ID].any()


@every_variant
def test_every_parameter_gets_a_gradient(variant: str) -> None:
    whole = history([MAX_LEN, 6, 3])
    model = build(variant, dropout=0.0)
    item_id_BL = whole.item_id_BL.clone()
    if model.masked:
        item_id_BL[:, 1] = MASK_ITEM_ID
    state_BLD = model.encode(History(item_id_BL, whole.length_B, whole.times))
    model.score(state_BLD[:, 1]).square().sum().backward()  # type: ignore[no-untyped-call]
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


@every_variant
def test_survives_a_checkpoint(variant: str) -> None:
    whole = history([MAX_LEN, 6, 2])
    model, other = build(variant), build(variant, seed=1)
    assert not torch.equal(model.last_state(whole), other.last_state(whole))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.last_state(whole), other.last_state(whole))


@every_variant
def test_float32_is_close_to_float64(variant: str) -> None:
    whole, model = history([MAX_LEN, 6, 2, 1]), build(variant)
    exact = model.last_state(whole)
    torch.testing.assert_close(model.float().last_state(whole).double(), exact, rtol=0, atol=2e-5)


@every_variant
def test_bfloat16_autocast_is_close(variant: str) -> None:
    whole, model = history([MAX_LEN, 6, 2, 1]), build(variant).float()
    exact = model.last_state(whole)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.last_state(whole).float()
    assert torch.isfinite(rough).all()
    assert (rough - exact).square().mean().sqrt() < 0.05 * exact.square().mean().sqrt()


@every_variant
def test_one_item_of_history_and_a_catalogue_of_one(variant: str) -> None:
    model = build(variant, num_items=1)
    score_BV = model.score(model.last_state(history([1, 1], num_items=1)))
    assert score_BV.shape == (2, 1) and torch.isfinite(score_BV).all()


@pytest.mark.filterwarnings("ignore")  # of torch's compiler about its own dealings
@every_variant
def test_compiled_equals_eager(variant: str) -> None:
    """Forward and gradients; without code generation, which would need a C++ compiler."""
    whole = history([MAX_LEN, 6, 2])
    model = build(variant, dropout=0.0).train()
    eager = model.score(model.last_state(whole))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    expected = torch.autograd.grad(eager.square().sum(), parameters, allow_unused=True)
    torch.compiler.reset()
    compiled: Any = torch.compile(model.last_state, backend="aot_eager")
    score_BV = model.score(compiled(whole))
    torch.testing.assert_close(score_BV, eager, rtol=0, atol=1e-10)
    gradients = torch.autograd.grad(score_BV.square().sum(), parameters, allow_unused=True)
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-8)
