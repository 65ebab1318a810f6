from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.nodes import Network, why_not


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    missing = why_not()
    if missing is not None:
        pytest.skip(missing)
    with Network(tmp_path) as network:
        yield network
