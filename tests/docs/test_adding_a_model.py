"""The example of docs/adding-a-model.md works as it stands there."""

import re
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from seqsweep.data_pipeline.history import History
from seqsweep.models import MODELS
from seqsweep.sweep.engine.hparams import typed_configs

PAGE = (Path(__file__).parents[2] / "docs/adding-a-model.md").read_text(encoding="utf-8")


def module(docstring: str) -> dict[str, Any]:
    """What the block that begins with this docstring defines."""
    (source,) = re.findall(rf'```python\n("""{docstring}.*?)```', PAGE, re.S)
    names: dict[str, Any] = {"__name__": "models_of_the_page"}
    exec(compile(source, "adding-a-model.md", "exec"), names)
    return names


def test_the_model_is_causal_and_its_space_fits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    names, space = module("Decay: the mean"), module("What a study of Decay may move")
    monkeypatch.setitem(MODELS, "decay", names["Decay"])
    for number in range(20):
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(number)).ask()
        model_class, _, _ = typed_configs(space["decay"](trial))
        assert model_class is names["Decay"]
    _, config, _ = typed_configs({"model": "decay", **space["DECAY_KNOWN_GOOD"][0]})
    torch.manual_seed(0)
    model = names["Decay"](config, 10).eval()
    item_id_BL = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 6]])
    state_BLD = model.encode(History(item_id_BL, torch.tensor([4, 4])))
    torch.testing.assert_close(state_BLD[0, :2], state_BLD[1, :2])
    assert (state_BLD[0, 2:] - state_BLD[1, 2:]).abs().amin(-1).gt(0).all()
