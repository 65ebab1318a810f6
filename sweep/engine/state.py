"""What training has to go on with: weights, optimizer, reports, and the weights of the best epoch."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from seqsweep.models import SequenceModel
from seqsweep.sweep.engine.hparams import TrainConfig
from seqsweep.sweep.seeds import derive_seed


@dataclass(frozen=True)
class EpochReport:
    epoch: int  # from 1
    loss: float  # mean a target, of this epoch alone
    objective: float
    valid: dict[str, float]
    lr: float  # at the epoch's end
    best_epoch: int
    seconds: float  # of training alone, since the report before
    eval_seconds: float
    last: bool  # training ends here


@dataclass
class TrainState:
    """All that training needs to go on after an epoch, and the weights of the best one."""

    model: SequenceModel
    optimizer: torch.optim.Optimizer
    reports: list[EpochReport] = field(default_factory=list)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    cooldown: tuple[int, int] | None = None  # the epoch after which it began, and its last

    @property
    def best(self) -> EpochReport:
        return max(self.reports, key=lambda report: (report.objective, -report.epoch))

    @property
    def epoch(self) -> int:
        """Epochs trained."""
        return self.reports[-1].epoch if self.reports else 0

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def keep_weights(self) -> None:
        """As the best so far; in the place of those before, so that there are never two copies."""
        for name, weight in self.model.state_dict().items():
            if name in self.best_weights:
                self.best_weights[name].copy_(weight)
            else:
                self.best_weights[name] = weight.detach().clone()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only: loads with `weights_only=True`."""
        return {
            "weights": self.model.state_dict(),
            "best_weights": self.best_weights,
            "optimizer": self.optimizer.state_dict(),
            "reports": [vars(report) for report in self.reports],
            "cooldown": self.cooldown,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_weights = state["best_weights"]
        self.reports = [EpochReport(**report) for report in state["reports"]]
        begun = state.get("cooldown")
        self.cooldown = None if begun is None else (begun[0], begun[1])


def new_state(model: SequenceModel, config: TrainConfig) -> TrainState:
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.lr,
        betas=(0.9, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )
    return TrainState(model, optimizer)


def build_model(
    model_class: type[SequenceModel], config: Any, num_items: int, *, seed: int, device: torch.device
) -> SequenceModel:
    """A new model, its weights drawn on the CPU: the same on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "init"))
        model = model_class(config, num_items)
    return model.to(device)
