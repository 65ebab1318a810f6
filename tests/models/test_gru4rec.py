import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from seqsweep.data_pipeline.history import History
from seqsweep.models.gru4rec import GRU4Rec, GRU4RecConfig

SMALL = GRU4RecConfig(hidden_dim=6, gru_dim=10, num_layers=2, dropout=0.3, max_len=8)


def build(config: GRU4RecConfig = SMALL, num_items: int = 20) -> GRU4Rec:
    torch.manual_seed(0)
    return GRU4Rec(config, num_items).double().eval()


def loop_over_gates(layer: nn.GRU, x_BLD: Tensor) -> Tensor:
    """The equations of Cho et al. 2014 as torch places the reset gate: after the recurrent product."""
    width = layer.hidden_size
    gates = {name: p.chunk(3) for name, p in layer.named_parameters()}  # each: reset, update, new
    state_BG = x_BLD.new_zeros(len(x_BLD), width)
    states = []
    for x_BD in x_BLD.unbind(1):
        a = [x_BD @ w.T + b for w, b in zip(gates["weight_ih_l0"], gates["bias_ih_l0"], strict=True)]
        c = [state_BG @ w.T + b for w, b in zip(gates["weight_hh_l0"], gates["bias_hh_l0"], strict=True)]
        reset_BG, update_BG = torch.sigmoid(a[0] + c[0]), torch.sigmoid(a[1] + c[1])
        state_BG = (1 - update_BG) * torch.tanh(a[2] + reset_BG * c[2]) + update_BG * state_BG
        states.append(state_BG)
    return torch.stack(states, 1)


def test_equals_a_loop_over_the_equations() -> None:
    model = build()
    for layer in model.layers:
        for name, parameter in layer.named_parameters():
            if name.startswith("bias"):
                nn.init.normal_(parameter)
    item_id = torch.randint(1, 21, (3, 8))
    x_BLG = model.item_embedding.weight[item_id] * 6**0.5
    for layer in model.layers:
        assert isinstance(layer, nn.GRU)
        x_BLG = loop_over_gates(layer, x_BLG)
    expected = x_BLG @ model.output.weight.T + model.output.bias
    state_BLD = model.encode(History(item_id, torch.full((3,), 8)))
    torch.testing.assert_close(state_BLD, expected, rtol=0, atol=1e-12)


def test_later_items_do_not_change_earlier_states() -> None:
    model = build()
    item_id, length = torch.randint(1, 21, (2, 8)), torch.full((2,), 8)
    before = model.encode(History(item_id, length))
    item_id[:, 5] = item_id[:, 5] % 20 + 1
    after = model.encode(History(item_id, length))
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.isclose(before[:, 5:], after[:, 5:]).all(-1).any()


def test_padding_does_not_matter_and_is_finite() -> None:
    model = build()
    alone = model.last_state(History(torch.tensor([[3, 7]]), torch.tensor([2])))
    padded = History(torch.tensor([[3, 7, 0, 0], [1, 2, 4, 5]]), torch.tensor([2, 4]))
    torch.testing.assert_close(model.last_state(padded)[:1], alone, rtol=0, atol=1e-12)
    assert model.encode(padded).isfinite().all()


def test_gates_are_initialised_one_by_one() -> None:
    model = GRU4Rec(GRU4RecConfig(hidden_dim=64, gru_dim=256), 20)
    layer = dict(model.layers[0].named_parameters())
    for gate in layer["weight_ih_l0"].chunk(3):  # the packed matrix as one would give (2 / (64 + 768)) ** .5
        assert gate.std().item() == pytest.approx((2 / (64 + 256)) ** 0.5, rel=0.03)
    for gate in layer["weight_hh_l0"].chunk(3):
        torch.testing.assert_close(gate @ gate.T, torch.eye(256), rtol=0, atol=1e-5)
    assert not any(layer[name].any() for name in ("bias_ih_l0", "bias_hh_l0"))


def test_size() -> None:
    model = GRU4Rec(GRU4RecConfig(hidden_dim=64, gru_dim=128), 3416)
    table, gru, output = 3417 * 64, 3 * 128 * (64 + 128 + 2), 64 * (128 + 1)
    assert sum(p.numel() for p in model.parameters()) == table + gru + output


@pytest.mark.parametrize("num_layers", [1, 2])
def test_dropout_follows_the_seed(num_layers: int) -> None:
    model = build(SMALL.model_copy(update={"num_layers": num_layers})).train()
    history = History(torch.tensor([[3, 7, 5]]), torch.tensor([3]))
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(model.encode(history))
    assert torch.equal(runs[0], runs[1]) and not torch.isclose(runs[0], runs[2]).all()


def test_a_catalogue_and_a_history_of_one() -> None:
    model = build(num_items=1)
    history = History(torch.tensor([[1]]), torch.tensor([1]))
    assert model.score(model.last_state(history)).shape == (1, 1)
    model.encode(history).sum().backward()  # type: ignore[no-untyped-call]
    assert not model.item_embedding.weight.grad[0].any()  # type: ignore[index]


def test_the_recurrence_keeps_float32_under_autocast() -> None:
    model = build().float()
    history = History(torch.randint(1, 21, (2, 8)), torch.full((2,), 8))
    with torch.autocast("cpu", torch.bfloat16):
        state_BD = model.last_state(history)
    assert state_BD.isfinite().all()
    torch.testing.assert_close(state_BD.float(), model.last_state(history), rtol=0.02, atol=0.02)


def test_dropout_must_be_below_one() -> None:
    with pytest.raises(ValidationError, match="less than 1"):
        GRU4RecConfig(dropout=1.0)
