"""From the sampled, flat hparams to the typed configs of the model and of its training."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from seqsweep.models import MODELS, ModelConfig, SequenceModel
from seqsweep.models.losses import LOSSES, LossSettings
from seqsweep.sweep.engine.negatives import NegativeSettings
from seqsweep.sweep.errors import ConfigError, describe_validation_error

Value = TypeVar("Value")
Hparams = Mapping[str, int | float | str | bool]


class TrainConfig(LossSettings, NegativeSettings):
    """How a model is trained. Defaults are the references' where they agree, else the best measured."""

    loss: Literal[LOSSES] = "ce"  # type: ignore[valid-type]
    temperature: PositiveFloat = 1.0  # scores are divided by it in every loss
    batch_size: PositiveInt = 128  # sequences
    batch_by: Literal["targets", "sequences"] = "targets"
    window: Literal["last", "random", "all"] = "last"
    lr: PositiveFloat = 1e-3
    beta2: float = Field(default=0.98, ge=0, lt=1)  # of Adam; .98 in SASRec's code
    weight_decay: NonNegativeFloat = 0.0  # decoupled
    warmup_steps: NonNegativeInt = 0
    lr_schedule: Literal["constant", "cosine"] = "constant"  # cosine falls to 0 at max_epochs
    cooldown: float = Field(default=0.0, ge=0, le=0.5)  # of a constant rate, in shares of the epochs before


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
        raise ConfigError(describe_validation_error(error, "hparam")) from None
    return model_class, model_config, train_config


def _nearest(key: str, valid: set[str]) -> str:
    matches = difflib.get_close_matches(key, sorted(valid), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else f"; valid are {', '.join(sorted(valid))}"
