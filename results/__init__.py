"""What a study leaves behind: metrics, tables, the exported model."""

from results.leaderboard import load_leaderboard

__all__ = ["load_leaderboard"]
