"""The trials of a study trained in this process, one after the other, without Ray: for `seqsweep train`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from seqsweep.models import MODELS
from seqsweep.results.schema import Hparam
from seqsweep.sweep.cluster.failures import classify
from seqsweep.sweep.cluster.mailbox import Report
from seqsweep.sweep.cluster.trial import TrialContext, preload_data, train_request
from seqsweep.sweep.driver.searching import event_files, stop_on_signals
from seqsweep.sweep.driver.session import Session
from seqsweep.sweep.engine.hparams import known_keys, pins_by_family, typed_configs
from seqsweep.sweep.engine.workers import ALONE
from seqsweep.sweep.errors import ConfigError
from seqsweep.sweep.settings.search import SearchConfig
from seqsweep.sweep.settings.study_config import SpaceConfig
from seqsweep.sweep.study.commands import Inbox
from seqsweep.sweep.study.optuna_study import rungs_of
from seqsweep.sweep.study.study import Study
from seqsweep.sweep.study.trial_request import TrialRequest

# Of a training without a search; what a model has no such setting for is left out.
DEFAULTS: dict[str, Hparam] = {
    "batch_size": 128,
    "lr": 1e-3,
    "max_len": 200,
    "hidden_dim": 50,
    "num_blocks": 2,
    "num_heads": 2,
    "dropout": 0.2,
    "num_streams": 4,
    "sinkhorn_iterations": 20,
}
DEFAULT_EPOCHS = 300


def pinned_space(model: str, hparams: dict[str, Hparam]) -> SpaceConfig:
    """A space of one point: the given hparams, then `DEFAULTS`, then those of the model and its training.

    Raises ConfigError for a key that the model does not know, with the nearest that it does.
    """
    if model not in MODELS:
        raise ConfigError(f"--model must be one of {', '.join(MODELS)}, got {model!r}")
    (given,) = pins_by_family([model], hparams).values()
    defaults = {key: value for key, value in DEFAULTS.items() if key in known_keys(model)}
    _, model_config, train_config = typed_configs({"model": model, **defaults, **given})
    return SpaceConfig(models=(model,), fix={**model_config.model_dump(), **train_config.model_dump()})


def one_training(epochs: int) -> SearchConfig:
    return SearchConfig(trials=1, sampler="random", pruner="none", max_epochs=epochs)


class _Stopped(Exception):
    """The trial is to train no further."""


def train_alone(session: Session) -> None:
    """As `driver.search`. A stopped trial stays RUNNING in the journal, and goes on from its checkpoint."""
    config, study, data = session.config, session.study, session.data
    device = data.sequences.device
    preload_data(data, config.protocol)
    context = TrialContext(
        folder=config.trial_files,
        manifest=data.log.manifest,
        shards=(),
        protocol=config.protocol,
        budget=config.training,
        max_epochs=study.search.max_epochs,
        num_threads=torch.get_num_threads(),
        num_gpus=float(device.type == "cuda"),
        rungs={name: rungs_of(study.search, name) for name in MODELS},
    )
    inbox = Inbox(config.folder)
    with event_files(config, study), stop_on_signals(study, session.view):
        while (request := study.ask()) is not None:
            _train(request, context, study, _reporter(request, session, inbox))


def _reporter(request: TrialRequest, session: Session, inbox: Inbox) -> Callable[[Report], None]:
    study, objective = session.study, session.config.training.objective

    def report(values: Report) -> None:
        session.view.say(
            f"epoch {values['epoch']:>4}  loss {values['loss']:.4f}  valid {objective} "
            f"{values['objective']:.4f}  best {max(values['objective'], _best(study, request)):.4f}"
        )
        must_stop = study.report(request.trial_number, values)
        study.beat()
        inbox.step(study)
        session.mirror.step(study)
        session.publisher.step()
        if must_stop or study.stopped_because is not None or request.trial_number not in study.live:
            raise _Stopped

    return report


def _best(study: Study, request: TrialRequest) -> float:
    live = {trial.number: trial for trial in study.live_trials()}
    return max(live[request.trial_number].objectives.values(), default=0.0)


def _train(
    request: TrialRequest, context: TrialContext, study: Study, report: Callable[[Report], None]
) -> None:
    number = request.trial_number
    try:
        train_request(vars(request), context, report, ALONE)
    except _Stopped:
        if number in study.live:
            study.release(number)
    except KeyboardInterrupt:
        study.release(number)
        study.stop("SIGINT")
    # Whatever a training raises is recorded, as where a worker has it.
    except Exception as error:
        study.settle(number, classify(error))
    else:
        study.complete(number)
