"""The models a study can search over; one architecture a file, each with its Config."""

from models.interface import ModelConfig, SequenceModel
from models.sasrec import SASRec

MODELS: dict[str, type[SequenceModel]] = {"sasrec": SASRec}

__all__ = ["MODELS", "ModelConfig", "SequenceModel"]
