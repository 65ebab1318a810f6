import pytest
import torch
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayTaskError

from sweep.failures import classify


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
        (ActorUnavailableError("no answer", None), "interrupted"),
        (RayActorError(preempted=True), "preempted"),
    ],
)
def test_a_lost_worker_is_not_the_trials_doing(error: RayActorError, error_class: str) -> None:
    failure = classify(error)
    assert failure.error_class == error_class and failure.is_interruption


def test_a_worker_that_can_not_even_start_is_an_error_of_the_code() -> None:
    failure = classify(ActorDiedError(raised_in_a_worker(ImportError("no module named models"))))
    assert failure.error_class == "error" and not failure.is_interruption
