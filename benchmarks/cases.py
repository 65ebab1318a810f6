"""The logs and settings that train_epoch, rank_users and bench_peers measure.

The published reference: SASRec, D = 50, 2 blocks, 1 head, batches of 128, dropout .2, bce with one negative.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.preparing.prepare import prepare
from seqsweep.data_pipeline.split import Targets
from seqsweep.data_pipeline.store import open_log
from seqsweep.models.sasrec import SASRec, SASRecConfig
from seqsweep.sweep.engine.hparams import TrainConfig
from seqsweep.sweep.engine.opened_log import TrialData, open_data
from seqsweep.sweep.engine.ranking import Ranker
from seqsweep.sweep.engine.state import TrainState, build_model, new_state
from seqsweep.sweep.settings.protocol import ProtocolConfig

BATCH_SIZE, NUM_BLOCKS, DROPOUT = 128, 2, 0.2
LOG_FILES = {"games": "games/Video.txt", "ml-1m": "ml-1m/ml-1m.txt.gz", "ml-100k": "ml-100k/u.data"}
FEW_USERS = 100


@dataclass(frozen=True)
class Case:
    log: str
    max_len: int
    loss: str = "bce"
    hidden_dim: int = 50
    num_heads: int = 1

    @property
    def num_negatives(self) -> int | None:
        return None if self.loss == "ce" else 1

    @property
    def is_there(self) -> bool:
        return self.log == "demo" or log_path(self.log).exists()


TRAINED = {
    "games-bce": Case("games", 50),
    "ml-1m-bce": Case("ml-1m", 200),
    "ml-1m-ce": Case("ml-1m", 200, "ce", hidden_dim=64, num_heads=2),
    "ml-100k-ce": Case("ml-100k", 50, "ce"),
    "demo-bce": Case("demo", 50),
}
RANKED = {"games": Case("games", 50), "ml-1m": Case("ml-1m", 200), "demo": Case("demo", 50)}


def log_path(name: str) -> Path:
    """In $SEQSWEEP_DATA, else in ../shared/data."""
    return Path(os.environ.get("SEQSWEEP_DATA", "../shared/data")) / LOG_FILES[name]


def chosen(cases: dict[str, Case], names: list[str] | None) -> dict[str, Case]:
    """The named cases; without names those whose logs are there, the generated one where none is."""
    if names:
        return {name: cases[name] for name in names}
    real = {name: case for name, case in cases.items() if case.log != "demo" and case.is_there}
    return real or {name: case for name, case in cases.items() if case.log == "demo"}


def open_case(case: Case, cache: Path, device: torch.device) -> TrialData:
    path = "demo" if case.log == "demo" else str(log_path(case.log))
    return open_data(open_log(prepare(DataConfig(path=path), cache)), ProtocolConfig(), device)


def model_of(case: Case, data: TrialData, device: torch.device) -> tuple[TrainState, TrainConfig]:
    model_config = SASRecConfig(
        hidden_dim=case.hidden_dim,
        num_blocks=NUM_BLOCKS,
        num_heads=case.num_heads,
        dropout=DROPOUT,
        max_len=case.max_len,
    )
    config = TrainConfig(loss=case.loss, num_negatives=1, batch_size=BATCH_SIZE)
    model = build_model(SASRec, model_config, data.log.num_items, seed=0, device=device)
    return new_state(model, config), config


def few_users(data: TrialData) -> Ranker:
    """Validation on a few, where training alone is measured."""
    valid = data.split.valid
    few = Targets(valid.user_id[:FEW_USERS], valid.position[:FEW_USERS])
    return Ranker(data.log, data.sequences, few, ProtocolConfig(), "valid")
