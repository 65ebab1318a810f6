import math

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from seqsweep.search_spaces import KNOWN_GOOD, SEARCH_SPACES, Hparam
from seqsweep.search_spaces.branches import walk
from seqsweep.search_spaces.compose import compose, compose_user, draws
from seqsweep.search_spaces.errors import SpaceError
from seqsweep.search_spaces.narrow import Choices, Range, narrow_distribution, parse_narrowing
from seqsweep.search_spaces.points import points_to_enqueue

NAMES = list(SEARCH_SPACES)
NONE: dict[str, dict[str, Hparam]] = {name: {} for name in NAMES}


def narrowed(*families: str, **narrow: str) -> list[dict[str, Hparam]]:
    """Draws of the families with these bounds wherever the family has such a parameter."""
    spaces = {name: SEARCH_SPACES[name] for name in families}
    return draws(compose(spaces, NONE, dict.fromkeys(families, narrow)), 150)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1:0.6", Range(0.1, 0.6)),
        ("1e-4:1e-2", Range(1e-4, 1e-2)),
        ("2:2", Range(2, 2)),
        ("100:inf", Range(100, math.inf)),
        ("ce, gbce", Choices(("ce", "gbce"))),
        ("ce", Choices(("ce",))),
    ],
)
def test_narrowings_are_read(text: str, expected: Range | Choices) -> None:
    assert parse_narrowing(text) == expected
    assert parse_narrowing(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.6:0.1", "low <= high must hold in LOW:HIGH, got '0.6:0.1'"),
        ("nan:1", "low <= high"),
        ("a:b", "must be two numbers LOW:HIGH such as 0.1:0.6, got 'a:b'"),
        ("1:2:3", "must be two numbers"),
        ("1:", "must be two numbers"),
        ("", "must be a range such as 0.1:0.6, or choices such as ce,gbce, got ''"),
        ("ce,,bce", "must be a range such as"),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_narrowing(text)
    assert message in str(error.value)


@given(
    st.integers(1, 50),
    st.integers(0, 50),
    st.integers(1, 7),
    st.floats(-10, 120),
    st.floats(0, 60),
    st.booleans(),
)
def test_what_is_left_of_a_count_is_what_lies_in_both(
    low: int, extent: int, step: int, at: float, width: float, log: bool
) -> None:
    step = 1 if log else step
    whole = IntDistribution(low, low + extent * step, log=log, step=step)
    both = [n for n in range(whole.low, whole.high + 1, whole.step) if at <= n <= at + width]
    try:
        left = narrow_distribution(whole, Range(at, at + width))
    except ValueError as error:
        assert not both
        assert f"it is drawn from {whole.low}" in str(error)
    else:
        assert isinstance(left, IntDistribution)
        assert list(range(left.low, left.high + 1, left.step)) == both
        assert (left.log, left.step) == (whole.log, whole.step)


def test_scale_grid_and_order_are_kept() -> None:
    lr = narrow_distribution(FloatDistribution(1e-4, 1e-1, log=True), Range(1e-5, 1e-2))
    assert lr == FloatDistribution(1e-4, 1e-2, log=True)
    tenths = narrow_distribution(FloatDistribution(0, 1, step=0.1), Range(0.25, 0.6))
    assert tenths == FloatDistribution(0.3, 0.6, step=0.1)
    choices = CategoricalDistribution(["a", "b", "c", True, 4])
    assert narrow_distribution(choices, Choices(("c", "4", "a", "true"))) == CategoricalDistribution(
        ["a", "c", True, 4]
    )


@st.composite
def narrowings(draw: st.DrawFn) -> tuple[str, str, Range | Choices]:
    """Of one parameter of one family, with something of it left."""
    family = draw(st.sampled_from(NAMES))
    distributions = {k: d for asked in walk(SEARCH_SPACES[family]) for k, d in asked.distributions.items()}
    name = draw(st.sampled_from(sorted(distributions)))
    distribution = distributions[name]
    if isinstance(distribution, CategoricalDistribution):
        chosen = draw(st.lists(st.sampled_from(distribution.choices), min_size=1, unique=True))
        return family, name, Choices(tuple(map(str, chosen)))
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    numbers = st.floats(0.5 * distribution.low, 1.5 * distribution.high).map(lambda x: float(f"{x:g}"))
    low, high = sorted((draw(numbers), draw(numbers)))
    return family, name, Range(low, high)


@settings(deadline=None)  # a space is walked through
@given(narrowings())
def test_what_comes_out_lies_within_what_was_asked_or_it_is_refused(
    narrowing: tuple[str, str, Range | Choices],
) -> None:
    family, name, bound = narrowing
    spaces = {family: SEARCH_SPACES[family]}
    try:
        space = compose(spaces, NONE, {family: {name: str(bound)}})
    except SpaceError as error:
        assert f"can't narrow {name}" in str(error) or f"{name} can't be within" in str(error)
        return
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(25):
        trial = study.ask()
        hparams = space(trial)
        assert all(
            value in bound for value in (hparams.get(name), trial.params.get(name)) if value is not None
        )


def test_counts_that_are_rounded_stay_within() -> None:
    assert {h["max_len"] for h in narrowed("sasrec", max_len="100:200")} == {100, 200}
    assert {h["max_len"] for h in narrowed("sasrec", max_len="60:120")} == {100}
    assert {h["hidden_dim"] for h in narrowed("sasrec", hidden_dim="64:64")} == {64}
    assert {h["hidden_dim"] for h in narrowed("gru4rec", hidden_dim="60:70")} == {64}
    assert {h["batch_size"] for h in narrowed("hstu", batch_size="33:200")} == {64, 128}


def test_several_are_narrowed_in_several_families() -> None:
    hparams = narrowed(*NAMES, dropout="0.1:0.2", loss="ce,sampled_softmax", norm="pre", time_span="512:9999")
    assert {h["model"] for h in hparams} == set(NAMES)
    assert {h["loss"] for h in hparams} == {"ce", "sampled_softmax"}
    assert all(0.1 <= float(h["dropout"]) <= 0.2 for h in hparams)
    assert {h.get("norm") for h in hparams} == {None, "pre"}
    assert {h.get("time_span") for h in hparams} == {None, 512}


@pytest.mark.parametrize(
    ("narrow", "message"),
    [
        (
            {"dropout": "0.7:0.9"},
            "can't narrow dropout: it is drawn from 0 to 0.6, of which nothing lies within",
        ),
        (
            {"lr": "0.1:1"},
            "lr: it is drawn from 0.0003 to 0.004, log, of which nothing lies within 0.1:1",
        ),
        ({"lr": "ce"}, "can't narrow lr: it is drawn from 0.0003 to 0.004, log: give LOW:HIGH, got ce"),
        ({"loss": "1:2"}, "can't narrow loss: it is one of ce, sampled_softmax, gbce: give choices"),
        ({"loss": "ce,bpr"}, "choices must be among ce, sampled_softmax, gbce, got bpr"),
        ({"lr": "1:"}, "can't narrow lr: must be two numbers LOW:HIGH"),
        ({"droput": "0:1"}, "droput can't be narrowed, the space does not draw it; did you mean dropout?"),
        ({"beta2": "0:1"}, "beta2 can't be narrowed, the space does not draw it"),
        (
            {"batch_size": "100:100"},
            "batch_size can't be within 100:100: the space rounds it to a value outside",
        ),
        (
            {"num_blocks": "1:1"},
            "num_blocks can't be within 1:1 where residual = mhc: the space rounds it to a value outside. "
            "Widen the range, or narrow what it depends on",
        ),
    ],
)
def test_what_cannot_be_is_said_at_once(narrow: dict[str, str], message: str) -> None:
    with pytest.raises(SpaceError) as error:
        compose({"sasrec": SEARCH_SPACES["sasrec"]}, NONE, {"sasrec": narrow})
    assert message in str(error.value)


def test_one_block_is_possible_without_hyper_connections() -> None:
    hparams = narrowed("sasrec", num_blocks="1:1", residual="plain,gated")
    assert {h["num_blocks"] for h in hparams} == {1}


def test_a_pinned_parameter_is_not_narrowed() -> None:
    with pytest.raises(SpaceError, match=r"lr is pinned to 0\.01: it can't be narrowed to 0\.001:0\.1 too"):
        compose(
            {"sasrec": SEARCH_SPACES["sasrec"]}, {"sasrec": {"lr": 0.01}}, {"sasrec": {"lr": "0.001:0.1"}}
        )


def test_a_name_that_one_family_draws_will_do() -> None:
    families = {name: SEARCH_SPACES[name] for name in ("sasrec", "bert4rec")}
    compose(families, NONE, {name: {"mask_probability": "0.1:0.2"} for name in families})


def test_a_users_space_is_narrowed_with_its_steps() -> None:
    def space(trial: optuna.Trial) -> dict[str, Hparam]:
        width = trial.suggest_int("width", 10, 100, step=15)
        return {"model": "x", "width": width, "deep": trial.suggest_categorical("deep", [True, False])}

    hparams = draws(compose_user(space, {}, {"width": "20:60", "deep": "true"}), 60)
    assert {h["width"] for h in hparams} == {25, 40, 55}
    assert {h["deep"] for h in hparams} == {True}


def test_points_outside_of_what_is_narrowed_are_left_out() -> None:
    narrow = {"sasrec": {"loss": "ce", "max_len": "100:200"}}
    points = points_to_enqueue(
        KNOWN_GOOD, {"sasrec": {}}, narrow, num_users=6040, num_items=3416, num_interactions=10**6
    )
    inside = [p for p in KNOWN_GOOD["sasrec"] if p["loss"] == "ce" and int(p["max_len"]) >= 100]
    assert points == inside and 0 < len(inside) < len(KNOWN_GOOD["sasrec"])
    space = compose({"sasrec": SEARCH_SPACES["sasrec"]}, NONE, narrow)
    for point in points:
        study = optuna.create_study()
        study.enqueue_trial(dict(point))
        trial = study.ask()
        space(trial)
        assert trial.params == point
