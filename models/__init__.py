"""The models a study can search over; one architecture a file, each with its Config."""

if __name__ == "models":  # two names would mean two of each class
    raise ImportError("models is a part of seqsweep: import seqsweep.models")

from seqsweep.models.bert4rec import BERT4Rec
from seqsweep.models.gru4rec import GRU4Rec
from seqsweep.models.hstu import HSTU
from seqsweep.models.interface import ModelConfig, SequenceModel
from seqsweep.models.lrurec import LRURec
from seqsweep.models.sasrec import SASRec
from seqsweep.models.tisasrec import TiSASRec

MODELS: dict[str, type[SequenceModel]] = {
    "bert4rec": BERT4Rec,
    "gru4rec": GRU4Rec,
    "hstu": HSTU,
    "lrurec": LRURec,
    "sasrec": SASRec,
    "tisasrec": TiSASRec,
}

__all__ = ["MODELS", "ModelConfig", "SequenceModel"]
