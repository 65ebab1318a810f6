"""What a trial takes, and whether a cluster can hold it."""

import pytest

from sweep.cluster import Resources, check_satisfiable, trial_resources
from sweep.config import HardwareConfig, StudyConfig
from sweep.errors import ClusterError, ConfigError

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
