"""From the sampled, flat hparams to the typed configs of the model and of its training."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from seqsweep.models import MODELS, ModelConfig, SequenceModel
from seqsweep.sweep.errors import ConfigError
from seqsweep.sweep.training import TrainConfig

Value = TypeVar("Value")
Hparams = Mapping[str, int | float | str | bool]


def known_keys(name: str) -> set[str]:
    """Hparams that the family's config or its training has a field for."""
    return set(MODELS[name].Config.model_fields) | set(TrainConfig.model_fields)


def pins_by_family(names: Sequence[str], fix: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """What is pinned for each family: that which it knows. Raises ConfigError for a key that none knows."""
    everywhere = set().union(*(known_keys(name) for name in names))
    for key in fix:
        if key not in everywhere:
            hint = _nearest(key, everywhere)
            raise ConfigError(f"hparam {key!r} belongs neither to {', '.join(names)} nor to training{hint}")
    return {name: {k: v for k, v in fix.items() if k in known_keys(name)} for name in names}


def typed_configs(hparams: Hparams) -> tuple[type[SequenceModel], ModelConfig, TrainConfig]:
    """Raises ConfigError naming the key that belongs to neither config, or the value that does not fit."""
    rest: dict[str, Any] = dict(hparams)
    name = rest.pop("model", None)
    if name not in MODELS:
        raise ConfigError(f"hparam model must be one of {', '.join(MODELS)}, got {name!r}")
    model_class = MODELS[name]
    model_keys, train_keys = set(model_class.Config.model_fields), set(TrainConfig.model_fields)
    for key in rest:
        if key not in model_keys | train_keys:
            hint = _nearest(key, model_keys | train_keys)
            raise ConfigError(f"hparam {key!r} belongs neither to {name} nor to training{hint}")
    try:
        model_config = model_class.Config(**{k: v for k, v in rest.items() if k in model_keys})
        train_config = TrainConfig(**{k: v for k, v in rest.items() if k in train_keys})
    except ValidationError as error:
        raise ConfigError(describe(error, "hparam")) from None
    return model_class, model_config, train_config


def describe(error: ValidationError, what: str) -> str:
    """One line for each thing wrong: the key, what was given, what is allowed."""
    lines = []
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"])
        is_secret = key == "storage"  # it may hold keys
        given = "" if isinstance(problem["input"], dict) or is_secret else f", got {problem['input']!r}"
        message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        lines.append(f"{what} {key}: {message}{given}" if key else f"{what}s: {message}")
    return "\n".join(lines)


def _nearest(key: str, valid: set[str]) -> str:
    matches = difflib.get_close_matches(key, sorted(valid), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else f"; valid are {', '.join(sorted(valid))}"
