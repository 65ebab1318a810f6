import hashlib
import sys
from pathlib import Path

import optuna
import pytest

from seqsweep.search_spaces.compose import compose_user, draws
from seqsweep.search_spaces.errors import SpaceError
from seqsweep.search_spaces.points import point_in
from seqsweep.sweep.driver.user_space import check_user_space, load_space
from seqsweep.sweep.errors import ConfigError

GOOD = """
from __future__ import annotations

from dataclasses import dataclass

import neighbour


@dataclass
class Width:
    value: int


def space(trial):
    loss = trial.suggest_categorical("loss", ["ce", "bce"])
    width = Width(8 * trial.suggest_int("eighths", 2, 8))
    return {"model": "sasrec", "loss": loss, "hidden_dim": width.value, "lr": neighbour.lr(trial)}


not_a_function = 3
"""
NEIGHBOUR = "def lr(trial):\n    return trial.suggest_float('lr', 1e-4, 1e-2, log=True)\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "neighbour", raising=False)
    (tmp_path / "neighbour.py").write_text(NEIGHBOUR)
    (tmp_path / "my_space.py").write_text(GOOD)
    return tmp_path / "my_space.py"


def test_a_function_is_taken_from_a_file(file: Path) -> None:
    before = list(sys.path)
    for spec in ("my_space.py:space", f"{file}:space"):
        space = load_space(spec)
        assert (space.path, space.name) == (file, "space")
        assert space.source_sha256 == hashlib.sha256(GOOD.encode()).hexdigest()
        check_user_space(space.function)
        assert {hparams["model"] for hparams in draws(space.function, 5)} == {"sasrec"}
    assert sys.path == before


def test_a_changed_file_is_another_space(file: Path) -> None:
    first = load_space("my_space.py:space")
    file.write_text(GOOD.replace("8 * ", "4 * "))  # of equal length, within the clock's resolution
    second = load_space("my_space.py:space")
    assert first.source_sha256 != second.source_sha256
    one, other = draws(first.function, 1)[0], draws(second.function, 1)[0]
    assert one["hidden_dim"] == 2 * int(other["hidden_dim"])
    file.write_text(GOOD)
    assert load_space("my_space.py:space").source_sha256 == first.source_sha256


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_space.py", "a space must be FILE:NAME, such as my_space.py:space, got 'my_space.py'"),
        ("my_space.py:", "a space must be FILE:NAME"),
        (":space", "a space must be FILE:NAME"),
        ("my_space.py:a.b", "a space must be FILE:NAME"),
        ("no_space.py:space", "no_space.py: No such file or directory"),
        (".:space", "Is a directory"),
        ("my_space.py:spcae", "my_space.py has no function 'spcae', it has dataclass, Width, space"),
        ("my_space.py:not_a_function", "must be a function of an Optuna trial, got int 3"),
        ("my_space.txt:space", "must be Python, with a name in .py, got"),
    ],
)
def test_a_space_that_is_not_there(file: Path, spec: str, message: str) -> None:
    file.with_suffix(".txt").write_text(GOOD)
    with pytest.raises(ConfigError) as error:
        load_space(spec)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a = 1\nb = a / 0\n", "can't be imported: line 2, ZeroDivisionError: division by zero"),
        ("def f(:\n", "can't be imported: line 1, SyntaxError: invalid syntax"),
        ("a = 1\n\nimport no_such_module\n", "line 3, ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)\n", "line 1, SystemExit: 3"),
        ("def f():\n    int('x')\n\nf()\n", "line 2, ValueError: invalid literal"),
    ],
)
def test_a_file_that_raises(file: Path, source: str, message: str) -> None:
    file.write_text(source)
    before, modules = list(sys.path), set(sys.modules)
    with pytest.raises(ConfigError) as error:
        load_space("my_space.py:space")
    assert message in str(error.value)
    assert sys.path == before and not {m for m in set(sys.modules) - modules if "user_space" in m}


def raises_key_error(trial: optuna.Trial) -> dict[str, str | float]:
    table: dict[str, dict[str, str | float]] = {}
    return table["a" * (1 + trial.suggest_int("lr", 0, 0))]


def raises_late(trial: optuna.Trial) -> dict[str, str | float]:
    lr = trial.suggest_float("lr", 0, 1)
    if lr > 0.9:
        raise RuntimeError(f"lr is {lr > 0.9}")
    return {"model": "sasrec", "lr": lr + 1e-3}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            lambda trial: {"lr": 1.0},
            "fails at draw 1 of 64, which was nothing: ValueError: hparams must name a model",
        ),
        (
            lambda trial: {"model": "sasrecc"},
            "draw 1 of 64, which was nothing: hparam model must be one of bert4rec,",
        ),
        (
            lambda trial: {"model": "sasrec", "droput": trial.suggest_float("d", 0, 0)},
            "d=0.0: hparam 'droput' belongs neither to sasrec nor to training; did you mean 'dropout'?",
        ),
        (
            lambda trial: {"model": "sasrec", "dropout": trial.suggest_int("dropout", 3, 3)},
            "dropout=3: hparam dropout: must be less than 1, got 3",
        ),
        (
            lambda trial: None,
            "TypeError: a space must return a dict of hparams, got NoneType",
        ),
        (raises_late, ": RuntimeError: lr is True"),
    ],
)
def test_a_space_is_drawn_from_before_it_is_searched(space: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_user_space(space)  # type: ignore[arg-type]
    assert message in str(error.value)


def test_a_users_space_is_pinned_and_narrowed(file: Path) -> None:
    function = load_space("my_space.py:space").function
    space = compose_user(function, {"lr": 0.5, "num_blocks": 1}, {"loss": "bce", "eighths": "3:4"})
    for hparams in draws(space, 30):
        assert hparams["lr"] == 0.5 and hparams["num_blocks"] == 1 and hparams["loss"] == "bce"
        assert hparams["hidden_dim"] in (24, 32)
    assert point_in(space, {"eighths": 4, "lr": 0.5}, strict=True) == {"eighths": 4}
    with pytest.raises(SpaceError, match="eight can't be narrowed, the space does not draw it; did you mean"):
        compose_user(function, {}, {"eight": "3:4"})
    with pytest.raises(
        SpaceError, match=r"the space raised KeyError: 'a', when it was answered with \{'lr': 0"
    ):
        compose_user(raises_key_error, {}, {"lr": "0:1"})
