import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Read when Ray is first imported, by whatever test module that is; no token file in the home of who tests.
os.environ["RAY_AUTH_MODE"] = "disabled"

# Folders and files that start Ray, processes or long trainings: `make test-fast` leaves them out.
SLOW = (
    *("benchmarks/", "browser/", "examples/", "faults/", "data_pipeline/on_ray/", "sweep/cluster/"),
    *("sweep/cli/test_model.py", "sweep/cli/test_run.py", "sweep/engine/test_time_pays.py", "sweep/jobs/"),
    *("sweep/driver/test_bucket_mirror.py", "sweep/driver/test_default_study.py"),
    *("sweep/driver/test_older_studies.py", "test_one_name.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if str(item.path.relative_to(here)).startswith(SLOW):
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def _denormals_again() -> Iterator[None]:
    """Training flushes them for good in its thread; Hypothesis draws them."""
    yield
    torch.set_flush_denormal(False)
