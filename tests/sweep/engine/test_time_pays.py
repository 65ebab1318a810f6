"""On the generated log, whose ceilings are known, a model that reads times must beat any that does not."""

from typing import Any

import pytest
import torch

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.preparing.prepare import prepare
from seqsweep.data_pipeline.store import open_log
from seqsweep.models.baselines import Markov
from seqsweep.models.sasrec import SASRec, SASRecConfig
from seqsweep.models.tisasrec import TiSASRec, TiSASRecConfig
from seqsweep.results.metrics import compute_metrics
from seqsweep.sweep.engine.baselines import training_part
from seqsweep.sweep.engine.hparams import TrainConfig
from seqsweep.sweep.engine.opened_log import TrialData, open_data
from seqsweep.sweep.engine.ranking import ModelScorer, Ranker, Scorer
from seqsweep.sweep.engine.state import build_model, new_state
from seqsweep.sweep.engine.training import train
from seqsweep.sweep.settings.budgets import TrainBudget
from seqsweep.sweep.settings.protocol import ProtocolConfig

CPU = torch.device("cpu")
EPOCHS = 10
# Small batches and no dropout: the shortest way over the blind ceiling, some 20 seconds a model.
TRAINING = TrainConfig(loss="ce", batch_size=32, lr=9e-3, lr_schedule="cosine", warmup_steps=100)
SIZE: dict[str, Any] = {"hidden_dim": 48, "num_blocks": 2, "num_heads": 1, "max_len": 40, "dropout": 0.0}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> TrialData:
    log = open_log(prepare(DataConfig(path="demo"), tmp_path_factory.mktemp("cache")))
    return open_data(log, ProtocolConfig(), CPU)


def ndcg(scorer: Scorer, data: TrialData) -> float:
    ranker = Ranker(data.log, data.sequences, data.split.test, ProtocolConfig(), "test")
    return compute_metrics(ranker.rank(scorer))["ndcg@10"]


def trained(model_class: Any, config: Any, data: TrialData) -> ModelScorer:
    state = new_state(build_model(model_class, config, data.log.num_items, seed=0, device=CPU), TRAINING)
    budget = TrainBudget()
    for _ in train(state, TRAINING, budget, data.sequences, data.valid_ranker, max_epochs=EPOCHS, seed=0):
        pass
    return ModelScorer(state.model.eval())


def ceiling(data: TrialData, kind: str) -> float:
    assert data.log.manifest.ceilings is not None
    return data.log.manifest.ceilings["test"][kind]["ndcg@10"]


def test_tisasrec_is_above_the_ceiling_of_models_that_do_not_see_time(demo: TrialData) -> None:
    """.63 in ten epochs; the ceilings are .553 and, with time, .689."""
    value = ndcg(trained(TiSASRec, TiSASRecConfig(**SIZE, time_span=128), demo), demo)
    assert ceiling(demo, "blind") + 0.03 < value < ceiling(demo, "aware")


def test_sasrec_is_between_markov_and_that_ceiling(demo: TrialData) -> None:
    """.47 in ten epochs. With the default position_std it learns positions later: .37, as Markov."""
    value = ndcg(trained(SASRec, SASRecConfig(**SIZE, position_std=0.5), demo), demo)
    assert ndcg(Markov(training_part(demo)), demo) + 0.03 < value < ceiling(demo, "blind")
