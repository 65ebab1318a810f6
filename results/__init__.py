"""What a study leaves behind: metrics, tables, the exported model."""

if __name__ == "results":  # two names would mean two of each class
    raise ImportError("results is a part of seqsweep: import seqsweep.results")

from seqsweep.results.compare import compare_studies
from seqsweep.results.leaderboard import load_epochs, load_finalists, load_leaderboard

__all__ = ["compare_studies", "load_epochs", "load_finalists", "load_leaderboard"]
