"""What a driver shows while it runs: the terminal has one, a log file another."""

from typing import Protocol

from seqsweep.sweep.study.study import Study


class View(Protocol):
    """Where the driver says what it does."""

    def say(self, text: str) -> None: ...

    def step(self, study: Study) -> None: ...
