"""docs/models.md and the spaces say the same: what is drawn, from where to where, when, and the defaults."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from seqsweep.models import MODELS
from seqsweep.search_spaces import SEARCH_SPACES
from seqsweep.search_spaces.describe import describe_space
from seqsweep.sweep.engine.hparams import TrainConfig

PAGE = (Path(__file__).parents[2] / "docs/models.md").read_text(encoding="utf-8")
HEADINGS = {
    "sasrec": "SASRec",
    "tisasrec": "TiSASRec",
    "gru4rec": "GRU4Rec",
    "bert4rec": "BERT4Rec",
    "hstu": "HSTU",
    "lrurec": "LRURec",
}
Told = dict[str, tuple[str, str, str]]  # by hparam: values, condition, default


def told_under(heading: str) -> Told:
    _, found, rest = PAGE.partition(f"\n## {heading}\n")
    assert found, f"docs/models.md has no section {heading}"
    return dict(rows(rest.partition("\n## ")[0]))


def rows(section: str) -> Iterator[tuple[str, tuple[str, str, str]]]:
    lines = section.partition("| hparam |")[2].partition("\n\n")[0].splitlines()
    for line in lines[2:]:
        name, values, condition, default, _ = (cell.strip() for cell in line.strip("|").split("|"))
        yield name.strip("`"), (values, condition, default)


def default_of(model: str, name: str) -> str:
    return str({**TrainConfig.model_fields, **MODELS[model].Config.model_fields}[name].default)


def loss_condition(condition: str, losses: str) -> set[str]:
    """The losses of a condition that a family has at all."""
    return set(condition.removeprefix("loss = ").split(" or ")) & set(losses.split(", "))


@pytest.mark.parametrize("model", SEARCH_SPACES)
def test_the_tables_are_the_space(model: str) -> None:
    space = {row.name: row for row in describe_space(SEARCH_SPACES[model])}
    own, training = told_under(HEADINGS[model]), told_under("Training")
    told = {**own, **{name: row for name, row in training.items() if name in space}}
    assert set(told) == set(space)
    for name, (values, condition, default) in told.items():
        assert values == space[name].values, name
        assert default == default_of(model, name), name
        if condition.startswith("loss = ") and name in training:
            losses = space["loss"].values
            assert loss_condition(condition, losses) == loss_condition(space[name].condition, losses), name
        else:
            assert condition == space[name].condition, name


def test_every_row_of_training_is_some_familys() -> None:
    drawn = {row.name for space in SEARCH_SPACES.values() for row in describe_space(space)}
    assert set(told_under("Training")) <= drawn
