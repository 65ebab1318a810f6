"""report.html: one study, or several side by side, as one file that works without a network.

A theme is a module, its section and the figure in it: history, curves, cost. `figure` and `html` hold what
they share, `content` what they read, `page` the file around them.
"""

from seqsweep.results.report.write import write_comparison, write_report

__all__ = ["write_comparison", "write_report"]
