import pytest
import torch
from ray.core.generated.common_pb2 import ActorDeathCause  # type: ignore[attr-defined]
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from seqsweep.sweep.cluster import failures
from seqsweep.sweep.cluster.failures import classify
from seqsweep.sweep.cluster.several_workers import first_cause
from seqsweep.sweep.storage.bucket import StorageError


class CudaError(torch.OutOfMemoryError):
    pass


def raised_in_a_worker(cause: Exception) -> RayTaskError:
    return RayTaskError("train", f"{type(cause).__name__}: {cause}", cause)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("cause", "error_class"),
    [
        (FloatingPointError("loss is nan"), "diverged"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (CudaError("of a subclass"), "out_of_memory"),
        (MemoryError("of the host"), "out_of_memory"),
        (StorageError("no answer"), "cannot_write"),
        (ZeroDivisionError("1 / 0"), "error"),
        (RuntimeError("CUDA error"), "error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_a_trial_raised(cause: Exception, error_class: str) -> None:
    failure = classify(raised_in_a_worker(cause))
    assert failure.error_class == error_class and not failure.is_interruption
    assert failure.message == f"{type(cause).__name__}: {cause}"
    assert str(cause) in failure.traceback and "\x1b" not in failure.traceback


@pytest.mark.parametrize(
    ("error", "error_class"),
    [
        (ActorDiedError(), "interrupted"),
        (ActorUnavailableError("no answer", None), "node_lost"),
        (RayActorError(preempted=True), "node_lost"),
    ],
)
def test_a_lost_worker_is_not_the_trials_doing(error: RayActorError, error_class: str) -> None:
    failure = classify(error)
    assert failure.error_class == error_class and failure.is_interruption


@pytest.mark.parametrize(
    ("reason", "error_class"), [("NODE_DIED", "node_lost"), ("WORKER_DIED", "interrupted")]
)
def test_ray_knows_whether_the_node_was_lost_too(
    monkeypatch: pytest.MonkeyPatch, reason: str, error_class: str
) -> None:
    cause = ActorDeathCause()
    cause.actor_died_error_context.reason = type(cause.actor_died_error_context).Reason.Value(reason)
    monkeypatch.setattr(failures, "actors", lambda actor_id: {"DeathCause": cause})
    error = ActorDiedError()
    error.actor_id = "0f"
    assert classify(error).error_class == error_class


def test_a_worker_that_can_not_even_start_is_an_error_of_the_code() -> None:
    failure = classify(ActorDiedError(raised_in_a_worker(ImportError("no module named models"))))
    assert failure.error_class == "error" and not failure.is_interruption


def test_the_cause_is_found_in_what_ray_train_raises() -> None:
    diverged, dead = FloatingPointError("loss is nan"), ActorDiedError()
    lost = RayActorError(preempted=True)
    closed = RuntimeError("connection closed by peer")
    for raised, cause in [
        (WorkerGroupError("text", {1: diverged}), diverged),
        (WorkerGroupError("text", {0: closed, 1: WorkerHealthCheckFailedError("text", dead)}), dead),
        (WorkerGroupError("text", {0: dead, 1: lost}), lost),
        (ControllerError(raised_in_a_worker(diverged)), diverged),
        (closed, closed),
    ]:
        assert first_cause(raised) is cause
    failure = classify(raised_in_a_worker(dead))
    assert failure.error_class == "interrupted" and failure.is_interruption
