from typing import Any

import pytest
import torch
from torch import Tensor

from seqsweep.data_pipeline.history import History
from seqsweep.models.blocks import GatedResidual
from seqsweep.models.hyper_connections import HyperConnection
from seqsweep.models.interface import BlocksConfig
from seqsweep.models.layers import FeedForward
from seqsweep.models.losses import ce
from seqsweep.models.sasrec import SASRec, SASRecConfig

NUM_ITEMS = 30


def sasrec(**settings: Any) -> SASRec:
    """With sub-layers that weigh something at once: of width 16 normal matrices of .02 change little."""
    torch.manual_seed(0)
    start = {"init": "xavier", "item_std": 0.03, "position_std": 0.15}
    settings = {"hidden_dim": 16, "max_len": 12, "dropout": 0.0, **start} | settings
    return SASRec(SASRecConfig(**settings), NUM_ITEMS).double()


def items(width: int = 13) -> Tensor:
    return torch.randint(1, NUM_ITEMS + 1, (8, width), generator=torch.Generator().manual_seed(0))


def states(model: SASRec, item_id_BL: Tensor) -> Tensor:
    return model.encode(History(item_id_BL, torch.full((len(item_id_BL),), item_id_BL.shape[1])))


def next_item_loss(model: SASRec, item_id_BL: Tensor) -> Tensor:
    state_TD = states(model, item_id_BL[:, :-1]).flatten(0, 1)
    return ce(state_TD, model.item_embedding.weight[1:], item_id_BL[:, 1:].flatten() - 1)


def largest_change(model: SASRec, before: Tensor) -> float:
    return float((states(model, items(width=12)) - before).detach().abs().max())


def train_step(model: SASRec, item_id_BL: Tensor) -> None:
    next_item_loss(model, item_id_BL).backward()  # type: ignore[no-untyped-call]
    torch.optim.Adam(model.parameters(), lr=1e-3).step()
    model.zero_grad()


def connections(model: SASRec) -> list[HyperConnection]:
    return [module for module in model.modules() if isinstance(module, HyperConnection)]


def parts(connection: HyperConnection) -> tuple[Tensor, ...]:
    """Views of b_pre, b_post and b_res."""
    return torch.split(connection.bias.detach(), connection.sizes)


# What a config may say


def test_mhc_needs_the_norm_before() -> None:
    with pytest.raises(ValueError, match="residual=mhc needs norm=pre, got norm=post; set norm=pre or"):
        BlocksConfig(residual="mhc", norm="post")
    with pytest.raises(ValueError, match="residual=gated needs norm=pre, got norm=original"):
        BlocksConfig(residual="gated", norm="original")


def test_mhc_needs_two_blocks() -> None:
    with pytest.raises(ValueError, match=r"num_blocks >= 2 .*got num_blocks=1 and num_streams=4; set num_b"):
        BlocksConfig(residual="mhc", num_blocks=1)
    BlocksConfig(residual="mhc", num_blocks=1, num_streams=1)  # the plain model


def test_plain_blocks_keep_their_names() -> None:
    names = {name.removeprefix("blocks.0.") for name, _ in sasrec().named_parameters() if ".0." in name}
    linears = ("attention.query", "attention.key_value", "attention.output")
    others = ("attention_norm", "feed_forward_norm", "feed_forward.widen", "feed_forward.narrow")
    assert names == {f"{module}.{kind}" for module in (*linears, *others) for kind in ("weight", "bias")}


# Equal to the plain model where they must be


def test_one_stream_is_the_plain_model() -> None:
    plain, single = sasrec(), sasrec(residual="mhc", num_streams=1)
    assert [(n, p.shape) for n, p in plain.named_parameters()] == [
        (n, p.shape) for n, p in single.named_parameters()
    ]
    assert torch.equal(states(plain, items(width=12)), states(single, items(width=12)))


@pytest.mark.parametrize("mixing", ["sinkhorn", "identity"])
def test_streams_that_all_get_the_same_are_the_plain_model(mixing: str) -> None:
    """α = 0 and H_post = 1: streams stay copies, whatever H_res is, and a norm takes away every factor."""
    plain, wide = sasrec(), sasrec(residual="mhc", mhc_mixing=mixing)
    assert not wide.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    for connection in connections(wide):
        assert connection.alpha is not None
        torch.nn.init.zeros_(connection.alpha)
        _, post, *res = parts(connection)
        post.zero_()  # 2 σ(0) = 1
        for h_res in res:
            h_res.normal_(std=2.0)
    torch.testing.assert_close(
        states(wide, items(width=12)), states(plain, items(width=12)), rtol=0, atol=1e-5
    )


# What makes the connections more than a decoration


def test_initialise_leaves_connections_alone() -> None:
    for index, connection in enumerate(connections(sasrec(residual="mhc", hidden_dim=64))):
        assert connection.index == index
        assert connection.phi is not None
        assert float(connection.phi.detach().std()) == pytest.approx(0.02, rel=0.05)
        assert parts(connection)[0].argmax() == index


@pytest.mark.parametrize("index", [1, 2])
def test_inner_connections_matter(index: int) -> None:
    """Another H_res changes the output by more than 1e-2, and so do another H_pre and H_post."""
    model = sasrec(residual="mhc")
    before = states(model, items(width=12))
    pre, post, res = parts(connections(model)[index])
    turned = res.view(4, 4).roll(2, 0).flatten()  # every stream goes to the one after the next
    for b, value in ((pre, torch.zeros(4)), (post, torch.zeros(4)), (res, turned)):
        kept = b.clone()
        b.copy_(value)
        assert largest_change(model, before) > 1e-2
        b.copy_(kept)


@pytest.mark.parametrize("index", [1, 2])
def test_inner_connections_learn(index: int) -> None:
    """After a training step no part of any parameter has a gradient near nothing (rounding gives 1e-12).

    They grow with the item embeddings, which begin at .03: the smallest part measures 4.5e-6.
    """
    model = sasrec(residual="mhc")
    train_step(model, items())
    next_item_loss(model, items()).backward()  # type: ignore[no-untyped-call]
    connection = connections(model)[index]
    for name, parameter in connection.named_parameters():
        assert parameter.grad is not None
        sizes = [1, 1, 1] if name == "alpha" else connection.sizes
        for gradient in torch.split(parameter.grad, sizes, dim=-1):
            assert float(gradient.norm()) > 1e-6, name


def test_what_is_inert_by_construction() -> None:
    """The first connection sees copies: rows that sum to one and the norm undo its H_res and H_pre. After
    the last one the streams are summed: columns that sum to one undo its H_res."""
    model = sasrec(residual="mhc")
    before = states(model, items(width=12))
    first, last = connections(model)[0], connections(model)[-1]
    for b in (parts(first)[0], parts(first)[2], parts(last)[2]):
        kept = b.clone()
        b.zero_()  # H_res: all 1/S, which is doubly stochastic in one iteration
        assert largest_change(model, before) < 1e-5
        b.copy_(kept)
    parts(last)[0].zero_()  # but its H_pre is not
    assert largest_change(model, before) > 1e-2


def test_streams_come_apart() -> None:
    model = sasrec(residual="mhc")
    train_step(model, items())
    streams: list[Tensor] = []
    model.blocks[-1].register_forward_hook(lambda module, args, output: streams.append(output))
    states(model, items(width=12))
    (x_BLSD,) = streams
    spread_BLD = x_BLSD.std(dim=2)
    assert x_BLSD.shape == (8, 12, 4, 16)
    assert float(spread_BLD.detach().mean()) > 0.05 * float(x_BLSD.detach().abs().mean())


@pytest.mark.parametrize(
    "change",
    [
        {"residual": "plain"},
        {"residual": "gated"},
        {"num_streams": 2},
        {"sinkhorn_iterations": 1},
        {"mhc_coefficients": "static"},
        {"mhc_mixing": "identity"},
        {"activation": "swiglu"},
    ],
    ids=lambda change: next(iter(change)) + "=" + str(next(iter(change.values()))),
)
def test_every_setting_changes_something(change: dict[str, Any]) -> None:
    settings = {"residual": "mhc"}
    weights = sasrec(**settings).state_dict()
    results = []
    for model in (sasrec(**settings), sasrec(**(settings | change))):
        own = model.state_dict()
        same = {name: weights[name] for name in own if own[name].shape == weights.get(name, Tensor()).shape}
        model.load_state_dict(same, strict=False)  # nothing differs but what the setting makes different
        train_step(model, items())
        results.append(states(model, items(width=12)))
    assert float((results[0] - results[1]).detach().abs().max()) > 1e-7


# What holds for every residual


@pytest.mark.parametrize("residual", ["plain", "gated", "mhc"])
def test_later_items_do_not_change_earlier_states(residual: str) -> None:
    model = sasrec(residual=residual).float()
    item_id_BL = items(width=12)
    changed_BL = item_id_BL.clone()
    changed_BL[:, 7] = changed_BL[:, 7] % NUM_ITEMS + 1
    before, after = states(model, item_id_BL), states(model, changed_BL)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7:], after[:, 7:])


@pytest.mark.parametrize("residual", ["gated", "mhc"])
def test_padding_changes_nothing(residual: str) -> None:
    model = sasrec(residual=residual)
    short = model.last_state(History(torch.tensor([[3, 7]]), torch.tensor([2])))[0]
    padded = model.last_state(History(torch.tensor([[3, 7, 0, 0], [1, 2, 4, 5]]), torch.tensor([2, 4])))[0]
    torch.testing.assert_close(short, padded, rtol=0, atol=1e-12)


@pytest.mark.parametrize("residual", ["gated", "mhc"])
def test_training_learns_a_sequence(residual: str) -> None:
    """Items of every user go round: the next is the last plus one."""
    model = sasrec(residual=residual).float()
    item_id_BL = (torch.arange(8)[:, None] * 4 + torch.arange(13)) % NUM_ITEMS + 1
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = next_item_loss(model, item_id_BL)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]


# The gated residual and the gated feed-forward


def test_gated_residual_by_hand() -> None:
    gated = GatedResidual(BlocksConfig(hidden_dim=2))
    with torch.no_grad():
        gated.gate.weight.copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        gated.gate.bias.copy_(torch.tensor([-3.0, 0.0]))
    x_BLD = torch.tensor([[[1.0, 3.0]]])
    # both gates are σ(0) = 1/2, and the sub-layer gives [2, 6]
    assert gated(x_BLD, lambda x: 2 * x).tolist() == [[[2.0, 6.0]]]


def test_swiglu_by_hand() -> None:
    feed_forward = FeedForward(1, 1, 0.0, "swiglu")
    with torch.no_grad():
        feed_forward.widen.weight.copy_(torch.tensor([[1.0], [10.0]]))  # gate, then value
        feed_forward.narrow.weight.fill_(2.0)
        for linear in (feed_forward.widen, feed_forward.narrow):
            torch.nn.init.zeros_(linear.bias)
    sigmoid_of_3 = 0.95257413
    assert feed_forward(torch.tensor([[3.0]])).item() == pytest.approx(3 * sigmoid_of_3 * 30 * 2)
