import logging
import shutil
import tempfile
from collections.abc import Iterator

import pytest
import ray
import torch


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """One local Ray for all tests, with two CPUs; its address, for drivers in processes of their own."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: Ray's socket paths have a limit
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        _temp_dir=folder,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny models: threads would only wait for each other."""
    torch.set_num_threads(1)
