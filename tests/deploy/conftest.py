from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["cluster-local", "cluster-aws"])
def cluster(request: pytest.FixtureRequest) -> dict[str, Any]:
    """An example for Ray's cluster launcher, as it is written."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / f"examples/{request.param}.yaml").read_text())
    return loaded


@pytest.fixture
def aws() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "examples/cluster-aws.yaml").read_text())
    return loaded
