"""The border to Ray: a request and references to the data come in, one report a validated epoch goes out."""

import dataclasses
import platform
import resource
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
import torch
from ray import tune

from seqsweep.data_pipeline.schema import Manifest
from seqsweep.data_pipeline.store import SequenceLog
from seqsweep.sweep.cluster.mailbox import Report
from seqsweep.sweep.engine.device_name import device_name
from seqsweep.sweep.engine.hparams import typed_configs
from seqsweep.sweep.engine.opened_log import TrialData, open_data
from seqsweep.sweep.engine.process import give_back_memory
from seqsweep.sweep.engine.ranking import ModelScorer, Ranker
from seqsweep.sweep.engine.state import EpochReport, TrainState, build_model, new_state
from seqsweep.sweep.engine.training import train
from seqsweep.sweep.engine.workers import ALONE, Workers
from seqsweep.sweep.settings.budgets import TrainBudget
from seqsweep.sweep.settings.protocol import ProtocolConfig
from seqsweep.sweep.storage.bucket import StudyPath
from seqsweep.sweep.storage.trial_files import (
    UserRanks,
    checkpoint_path,
    load_checkpoint,
    ranks_path,
    remove_left_overs,
    save_checkpoint,
    write_ranks,
)
from seqsweep.sweep.study.trial_request import TrialRequest

CPU_ALLOCATION_FAILED = "DefaultCPUAllocator: can't allocate memory"  # torch says so in a RuntimeError


@dataclasses.dataclass(frozen=True)
class TrialContext:
    """What all trials of a study share; the shards stay in the object store and are mapped."""

    folder: StudyPath  # of the trials' files
    manifest: Manifest
    shards: tuple[ray.ObjectRef[Any], ...]
    protocol: ProtocolConfig
    budget: TrainBudget
    max_epochs: int
    num_threads: int  # of each worker
    num_gpus: float  # of each worker, which uses one of them or a part of it
    num_workers: int = 1
    num_cpus: float = 1.0  # of each worker
    rungs: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)  # by model

    @property
    def resources_per_worker(self) -> dict[str, float]:
        return {"CPU": self.num_cpus, **({"GPU": self.num_gpus} if self.num_gpus else {})}


_opened: dict[
    tuple[str, str, str], TrialData
] = {}  # the process's cache; a reused worker opens nothing twice


def run_trial(config: dict[str, Any], *, context: TrialContext) -> None:
    """Train one request to its end, in this process alone."""
    train_request(config["request"], context, tune.report, ALONE)


def train_request(
    request: Mapping[str, Any],
    context: TrialContext,
    report: Callable[[Report], None],
    workers: Workers,
) -> None:
    """Train one request to its end, from its checkpoint where there is one. Failures are raised.

    Raises MemoryError when the CPU's memory is used up, torch.OutOfMemoryError when a GPU's is. All workers
    call it alike; the first alone writes files.
    """
    try:
        _run(TrialRequest(**request), context, report, workers)
    except RuntimeError as error:
        if CPU_ALLOCATION_FAILED in str(error):
            raise MemoryError(str(error)) from error
        raise


def _run(
    request: TrialRequest, context: TrialContext, report: Callable[[Report], None], workers: Workers
) -> None:
    torch.set_num_threads(context.num_threads)
    device = _device(context.num_gpus)
    data = _open(context, device)
    model_class, model_config, train_config = typed_configs(request.hparams)
    model = build_model(model_class, model_config, data.log.num_items, seed=request.seed, device=device)
    state = new_state(model, train_config)
    path = checkpoint_path(context.folder, request.trial_number)
    if workers.rank == 0:
        remove_left_overs(path.parent)
    if path.exists():
        checkpoint = load_checkpoint(path, device)
        # A driver that went on from an older copy of the journal may have drawn others under this number.
        if checkpoint["hparams"] == dict(request.hparams):
            state.load_state_dict(checkpoint["state"])
    workers.check_equal(
        len(state.reports),
        "the epoch of the checkpoint",
        f"they must all see the same files in {context.folder}; keep runs in a folder that the nodes share",
    )
    facts = {
        "node": platform.node(),
        "device": device_name(device, workers.size),
        "num_parameters": state.num_parameters,
    }
    for done in state.reports:  # saved, but not recorded before the last attempt ended
        if done.epoch > request.last_epoch:
            report(_flat(done, facts, data, device, workers))
    for done in train(
        state,
        train_config,
        context.budget,
        data.sequences,
        data.valid_ranker,
        max_epochs=context.max_epochs,
        seed=request.seed,
        rungs=context.rungs.get(str(request.hparams["model"]), ()),
        micro_batch_size=request.micro_batch_size,
        workers=workers,
    ):
        if workers.rank == 0:
            save_checkpoint(path, {"hparams": dict(request.hparams), "state": state.state_dict()})
        if done.epoch > request.last_epoch:
            report(_flat(done, facts, data, device, workers))
    if request.is_finalist:
        _rank_users(request.trial_number, state, data, context, workers)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    give_back_memory()


def _rank_users(
    trial_number: int, state: TrainState, data: TrialData, context: TrialContext, workers: Workers
) -> None:
    """Write the ranks of the best weights.

    A trial that was killed before the file was there does this alone when it is run again. One that has a
    file writes it anew: it is always that of the checkpoint beside it.
    """
    state.model.load_state_dict(state.best_weights)
    autocast = context.budget.autocast and data.sequences.device.type == "cuda"
    scorer = ModelScorer(state.model.eval(), autocast=autocast)
    test_ranker = Ranker(data.log, data.sequences, data.split.test, context.protocol, "test")
    valid, test = (
        UserRanks(ranker.user_id_U, ranker.rank(scorer, workers))
        for ranker in (data.valid_ranker, test_ranker)
    )
    if workers.rank == 0:
        write_ranks(ranks_path(context.folder, trial_number), valid=valid, test=test)


def preload_data(data: TrialData, protocol: ProtocolConfig) -> None:
    """For trials in this process, which then ask no object store for their log."""
    _opened.clear()
    _opened[_key(data.log.manifest, protocol, data.sequences.device)] = data


def _key(manifest: Manifest, protocol: ProtocolConfig, device: torch.device) -> tuple[str, str, str]:
    return manifest.fingerprint, protocol.model_dump_json(), str(device)


def _open(context: TrialContext, device: torch.device) -> TrialData:
    key = _key(context.manifest, context.protocol, device)
    if key not in _opened:
        _opened.clear()
        log = SequenceLog(manifest=context.manifest, shards=tuple(ray.get(list(context.shards))))
        _opened[key] = open_data(log, context.protocol, device)
    return _opened[key]


def _device(num_gpus: float) -> torch.device:
    if not num_gpus:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"a trial was given gpus_per_trial={num_gpus:g} but torch sees no GPU on {platform.node()}: "
            "install a CUDA build of torch there, or set gpus_per_trial=0"
        )
    # Ray shows a process its own GPUs alone. Ray Train shows one those of all workers of its node, so that
    # they reach each other, and has made the right one current.
    device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.set_device(device)
    if num_gpus < 1:
        torch.cuda.set_per_process_memory_fraction(num_gpus, device)
    torch.cuda.reset_peak_memory_stats(device)
    return device


def _flat(
    report: EpochReport, facts: dict[str, Any], data: TrialData, device: torch.device, workers: Workers
) -> Report:
    flat = {k: v for k, v in dataclasses.asdict(report).items() if k != "valid"}
    flat |= {f"valid.{name}": value for name, value in report.valid.items()}
    flat["device_seconds"] = workers.size * (report.seconds + report.eval_seconds)
    flat["milliseconds_per_user"] = 1e3 * report.eval_seconds / max(1, len(data.valid_ranker.user_id_U))
    flat["peak_memory_bytes"] = (
        torch.cuda.max_memory_allocated(device)
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return flat | facts
