"""What the driver asks of a cluster's nodes. tests/cluster has real ones."""

from pathlib import Path
from typing import Any

import pytest
import ray

from seqsweep.sweep.cluster import nodes as nodes_module
from seqsweep.sweep.cluster.nodes import PROBE, NodeWatch, check_room
from seqsweep.sweep.errors import ClusterError

GIB = 1024**3


@pytest.fixture
def two_nodes(ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one there is, shown as two."""
    real = nodes_module.alive_nodes
    monkeypatch.setattr(nodes_module, "alive_nodes", lambda: real() * 2)


def test_a_single_node_is_not_asked(ray_address: str, tmp_path: Path) -> None:
    with NodeWatch(tmp_path) as watch:
        assert list(tmp_path.iterdir()) == []
        assert watch.step() is None


def test_nodes_that_see_the_files(two_nodes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes_module, "SECONDS_BETWEEN", 0.0)
    (tmp_path / f"{PROBE}-of-a-driver-that-was-killed").write_text("")
    with NodeWatch(tmp_path) as watch:
        assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == [PROBE]
        assert watch.step() is None
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_sees_other_files(
    two_nodes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a folder of the same name on another disk."""
    monkeypatch.setattr(nodes_module, "write_whole", lambda path, write: path.write_text("of another driver"))
    with pytest.raises(ClusterError, match=r"does not see the study's files in .*--runs, or .*--storage"):
        NodeWatch(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_joins_is_asked(
    ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes_module, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(nodes_module, "SECONDS_TO_SEE", 0.6)
    real = nodes_module.alive_nodes
    with NodeWatch(tmp_path) as watch:
        monkeypatch.setattr(nodes_module, "alive_nodes", lambda: real() * 2)
        monkeypatch.setattr(nodes_module, "write_whole", lambda path, write: None)
        problem = watch.step()
        while problem is None and any(watch._asked.values()):
            problem = watch.step()
    assert "FileNotFoundError" in (problem or "")


def test_a_node_that_can_not_run_seqsweep(
    two_nodes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, timeout_s: float) -> None:
        raise ModuleNotFoundError("No module named 'sweep'")

    monkeypatch.setattr(nodes_module, "_read_probe", fail)
    words = r"can't run seqsweep .*No module named 'sweep'.*: install the same"
    with pytest.raises(ClusterError, match=words):
        NodeWatch(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("log_bytes", "store", "free", "outcome"),
    [
        (GIB, 4 * GIB, 3 * GIB, None),
        (2 * GIB, 4 * GIB, GIB, "some of it is spilled"),
        (4 * GIB, 4 * GIB, 4 * GIB, "ray start --object-store-memory 5"),
    ],
)
def test_room_for_the_log(
    log_bytes: int, store: int, free: int, outcome: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    node: dict[str, Any] = {"NodeID": "1", "NodeName": "one", "Resources": {"object_store_memory": store}}
    monkeypatch.setattr(nodes_module, "alive_nodes", lambda: [node])
    available = {"1": {"object_store_memory": free}}
    monkeypatch.setattr(ray._private.state, "available_resources_per_node", lambda: available)
    if log_bytes > 0.9 * store:
        with pytest.raises(ClusterError, match=outcome):
            check_room(log_bytes)
    else:
        warning = check_room(log_bytes)
        assert (outcome is None) == (warning is None) and (outcome or "") in (warning or "")


def test_the_real_store_has_room(ray_address: str) -> None:
    assert check_room(1024) is None
    with pytest.raises(ClusterError, match=r"the log takes 1024\.00 GiB"):
        check_room(1024 * GIB)
