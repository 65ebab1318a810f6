"""The models a study can search over; one architecture a file, each with its Config."""

from models.bert4rec import BERT4Rec
from models.gru4rec import GRU4Rec
from models.hstu import HSTU
from models.interface import ModelConfig, SequenceModel
from models.lrurec import LRURec
from models.sasrec import SASRec
from models.tisasrec import TiSASRec

MODELS: dict[str, type[SequenceModel]] = {
    "bert4rec": BERT4Rec,
    "gru4rec": GRU4Rec,
    "hstu": HSTU,
    "lrurec": LRURec,
    "sasrec": SASRec,
    "tisasrec": TiSASRec,
}

__all__ = ["MODELS", "ModelConfig", "SequenceModel"]
