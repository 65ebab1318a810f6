"""What a study leaves behind: metrics, tables, the exported model."""

from results.compare import compare_studies
from results.leaderboard import load_epochs, load_finalists, load_leaderboard

__all__ = ["compare_studies", "load_epochs", "load_finalists", "load_leaderboard"]
