"""Why an attempt at a trial ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    error_class: str  # interrupted, node_lost, diverged, out_of_memory, cannot_write, error
    message: str
    traceback: str

    @property
    def is_interruption(self) -> bool:
        """Not the trial's doing: it may go on elsewhere."""
        return self.error_class in ("interrupted", "node_lost")
