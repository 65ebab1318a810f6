import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import seqsweep.models.tisasrec
from seqsweep.data_pipeline.history import History, Times
from seqsweep.models.tisasrec import (
    Tile,
    TiSASRec,
    TiSASRecConfig,
    interval_attention,
    personal_intervals,
    scaled_times,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "tisasrec.npz"
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def reference_weights(golden: dict[str, Any], num_blocks: int) -> dict[str, Tensor]:
    """The reference's names to ours; convolutions have width 1."""
    w = {name.removeprefix("w."): torch.from_numpy(golden[name]) for name in golden if name.startswith("w.")}
    ours = {
        "item_embedding.weight": w["item_emb.weight"],
        "position_key.weight": w["abs_pos_K_emb.weight"],
        "position_value.weight": w["abs_pos_V_emb.weight"],
        "interval_key.weight": w["time_matrix_K_emb.weight"],
        "interval_value.weight": w["time_matrix_V_emb.weight"],
        "last_norm.weight": w["last_layernorm.weight"],
        "last_norm.bias": w["last_layernorm.bias"],
    }
    for i in range(num_blocks):
        for kind in ("weight", "bias"):
            query, key, value = (w[f"attention_layers.{i}.{name}_w.{kind}"] for name in "QKV")
            ours[f"blocks.{i}.attention.query.{kind}"] = query
            ours[f"blocks.{i}.attention.key_value.{kind}"] = torch.cat([key, value])
            ours[f"blocks.{i}.attention_norm.{kind}"] = w[f"attention_layernorms.{i}.{kind}"]
            ours[f"blocks.{i}.feed_forward_norm.{kind}"] = w[f"forward_layernorms.{i}.{kind}"]
        for conv, linear in (("conv1", "widen"), ("conv2", "narrow")):
            ours[f"blocks.{i}.feed_forward.{linear}.weight"] = w[f"forward_layers.{i}.{conv}.weight"][:, :, 0]
            ours[f"blocks.{i}.feed_forward.{linear}.bias"] = w[f"forward_layers.{i}.{conv}.bias"]
    return ours


def times_of(time_BL: Tensor, unit: int = 1) -> Times:
    return Times(time_BL, time_BL, time_BL[:, 0], torch.full((len(time_BL),), unit))


def golden_times(golden: dict[str, Any]) -> Times:
    """With unit and origin 1, a scaled time is the time itself."""
    scaled_BL, one_B = torch.from_numpy(golden["scaled_time"]), torch.ones(4, dtype=torch.int64)
    return Times(scaled_BL, scaled_BL, one_B, one_B)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_equals_the_reference_implementation(dtype: torch.dtype, tolerance: float) -> None:
    golden = dict(np.load(GOLDEN))
    config = TiSASRecConfig(
        hidden_dim=16,
        num_heads=int(golden["num_heads"]),
        max_len=12,
        norm="original",
        time_span=int(golden["time_span"]),
    )
    model = TiSASRec(config, num_items=40).to(dtype).eval()
    model.load_state_dict({k: v.to(dtype) for k, v in reference_weights(golden, 2).items()})
    history = History(torch.from_numpy(golden["item_id"]), torch.full((4,), 12), golden_times(golden))
    hidden = model.encode(history)
    torch.testing.assert_close(hidden, torch.from_numpy(golden["hidden"]).to(dtype), rtol=0, atol=tolerance)


def test_intervals_equal_the_references() -> None:
    golden = dict(np.load(GOLDEN))
    ours = personal_intervals(golden_times(golden), int(golden["time_span"]))
    assert np.array_equal(ours.numpy(), golden["interval"])


def test_intervals_by_hand() -> None:
    """Unit 10: gaps of 0, 10, 15 and 1000; 25 is two units and a half, which counts as three."""
    times = times_of(torch.tensor([[7, 7, 17, 32, 1032]]), unit=10)
    assert scaled_times(times).tolist() == [[1, 1, 2, 4, 104]]
    assert personal_intervals(times, 50)[0].tolist() == [
        [0, 0, 1, 3, 50],
        [0, 0, 1, 3, 50],
        [1, 1, 0, 2, 50],
        [3, 3, 2, 0, 50],
        [50, 50, 50, 50, 0],
    ]


@pytest.mark.parametrize("unit", [1, 7, 1000, 86_400_000])
def test_scaled_millisecond_stamps_are_exact(unit: int) -> None:
    """In float32, stamps of today are 131 seconds apart, and quotients above 2^24 lose single units."""
    gaps = torch.randint(0, 2 * 10**9, (20, 12), generator=torch.Generator().manual_seed(0))
    time_BL = 1_600_000_000_123 + gaps.cumsum(1)
    exact = [
        [math.floor(Fraction(time - row[0], unit) + Fraction(1, 2)) + 1 for time in row]
        for row in time_BL.tolist()
    ]
    assert scaled_times(times_of(time_BL, unit)).tolist() == exact


def random_inputs(
    heads: int, users: int = 3, length: int = 7, width: int = 4, buckets: int = 5, seed: int = 0
) -> tuple[Inputs, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    rows = [draw(heads, users, length, width) for _ in range(3)]
    tables = [draw(heads, buckets, width) for _ in range(2)]
    interval = torch.randint(0, buckets, (users, length, length), generator=generator).to(torch.int16)
    return (rows[0], rows[1], rows[2], tables[0], tables[1]), interval


def naive_attention(inputs: Inputs, interval_BLL: Tensor) -> Tensor:
    """The paper's formulas, with a vector for every pair."""
    query_HBLK, key_HBLK, value_HBLK, interval_key_HRK, interval_value_HRK = inputs
    index_BLL = interval_BLL.long()
    key_HBLLK = key_HBLK[:, :, None] + interval_key_HRK[:, index_BLL]
    value_HBLLK = value_HBLK[:, :, None] + interval_value_HRK[:, index_BLL]
    score_HBLL = torch.einsum("hbik,hbijk->hbij", query_HBLK, key_HBLLK) / query_HBLK.shape[-1] ** 0.5
    future_LL = torch.ones(score_HBLL.shape[-2:], dtype=torch.bool).triu(1)
    weight_HBLL = score_HBLL.masked_fill(future_LL, -torch.inf).softmax(-1)
    return torch.einsum("hbij,hbijk->hbik", weight_HBLL, value_HBLLK)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("tile", [Tile(64, 2**18), Tile(3, 1), Tile(2, 60)])
@pytest.mark.parametrize("kept_weights", [0, 2**24])
def test_equals_the_naive_formulas(
    kept_weights: int, heads: int, tile: Tile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs and all gradients, whatever the tiles; the last two places of a user are not looked at."""
    monkeypatch.setattr(seqsweep.models.tisasrec, "KEPT_WEIGHTS", kept_weights)
    inputs, interval = random_inputs(heads)
    weight = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight[:, 1, 5:] = 0
    ours, naive = interval_attention(*inputs, interval, tile=tile), naive_attention(inputs, interval)
    torch.testing.assert_close(ours, naive, rtol=0, atol=1e-13)
    for gradient, expected in zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((naive * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradients(dropout: float) -> None:
    inputs, interval = random_inputs(heads=2, users=3, length=4, width=2, buckets=3)

    def attend(query: Tensor, key: Tensor, value: Tensor, by_key: Tensor, by_value: Tensor) -> Tensor:
        torch.manual_seed(1)  # the same mask at every call
        return interval_attention(query, key, value, by_key, by_value, interval, dropout, Tile(2, 10))

    assert torch.autograd.gradcheck(attend, inputs)


def test_dropout_keeps_the_mean() -> None:
    """One key and value of ones: 4000 means over 20 kept-or-not weights of 1 / 20, each 1 on average."""
    one = torch.ones(1, 4000, 20, 1)
    table = torch.zeros(1, 1, 1)
    interval = torch.zeros(4000, 20, 20, dtype=torch.int16)
    torch.manual_seed(0)
    last = interval_attention(one, one, one, table, table, interval, dropout=0.3)[0, :, -1, 0]
    assert last.mean().item() == pytest.approx(1, abs=4 * (0.3 / 0.7 / 20 / 4000) ** 0.5)
    assert last.std().item() == pytest.approx((0.3 / 0.7 / 20) ** 0.5, rel=0.05)


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Elements of the largest storage that any operation gave."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.size = max(self.size, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


def random_history(lengths: list[int], num_items: int = 20, seed: int = 0) -> History:
    generator = torch.Generator().manual_seed(seed)
    length_B, shape = torch.tensor(lengths), (len(lengths), max(lengths))
    item_id_BL = torch.randint(1, num_items + 1, shape, generator=generator)
    time_BL = 1_600_000_000 + torch.randint(0, 900, shape, generator=generator).cumsum(1)
    place_L = torch.arange(shape[1])
    padded_BL = place_L >= length_B[:, None]
    time_BL = time_BL.gather(1, torch.minimum(place_L, length_B[:, None] - 1))
    return History(item_id_BL.masked_fill(padded_BL, 0), length_B, times_of(time_BL, unit=60))


def small(**settings: Any) -> TiSASRec:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"hidden_dim": 8, "max_len": 6, "time_span": 16}
    return TiSASRec(TiSASRecConfig(**(defaults | settings)), 20).double().eval()


@pytest.mark.parametrize("num_heads", [1, 2])
def test_no_tensor_holds_a_vector_for_every_pair(num_heads: int) -> None:
    """16 x 40 x 40 x 32 = 819,200 elements would be one; the largest are 16 x 40 x 40 x 2 heads."""
    model = small(hidden_dim=32, num_heads=num_heads, max_len=40, time_span=30, dropout=0.2).train()
    history = random_history([40] * 16)
    with LargestTensor() as largest:
        model.encode(history).sum().backward()  # type: ignore[no-untyped-call]
    assert 16 * 40 * 40 <= largest.size <= 2 * 16 * 40 * 40


@pytest.mark.parametrize("kept_weights", [0, 2**24])
def test_memory_kept_for_the_backward_pass(kept_weights: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block's attention keeps q, k, v, its result, and a byte for each weight; all share the intervals. The
    weights themselves only while they are few."""
    monkeypatch.setattr(seqsweep.models.tisasrec, "KEPT_WEIGHTS", kept_weights)
    users, length, width, buckets = 4, 50, 16, 31
    (query, key, value, *tables), _ = random_inputs(1, users, length, width, buckets)
    interval = torch.zeros(users, length, length, dtype=torch.int16)
    kept: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        kept[x.data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        interval_attention(query, key, value, tables[0], tables[1], interval, dropout=0.2)
    pairs, rows = users * length**2, users * length * width
    bytes_of_weights = 8 * pairs if kept_weights else 0
    assert sum(kept.values()) <= 2 * pairs + pairs + bytes_of_weights + 8 * (4 * rows + 2 * buckets * width)


@pytest.mark.parametrize("norm", ["original", "pre", "post"])
@pytest.mark.parametrize("num_heads", [1, 2])
def test_later_items_and_times_do_not_change_earlier_states(norm: Any, num_heads: int) -> None:
    model, history = small(norm=norm, num_heads=num_heads), random_history([6, 6, 6])
    assert history.times is not None
    before = model.encode(history)
    for place in (2, 5):
        item_id_BL, time_BL = history.item_id_BL.clone(), history.times.time_BL.clone()
        item_id_BL[:, place] = item_id_BL[:, place] % 19 + 1
        other_item = model.encode(History(item_id_BL, history.length_B, history.times))
        time_BL[:, place:] += 600  # ten units
        times = Times(time_BL, time_BL, history.times.origin_B, history.times.unit_B)
        other_time = model.encode(History(history.item_id_BL, history.length_B, times))
        for after in (other_item, other_time):
            assert torch.equal(after[:, :place], before[:, :place])
            assert not torch.allclose(after[:, place:], before[:, place:])


@pytest.mark.parametrize("norm", ["original", "pre", "post"])
def test_a_history_alone_and_beside_a_longer_one(norm: Any) -> None:
    model = small(norm=norm)
    together = random_history([2, 6, 1])
    states = model.encode(together)
    assert torch.isfinite(states).all()
    assert together.times is not None
    for row, length in enumerate(together.length_B.tolist()):
        time_BL = together.times.time_BL[row : row + 1, :length]
        alone = History(
            together.item_id_BL[row : row + 1, :length], torch.tensor([length]), times_of(time_BL, unit=60)
        )
        torch.testing.assert_close(model.encode(alone)[0], states[row, :length], rtol=0, atol=1e-12)


def test_padding_gets_and_gives_no_gradient() -> None:
    model = small(dropout=0.0).train()
    history = random_history([3, 6])
    state_BLD = model.encode(history)
    (state_BLD[0, 2].sum() + state_BLD[1, 5].sin().sum()).backward()  # type: ignore[no-untyped-call]
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients.values())
    item_gradient = gradients["item_embedding.weight"]
    assert item_gradient is not None and not item_gradient[0].any()


def test_equal_times_have_interval_zero_throughout() -> None:
    """Then one row of each interval table is all there is, and where in time the history lies is all one."""
    model = small()
    history = random_history([5, 3])
    at_once = [
        History(history.item_id_BL, history.length_B, times_of(torch.full((2, 5), time), unit=1))
        for time in (0, 1_600_000_000_000)
    ]
    states = [model.encode(history) for history in at_once]
    assert torch.isfinite(states[0]).all() and torch.equal(*states)
    with torch.no_grad():
        model.interval_key.weight[1:] = torch.nan  # never looked at, and a product of its own column
        model.interval_value.weight[1:] += 7
    assert torch.equal(model.encode(at_once[0]), states[0])


def test_one_item_attends_to_itself() -> None:
    """Weight one: its value, position and interval 0, added. One block whose feed-forward gives nothing."""
    model = small(num_blocks=1)
    history = random_history([1])
    block: Any = model.blocks[0]
    with torch.no_grad():
        block.feed_forward.narrow.weight.zero_()
    x_BD = model.item_embedding(history.item_id_BL[:, 0]) * 8**0.5
    value_BD = block.attention.key_value(block.attention_norm(x_BD))[:, 8:]
    out_BD = value_BD + model.position_value.weight[5] + model.interval_value.weight[0]
    torch.testing.assert_close(model.encode(history)[:, 0], model.last_norm(x_BD + out_BD))


def test_dropout_acts_in_training_alone() -> None:
    model, history = small(dropout=0.5), random_history([6, 4])
    assert torch.equal(model.encode(history), model.encode(history))
    model.train()
    torch.manual_seed(0)
    first, second = model.encode(history), model.encode(history)
    assert not torch.allclose(first, second)
    torch.manual_seed(0)
    assert torch.equal(model.encode(history), first)


def test_bfloat16_autocast_is_near_float32() -> None:
    model, history = small(num_heads=2).float(), random_history([6, 4])
    exact = model.encode(history)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.encode(history)
        rough.sum().backward()  # type: ignore[no-untyped-call]
    assert (rough.float() - exact).abs().max() < 0.1
    gradient = model.interval_key.weight.grad
    assert gradient is not None and gradient.dtype == torch.float32 and torch.isfinite(gradient).all()


def test_needs_times_and_a_history_that_fits() -> None:
    model, history = small(), random_history([6])
    with pytest.raises(ValueError, match=r"needs History\.times, got None"):
        model.encode(History(history.item_id_BL, history.length_B))
    with pytest.raises(IndexError):
        model.encode(random_history([7]))


def test_size_at_the_papers_setting() -> None:
    config = TiSASRecConfig(hidden_dim=50, num_blocks=2, num_heads=1, max_len=200, time_span=256)
    num_parameters = sum(p.numel() for p in TiSASRec(config, 3416).parameters())
    # items 3417*50, tables 2*(200+257)*50, two blocks of 3+2 matrices with biases and two norms, a last norm
    assert num_parameters == 3417 * 50 + 2 * 457 * 50 + 2 * (5 * (50 * 50 + 50) + 2 * 100) + 100
