from typing import cast

import optuna
import pytest

from search_spaces import SEARCH_SPACES, Hparam, known_good
from search_spaces.sasrec import sasrec

MODEL_HPARAMS = {"hidden_dim", "num_blocks", "num_heads", "dropout", "norm", "max_len"}
TRAINING_HPARAMS = {"lr", "weight_decay", "batch_size", "window", "loss"}
ALWAYS = {"model"} | MODEL_HPARAMS | TRAINING_HPARAMS

SMALLEST: dict[str, Hparam] = {
    "hidden_dim": 32,
    "num_blocks": 1,
    "num_heads": 1,
    "dropout": 0.0,
    "norm": "pre",
    "max_len": 50,
    "lr": 3e-4,
    "weight_decay": 1e-6,
    "batch_size": 64,
    "window": "last",
    "loss": "ce",
}

POINTS = [
    pytest.param(name, point, id=f"{name}-{number}")
    for name, points in known_good.items()
    for number, point in enumerate(points)
]


def at(**changes: Hparam) -> dict[str, Hparam]:
    return sasrec(fixed(SMALLEST | changes))


def fixed(params: dict[str, Hparam]) -> optuna.Trial:
    return cast(optuna.Trial, optuna.trial.FixedTrial(dict(params)))


def draws(count: int) -> list[dict[str, Hparam]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [sasrec(study.ask()) for _ in range(count)]


def test_every_space_has_known_good_points() -> None:
    assert known_good.keys() == SEARCH_SPACES.keys()


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


@pytest.mark.parametrize(
    ("loss", "conditional"),
    [
        ("ce", set()),
        ("sampled_softmax", {"negatives", "num_negatives"}),
        ("gbce", {"negatives", "num_negatives", "gbce_t"}),
        ("bce", set()),
    ],
)
def test_loss_parameters_appear_only_where_they_apply(loss: str, conditional: set[str]) -> None:
    hparams = at(loss=loss, num_negatives=64, gbce_t=0.5)
    assert hparams.keys() == ALWAYS | conditional


def test_random_draws_stay_in_the_allowed_sets() -> None:
    allowed: dict[str, set[Hparam]] = {
        "num_blocks": {1, 2, 3},
        "num_heads": {1, 2, 4},
        "norm": {"pre", "post", "original"},
        "max_len": {50, 100, 200},
        "batch_size": {64, 128, 256},
        "window": {"last", "random"},
        "loss": {"ce", "sampled_softmax", "gbce", "bce"},
        "hidden_dim": set(range(32, 129, 8)),
    }
    hparams = draws(1000)
    assert {name: {h[name] for h in hparams} for name in allowed} == allowed


def test_every_width_is_a_multiple_of_every_number_of_heads() -> None:
    for hidden_dim in range(32, 129):
        for num_heads in range(1, 5):
            hparams = at(hidden_dim=hidden_dim, num_heads=num_heads)
            assert cast(int, hparams["hidden_dim"]) % cast(int, hparams["num_heads"]) == 0


@pytest.mark.parametrize(
    ("name", "drawn", "used"),
    [
        ("hidden_dim", 50, 48),
        ("num_heads", 3, 4),  # 4/3 < 3/2
        ("max_len", 70, 50),  # the middle of 50 and 100 in ratio is 70.7
        ("max_len", 71, 100),
        ("batch_size", 181, 128),  # of 128 and 256 it is 181.02
        ("batch_size", 182, 256),
    ],
)
def test_a_count_goes_to_the_nearest_value_in_ratio(name: str, drawn: int, used: int) -> None:
    assert at(**{name: drawn})[name] == used


def test_hparams_are_json_scalars_of_stable_type() -> None:
    types: dict[str, set[type]] = {}
    for hparams in draws(100):
        for name, value in hparams.items():
            types.setdefault(name, set()).add(type(value))
    assert all(len(kinds) == 1 for kinds in types.values())
    assert set.union(*types.values()) == {int, float, str}
