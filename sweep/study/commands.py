"""What a user asks of a study while it runs, or when nobody runs it.

A study has one writer. If a driver is running, a command is a file renamed into `commands/` of the study's
folder, which the driver takes up within a second; else the command takes the study's lock and writes itself.
Either way the answer is an attribute of the study, recorded together with what was done: a command that was
interrupted is done once, however often it is taken up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seqsweep.results.files import replace_text
from seqsweep.results.schema import Hparam
from seqsweep.search_spaces.branches import Space
from seqsweep.sweep.errors import StudyError, UserError
from seqsweep.sweep.study.attributes import StudyAttributes
from seqsweep.sweep.study.journal import StudyLockedError
from seqsweep.sweep.study.study import Study

FOLDER = "commands"
SECONDS_BETWEEN = 0.5  # between two looks of the driver
POLL_S = 0.2
TIMEOUT_S = 30.0

MakeSpace = Callable[[StudyAttributes], Space]


class Command(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Literal["stop", "stop_trial", "extend", "retry", "enqueue"]
    trials: tuple[int, ...] = ()  # stop_trial: one; retry: none means all that failed
    num_trials: int = 0  # extend
    points: tuple[dict[str, Hparam], ...] = ()  # enqueue: in the space's own names
    id: str = Field(default_factory=lambda: uuid4().hex)

    @property
    def attribute(self) -> str:
        """Of the study: its answer."""
        return f"command.{self.id}"


class Inbox:
    """The driver's side."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._looked_at = -float("inf")

    def step(self, study: Study) -> None:
        """Called all the time: do what lies there."""
        if time.monotonic() - self._looked_at < SECONDS_BETWEEN:
            return
        self._looked_at = time.monotonic()
        if not self._folder.is_dir():
            return
        for path in sorted(self._folder.glob("*.json")):
            try:
                command = Command.model_validate_json(path.read_text(encoding="utf-8"))
            except (ValidationError, UnicodeDecodeError):
                path.rename(path.with_suffix(".refused"))
                continue
            do_once(study, command)
            path.unlink(missing_ok=True)


def execute(folder: Path, command: Command, make_space: MakeSpace | None = None) -> str:
    """Have the command done, by the driver or here; what was done, as a sentence.

    Raises StudyError for a command that can't be done, UserError if a driver does not answer.
    """
    reader = Study.read(folder)
    posted: Path | None = None
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                with Study.reopen(folder, make_space) as study:
                    answer = do_once(study, command, by_driver=False)
                    break
            except StudyLockedError:
                posted = posted or post(folder, command)
            if (there := reader.answer_to(command.attribute)) is not None:
                answer = there
                break
            time.sleep(POLL_S)
        else:
            raise UserError(
                f"the driver of {folder} has not answered for {TIMEOUT_S:.0f} s. The command lies in "
                f"{posted} and will be taken up when it does; remove it to take it back"
            )
    finally:
        reader.close()
    if posted is not None:
        posted.unlink(missing_ok=True)
    if not answer["done"]:
        raise StudyError(answer["text"])
    return str(answer["text"])


def post(folder: Path, command: Command) -> Path:
    path = folder / FOLDER / f"{time.time_ns()}-{command.id}.json"
    path.parent.mkdir(exist_ok=True)
    replace_text(path, command.model_dump_json())
    return path


def do_once(study: Study, command: Command, *, by_driver: bool = True) -> dict[str, Any]:
    """The answer: {"done": .., "text": ..}."""
    if (there := study.answer_to(command.attribute)) is not None:
        return there
    with study.transaction():
        try:
            answer = {"done": True, "text": _do(study, command, by_driver)}
        except StudyError as error:  # raised before anything was changed
            answer = {"done": False, "text": str(error)}
        study.answer(command.attribute, answer)
    return answer


def _do(study: Study, command: Command, by_driver: bool) -> str:
    match command.action:
        case "stop":
            if not by_driver:
                raise StudyError(f"no driver is running study {study.name!r}, so there is nothing to stop")
            study.stop("the stop command")
            return f"study {study.name!r} stops; trials that run go on from their last epoch next time"
        case "stop_trial":
            (number,) = command.trials
            study.stop_trial(number)
            return f"trial {number} is stopped"
        case "extend":
            study.extend(command.num_trials)
            return f"the budget is {_trials(study.num_trials)}"
        case "retry":
            new = study.retry(*command.trials)
            return f"queued again as {_numbers(new)}" if new else "no failed trial is left to try again"
        case "enqueue":
            study.enqueue(*command.points)
            return f"{_trials(len(command.points))} queued; the budget is {_trials(study.num_trials)}"


def _trials(number: int) -> str:
    return f"{number} trial{'' if number == 1 else 's'}"


def _numbers(trial_numbers: list[int]) -> str:
    return f"trial{'' if len(trial_numbers) == 1 else 's'} {', '.join(map(str, trial_numbers))}"
