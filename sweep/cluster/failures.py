"""Why a worker's attempt ended: from Ray's error to a word that the study knows."""

from __future__ import annotations

import re

from ray import cloudpickle
from ray._private.state import actors
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError
from ray.tune.experiment import Trial

from seqsweep.sweep.errors import CANNOT_WRITE
from seqsweep.sweep.storage.bucket import StorageError
from seqsweep.sweep.study.failure import Failure

_ANSI_COLOR = re.compile(r"\x1b\[\d+m")


def read_failure(trial: Trial) -> Failure:
    """What Tune kept of it. There is no error if a reused worker could not be reset: nothing was run then."""
    if trial.pickled_error_file is None:
        return Failure("interrupted", "its worker could not be reset", "")
    try:
        with open(trial.pickled_error_file, "rb") as file:
            return classify(cloudpickle.load(file))
    # Unpickling runs the user's own exception classes, which may raise anything; the text is there as well.
    except Exception as error:
        with open(trial.error_file) as text_file:
            text = text_file.read()
        return Failure("error", f"an exception that can't be unpickled here ({error})", text)


def classify(error: BaseException) -> Failure:
    cause = error.cause if isinstance(error, RayTaskError) else error  # a trial's own workers may die too
    if isinstance(cause, RayActorError) and not cause.actor_init_failed:
        return Failure("node_lost" if lost_its_node(cause) else "interrupted", str(cause), "")
    message = f"{type(cause).__name__}: {cause}"
    return Failure(_error_class(cause), message, _ANSI_COLOR.sub("", str(error)))


def lost_its_node(error: RayActorError) -> bool:
    """Whether the worker went with its node, or out of reach with it; else it died by itself.

    Ray's error says so in its text alone, but Ray keeps the reason of each actor's death. Where a worker
    can't be reached and its node has not reported its death, the node itself is silent.
    """
    if error.preempted or isinstance(error, ActorUnavailableError):
        return True
    if error.actor_id is None:
        return False
    cause = actors(error.actor_id).get("DeathCause")  # not public
    if cause is None:
        return False
    context = cause.actor_died_error_context
    return bool(context.reason == context.NODE_DIED)


def _error_class(cause: BaseException) -> str:
    if isinstance(cause, FloatingPointError):
        return "diverged"
    if isinstance(cause, OSError) and cause.errno in CANNOT_WRITE:
        return "cannot_write"
    if isinstance(cause, StorageError):
        return "cannot_write"
    # By name, so that the driver need not import Torch: torch.OutOfMemoryError.
    names = {parent.__name__ for parent in type(cause).__mro__}
    return "out_of_memory" if names & {"OutOfMemoryError", "MemoryError"} else "error"
