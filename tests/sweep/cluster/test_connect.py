"""What a trial takes, and whether a cluster can hold it."""

import pytest
import ray

from seqsweep.sweep.cluster.connect import (
    Resources,
    _room_for_trials,
    check_satisfiable,
    connect,
    trial_resources,
)
from seqsweep.sweep.errors import ClusterError, ConfigError, first_line
from seqsweep.sweep.settings.study_config import HardwareConfig, StudyConfig

CONNECT = "seqsweep.sweep.cluster.connect"

CPU_NODE = {"CPU": 8.0}
GPU_NODE = {"CPU": 16.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("hardware", "expected"),
    [
        ({}, Resources(8, 1)),
        ({"gpus_per_trial": 0.5}, Resources(4, 0.5)),
        ({"gpus_per_trial": 2}, Resources(8, 1, 2)),
        ({"gpus_per_trial": 4, "cpus_per_trial": 3}, Resources(3, 1, 4)),
        ({"workers_per_trial": 2}, Resources(8, 1, 2)),
        ({"workers_per_trial": 2, "gpus_per_trial": 1}, Resources(4, 0.5, 2)),
        ({"workers_per_trial": 3, "gpus_per_trial": 0}, Resources(1, 0, 3)),
    ],
)
def test_what_each_worker_of_a_trial_takes(hardware: dict[str, float], expected: Resources) -> None:
    assert trial_resources(HardwareConfig(**hardware), [GPU_NODE, GPU_NODE]) == expected


def test_cores_of_nodes_without_gpus_are_not_counted() -> None:
    small = {"CPU": 4.0, "GPU": 1.0}
    assert trial_resources(HardwareConfig(), [CPU_NODE, small]) == Resources(4, 1)
    assert trial_resources(HardwareConfig(), [GPU_NODE, small]) == Resources(4, 1)
    assert trial_resources(HardwareConfig(gpus_per_trial=0.5), [CPU_NODE, small]) == Resources(2, 0.5)


def test_without_gpus_a_worker_takes_one_core() -> None:
    assert trial_resources(HardwareConfig(workers_per_trial=2), [CPU_NODE]) == Resources(1, 0, 2)


@pytest.mark.parametrize(
    ("hardware", "message"),
    [
        ({"gpus_per_trial": 1.5}, "gpus_per_trial must be whole where it is above 1, got 1.5"),
        ({"gpus_per_trial": 4, "workers_per_trial": 2}, "got gpus_per_trial=4 and workers_per_trial=2"),
        ({"workers_per_trial": 0}, "workers_per_trial"),
    ],
)
def test_what_can_not_be(hardware: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StudyConfig.build({"hardware": hardware})


def test_workers_may_lie_on_several_nodes_and_must_all_find_a_place() -> None:
    check_satisfiable(Resources(8, 1, 4), [GPU_NODE, GPU_NODE])
    with pytest.raises(ClusterError) as caught:
        check_satisfiable(Resources(8, 1, 5), [GPU_NODE, GPU_NODE])
    assert str(caught.value) == (
        "the cluster can't hold a trial of workers_per_trial=5, each on 8 CPUs and 1 GPUs, but 4 such "
        "workers: the nodes have 16 CPUs and 2 GPUs; 16 CPUs and 2 GPUs; ask for less"
    )
    with pytest.raises(ClusterError, match="no node can hold a trial of cpus_per_trial=9"):
        check_satisfiable(Resources(9, 0), [CPU_NODE, CPU_NODE])


@pytest.mark.parametrize(
    "error",
    [
        Exception("The current node timed out during startup.\nSee the logs."),
        OSError("AF_UNIX path length cannot exceed 107 bytes"),
        NotADirectoryError(20, "Not a directory"),
        ValueError("no"),
    ],
)
def test_a_ray_that_does_not_start_is_one_message(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ClusterError) as caught, connect(HardwareConfig(), print):
        pass
    assert str(caught.value) == (
        f"Ray can't be started here ({first_line(error)}): `seqsweep doctor` says what is missing"
    )


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise ConnectionError("nobody")

    monkeypatch.setattr(ray, "init", refuse)
    with (
        pytest.raises(
            ClusterError, match=r"answers at address='h:1' \(nobody\): start one .* leave the addr"
        ),
        connect(HardwareConfig(address="h:1"), print),
    ):
        pass


def test_an_autoscaler_is_asked_and_its_node_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[dict[str, float]]] = []
    seen = iter([[CPU_NODE], [CPU_NODE], [CPU_NODE], [CPU_NODE, {"CPU": 4.0, "GPU": 1.0}]])
    latest: list[dict[str, float]] = []

    def nodes() -> list[dict[str, float]]:
        latest[:] = next(seen, latest)
        return list(latest)

    monkeypatch.setattr(f"{CONNECT}._nodes", nodes)
    monkeypatch.setattr(f"{CONNECT}.SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(
        "seqsweep.sweep.cluster.connect.request_resources", lambda bundles: asked.append(bundles)
    )
    said: list[str] = []
    hardware = HardwareConfig(gpus_per_trial=1, cpus_per_trial=2, max_concurrent=3, wait_minutes=1)
    with _room_for_trials(hardware, said.append) as resources:
        assert resources == Resources(2, 1)
        assert asked == [[{"CPU": 2, "GPU": 1}] * 3]
    assert asked[1:] == [[]]  # taken back
    assert len(said) == 1 and said[0].startswith("waiting for a node: no node can hold a trial")


def test_a_node_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[dict[str, float]]] = []
    monkeypatch.setattr(f"{CONNECT}._nodes", lambda: [CPU_NODE])
    monkeypatch.setattr(f"{CONNECT}.SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(
        "seqsweep.sweep.cluster.connect.request_resources", lambda bundles: asked.append(bundles)
    )
    hardware = HardwareConfig(gpus_per_trial=1, wait_minutes=0.001)
    with pytest.raises(ClusterError, match="no node can hold"):
        _room_for_trials(hardware, print).__enter__()
    assert asked == [[{"CPU": 1.0, "GPU": 1.0}], []]
    with pytest.raises(ClusterError, match="--wait-minutes where an autoscaler adds nodes"):
        _room_for_trials(HardwareConfig(gpus_per_trial=1), print).__enter__()
    assert len(asked) == 2


def test_without_a_cluster_there_is_nothing_to_wait_for() -> None:
    with pytest.raises(ClusterError, match="wait_minutes=5 is for a cluster that has an autoscaler"):
        connect(HardwareConfig(wait_minutes=5), print).__enter__()
