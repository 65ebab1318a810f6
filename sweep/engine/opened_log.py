"""A log, opened once for all trials of a study: its sequences, its split, and the ranker of validation."""

import dataclasses

import torch

from seqsweep.data_pipeline.split import Split
from seqsweep.data_pipeline.store import SequenceLog
from seqsweep.data_pipeline.views.device import DeviceSequences
from seqsweep.sweep.engine.ranking import Ranker
from seqsweep.sweep.settings.protocol import ProtocolConfig


@dataclasses.dataclass(frozen=True)
class TrialData:
    """The opened log of this process, kept for its next trial."""

    log: SequenceLog
    sequences: DeviceSequences
    split: Split
    valid_ranker: Ranker


def open_data(
    log: SequenceLog, protocol: ProtocolConfig, device: torch.device, split: Split | None = None
) -> TrialData:
    """`split`: the protocol's, where it is open already."""
    split = protocol.open_split(log) if split is None else split
    sequences = DeviceSequences(log, device, split.train_end_U)
    return TrialData(log, sequences, split, Ranker(log, sequences, split.valid, protocol, "valid"))
