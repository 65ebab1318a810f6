"""report.html: one study, or several side by side, as one file that works without a network."""

from results.report.write import write_comparison, write_report

__all__ = ["write_comparison", "write_report"]
