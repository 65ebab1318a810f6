import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqsweep.search_spaces import KNOWN_GOOD, SEARCH_SPACES, Hparam
from seqsweep.search_spaces.compose import compose
from seqsweep.search_spaces.errors import SpaceError
from seqsweep.search_spaces.points import point_for, points_to_enqueue
from seqsweep.sweep.study.sampling import check_point

NAMES = list(SEARCH_SPACES)
Pins = dict[str, dict[str, Hparam]]
NONE: Pins = {name: {} for name in NAMES}


def drawn(names: list[str], fix: Pins, seed: int) -> dict[str, Hparam]:
    space = compose({name: SEARCH_SPACES[name] for name in names}, fix)
    return dict(space(optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()))


def tried(names: list[str], fix: Pins, point: dict[str, Hparam]) -> dict[str, Hparam]:
    study = optuna.create_study()
    study.enqueue_trial(point)
    return dict(compose({name: SEARCH_SPACES[name] for name in names}, fix)(study.ask()))


@settings(deadline=None)
@given(st.sampled_from([NAMES, ["sasrec", "hstu"], *([name] for name in NAMES)]), st.integers(0, 2**32 - 1))
def test_hparams_that_were_drawn_come_out_again(names: list[str], seed: int) -> None:
    hparams = drawn(names, NONE, seed)
    point = point_for(hparams, names, NONE, strict=True)
    assert tried(names, NONE, point) == hparams
    check_point(compose({name: SEARCH_SPACES[name] for name in names}, NONE), point)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["lr", "hidden_dim", "loss", "residual", "norm"]))
def test_what_is_pinned_to_the_same_is_left_out(seed: int, key: str) -> None:
    hparams = drawn(["sasrec"], NONE, seed)
    fix: Pins = {"sasrec": {key: hparams.get(key, "pre")}}
    if hparams["residual"] != "plain" and key == "norm":
        fix = NONE
    point = point_for(hparams, ["sasrec"], fix, strict=True)
    assert key not in point or fix is NONE
    assert tried(["sasrec"], fix, point) == hparams


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["ce", "gbce", "sampled_softmax"]))
def test_hparams_of_another_study_keep_what_fits(seed: int, loss: str) -> None:
    hparams = drawn(["sasrec"], NONE, seed)
    fix: Pins = {"sasrec": {"loss": loss, "max_len": 77}}
    point = point_for({**hparams, "beta2": 0.9, "num_items": 5}, ["sasrec"], fix, strict=False)
    assert point.keys() <= hparams.keys() - {"loss", "max_len", "model", "negatives"}
    kept = ("lr", "dropout", "hidden_dim", "residual", "num_blocks")
    assert {key: point[key] for key in kept} == {key: hparams[key] for key in kept}
    came_out = tried(["sasrec"], fix, point)
    assert {key: came_out[key] for key in point} == point
    check_point(compose({"sasrec": SEARCH_SPACES["sasrec"]}, fix), point)


def test_known_good_points_are_themselves() -> None:
    for name in NAMES:
        for point in KNOWN_GOOD[name]:
            assert point_for(point, [name], NONE, strict=True) == point
    points = points_to_enqueue(KNOWN_GOOD, NONE, num_users=10**5, num_items=100, num_interactions=10**6)
    for point in points:
        name = str(point["model"])
        hparams = {key.removeprefix(f"{name}."): value for key, value in point.items()}
        assert point_for(hparams, NAMES, NONE, strict=True) == point


def test_types_are_those_of_the_space() -> None:
    point = point_for({"num_blocks": 2.0, "dropout": 0, "residual": "gated"}, ["sasrec"], NONE, strict=True)
    assert point == {"num_blocks": 2, "dropout": 0, "residual": "gated"}
    assert type(point["num_blocks"]) is int


@pytest.mark.parametrize(
    ("names", "hparams", "message"),
    [
        (
            NAMES,
            {"lr": 1e-3},
            "several models are searched: say for which the hparams are, model=sasrec or model=",
        ),
        (["sasrec"], {"model": "hstu"}, "model=hstu is not searched here, only sasrec"),
        (["sasrec"], {"lrr": 1e-3}, "lrr is not asked for; did you mean lr?"),
        (["sasrec"], {"lr": 1.0}, "lr must be within 0.0003 to 0.004, log, got 1.0"),
        (["sasrec"], {"lr": "fast"}, "lr must be within 0.0003 to 0.004, log, got fast"),
        (["sasrec"], {"loss": "bpr"}, "loss must be within ce, sampled_softmax, gbce, got bpr"),
        (["sasrec"], {"num_heads": True}, "num_heads must be within 1 to 4, log, got True"),
        (["sasrec"], {"hidden_dim": 60}, "hidden_dim=60 would come out as 64"),
        (["sasrec"], {"residual": "mhc", "num_blocks": 1}, "num_blocks=1 would come out as 2"),
        (["sasrec"], {"norm": "pre"}, "norm is asked for only where residual = plain: name that as well"),
        (["sasrec"], {"norm": "pre", "residual": "mhc"}, "norm is asked for only where residual = plain"),
        (["sasrec"], {"negatives": "user"}, "negatives is not searched, it is batch here, got user"),
        (
            ["bert4rec"],
            {"lr": 3.0, "gru_dim": 3},
            "lr must be within 0.0003 to 0.004, log, got 3.0; gru_dim is",
        ),
    ],
)
def test_what_does_not_fit_is_said(names: list[str], hparams: dict[str, Hparam], message: str) -> None:
    with pytest.raises(SpaceError) as error:
        point_for(hparams, names, NONE, strict=True)
    assert message in str(error.value)


def test_another_pin_is_an_error_only_where_it_is_strict() -> None:
    fix: Pins = {"sasrec": {"lr": 0.01}}
    with pytest.raises(SpaceError, match=r"lr is not searched, it is 0\.01 here, got 0\.001"):
        point_for({"lr": 0.001}, ["sasrec"], fix, strict=True)
    assert point_for({"lr": 0.001, "dropout": 0.1}, ["sasrec"], fix, strict=False) == {"dropout": 0.1}


def test_hparams_outside_of_what_is_narrowed_do_not_fit() -> None:
    narrow = {"sasrec": {"dropout": "0.1:0.2", "loss": "ce"}}
    point = point_for({"dropout": 0.5, "lr": 1e-3, "loss": "gbce"}, ["sasrec"], NONE, narrow, strict=False)
    assert point == {"lr": 1e-3}
    with pytest.raises(
        SpaceError, match=r"dropout must be within 0\.1 to 0\.2, got 0\.5; loss must be within ce"
    ):
        point_for({"dropout": 0.5, "loss": "gbce"}, ["sasrec"], NONE, narrow, strict=True)


def test_counts_are_rounded_where_it_is_not_strict() -> None:
    point = point_for({"hidden_dim": 60, "model": "hstu"}, NAMES, NONE, strict=False)
    assert point == {"model": "hstu", "hstu.hidden_dim": 60}
