from typing import Any, cast

import optuna
import pytest

from seqsweep.search_spaces import GRACE_FACTORS, KNOWN_GOOD, SEARCH_SPACES, Hparam
from seqsweep.search_spaces.common_hparams import nearest
from seqsweep.search_spaces.compose import compose, draws
from seqsweep.search_spaces.describe import describe_space
from seqsweep.search_spaces.points import affords_ce, points_to_enqueue
from seqsweep.search_spaces.sasrec import sasrec

NAMES = list(SEARCH_SPACES)
POINTS = [
    pytest.param(name, point, id=f"{name}-{number}")
    for name, points in KNOWN_GOOD.items()
    for number, point in enumerate(points)
]


def fixed(params: dict[str, Hparam]) -> optuna.Trial:
    return cast(optuna.Trial, optuna.trial.FixedTrial(dict(params)))


def no_pins(*names: str) -> dict[str, dict[str, Hparam]]:
    return {name: {} for name in names}


def test_every_space_has_known_good_points() -> None:
    assert KNOWN_GOOD.keys() == SEARCH_SPACES.keys()
    assert GRACE_FACTORS.keys() <= SEARCH_SPACES.keys()


@pytest.mark.parametrize(("name", "point"), POINTS)
def test_known_good_points_lie_in_the_space_and_come_out_as_they_went_in(
    name: str, point: dict[str, Hparam]
) -> None:
    # FixedTrial refuses a value out of range and a parameter the point does not name.
    shared = {"negatives": "batch"} if "num_negatives" in point else {}
    assert SEARCH_SPACES[name](fixed(point)) == {"model": name, **point, **shared}


@pytest.mark.parametrize(("name", "point"), POINTS)
def test_known_good_points_name_no_parameter_that_optuna_would_drop(
    name: str, point: dict[str, Hparam]
) -> None:
    study = optuna.create_study()
    study.enqueue_trial(dict(point))
    trial = study.ask()
    SEARCH_SPACES[name](trial)
    assert trial.params == point


@pytest.mark.parametrize("name", NAMES)
def test_hparams_are_json_scalars_of_stable_type(name: str) -> None:
    types: dict[str, set[type]] = {}
    for hparams in draws(SEARCH_SPACES[name], 200):
        for key, value in hparams.items():
            types.setdefault(key, set()).add(type(value))
    assert all(len(kinds) == 1 for kinds in types.values())
    assert set.union(*types.values()) <= {int, float, str, bool}


@pytest.mark.parametrize("name", NAMES)
def test_widths_are_multiples_of_heads_and_counts_come_from_their_sets(name: str) -> None:
    allowed: dict[str, set[Hparam]] = {
        "num_heads": {1, 2, 4},
        "max_len": {50, 100, 200},
        "batch_size": {32, 64, 128, 256},
        "num_streams": {2, 4},
        "time_span": {64, 128, 256, 512},
        "window": {"last", "random", "all"},
    }
    hparams = draws(SEARCH_SPACES[name], 600)
    assert all(cast(int, h["hidden_dim"]) % cast(int, h.get("num_heads", 1)) == 0 for h in hparams)
    for key, values in allowed.items():
        drawn = {h[key] for h in hparams if key in h}
        assert drawn in (values, set())


def test_parameters_appear_only_where_they_apply() -> None:
    for hparams in draws(sasrec, 500):
        loss, residual = hparams["loss"], hparams["residual"]
        assert ("num_negatives" in hparams) == (loss in ("gbce", "sampled_softmax"))
        assert ("gbce_t" in hparams) == (loss == "gbce")
        assert ("norm" in hparams) == (residual == "plain")
        assert ("num_streams" in hparams) == (residual == "mhc")
        assert residual != "mhc" or cast(int, hparams["num_blocks"]) >= 2


@pytest.mark.parametrize(
    ("allowed", "drawn", "used"),
    [
        ((1, 2, 4), 3, 4),  # 4/3 < 3/2
        ((50, 100, 200), 70, 50),  # the middle of 50 and 100 in ratio is 70.7
        ((50, 100, 200), 71, 100),
        ((64, 128, 256), 181, 128),  # of 128 and 256 it is 181.02
        ((64, 128, 256), 182, 256),
    ],
)
def test_a_count_goes_to_the_nearest_value_in_ratio(allowed: tuple[int, ...], drawn: int, used: int) -> None:
    assert nearest(allowed, drawn) == used


def test_several_families_are_one_space_with_the_family_as_a_parameter() -> None:
    space = compose(SEARCH_SPACES, no_pins(*NAMES))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in range(200)]
    hparams = [space(trial) for trial in trials]
    assert {h["model"] for h in hparams} == set(NAMES)
    for trial, drawn in zip(trials, hparams, strict=True):
        name = cast(str, drawn["model"])
        assert trial.params.keys() - {"model"} == {
            f"{name}.{key}" for key in drawn.keys() - {"model", "negatives"}
        }


def test_one_family_keeps_its_names() -> None:
    trial = optuna.create_study().ask()
    compose({"sasrec": sasrec}, no_pins("sasrec"))(trial)
    assert "lr" in trial.params and "model" not in trial.params


def test_pinned_hparams_come_out_as_given_and_are_not_drawn() -> None:
    pins: dict[str, dict[str, Hparam]] = {"sasrec": {"lr": 0.5, "max_len": 77}, "hstu": {"max_len": 77}}
    space = compose({name: SEARCH_SPACES[name] for name in pins}, pins)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        trial = study.ask()
        hparams = space(trial)
        assert hparams["max_len"] == 77
        assert (hparams["lr"] == 0.5) == (hparams["model"] == "sasrec")
        assert not any(key.endswith("max_len") for key in trial.params)


@pytest.mark.parametrize("num_items", [3416, 23715])
def test_points_of_several_families_come_in_turn_and_lie_in_the_composed_space(num_items: int) -> None:
    points = points_to_enqueue(
        KNOWN_GOOD, no_pins(*NAMES), num_users=6040, num_items=num_items, num_interactions=10**6
    )
    losses = {value for point in points for key, value in point.items() if key.endswith("loss")}
    assert ("ce" in losses) == (num_items < 15_000)
    assert [point["model"] for point in points[: len(NAMES)]] == NAMES
    space = compose(SEARCH_SPACES, no_pins(*NAMES))
    for point in points:
        study = optuna.create_study()
        study.enqueue_trial(dict(point))
        trial = study.ask()
        space(trial)
        assert trial.params == point


def test_points_leave_out_what_is_pinned_and_those_that_a_pin_contradicts() -> None:
    points = points_to_enqueue(
        KNOWN_GOOD,
        {"sasrec": {"loss": "ce", "lr": 0.01}},
        num_users=6040,
        num_items=3416,
        num_interactions=10**6,
    )
    assert len(points) == sum(point["loss"] == "ce" for point in KNOWN_GOOD["sasrec"])
    assert all("lr" not in point and "loss" not in point for point in points)


def test_points_have_smaller_batches_on_a_small_log() -> None:
    for num_users, expected in ((943, 32), (3000, 64), (6040, 128), (10**6, 128)):
        points = points_to_enqueue(
            KNOWN_GOOD, no_pins("sasrec"), num_users=num_users, num_items=1000, num_interactions=10**6
        )
        assert {point["batch_size"] for point in points} == {expected}


@pytest.mark.parametrize(("num_interactions", "max_len"), [(6040 * 165, 200), (6040 * 9, 50)])
def test_points_for_histories_as_long_as_the_logs_come_first(num_interactions: int, max_len: int) -> None:
    points = points_to_enqueue(
        KNOWN_GOOD, no_pins("sasrec"), num_users=6040, num_items=3416, num_interactions=num_interactions
    )
    lengths = [point["max_len"] for point in points]
    assert lengths == sorted(lengths, key=lambda length: length != max_len) and len(set(lengths)) == 2
    assert points[0]["exclude_seen"] == (max_len == 200)


def test_cross_entropy_is_first_choice_while_it_is_affordable() -> None:
    """Many items, in a log so small that an epoch takes seconds all the same; and what a GPU may take."""
    assert affords_ce(12_000, 10**7, on_gpu=False)
    assert affords_ce(30_000, 50_000, on_gpu=False)
    assert not affords_ce(24_000, 287_000, on_gpu=False)
    assert affords_ce(24_000, 287_000, on_gpu=True)


def test_a_description_has_every_parameter_with_its_condition() -> None:
    rows = {row.name: row for row in describe_space(sasrec)}
    drawn: set[Any] = {key for hparams in draws(sasrec, 300) for key in hparams}
    assert rows.keys() == drawn - {"model", "negatives"}
    assert rows["num_negatives"].condition == "loss = sampled_softmax or gbce"
    assert rows["norm"].condition == "residual = plain"
    assert rows["lr"].condition == ""
    assert rows["lr"].values == "0.0003 to 0.004, log"
