import os
from collections.abc import Iterator

import pytest
import torch

# Read when Ray is first imported, by whatever test module that is; no token file in the home of who tests.
os.environ["RAY_AUTH_MODE"] = "disabled"


@pytest.fixture(autouse=True)
def _denormals_again() -> Iterator[None]:
    """Training flushes them for good in its thread; Hypothesis draws them."""
    yield
    torch.set_flush_denormal(False)
