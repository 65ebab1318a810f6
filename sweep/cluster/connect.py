"""The only `ray.init`: one that lives and dies with the command, or a running cluster that is joined."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import ray
from ray.autoscaler.sdk import request_resources

from seqsweep.sweep.cluster.driver_lock import hold_driver_lock
from seqsweep.sweep.cluster.nodes import alive_nodes
from seqsweep.sweep.errors import ClusterError, first_line
from seqsweep.sweep.settings.study_config import HardwareConfig

SECONDS_BETWEEN_LOOKS = 2.0


@dataclass(frozen=True)
class Resources:
    """What one trial takes: so much for each of its workers, which may lie on several nodes."""

    cpus: float
    gpus: float
    num_workers: int = 1

    def as_dict(self) -> dict[str, float]:
        """Of Tune's function. That of several workers only waits for them, and they bring their own."""
        if self.num_workers > 1:
            return {"memory": 1}  # a byte: Tune takes no function without resources
        return self.of_worker

    @property
    def of_worker(self) -> dict[str, float]:
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}


@contextmanager
def connect(
    hardware: HardwareConfig, say: Callable[[str], None], *, study: str | None = None
) -> Iterator[Resources]:
    """Start or join Ray and say what a trial takes there; leave it as it was found.

    For a `study` on a cluster that is joined the driver of another one is waited for. Raises ClusterError
    where Ray does not start, no cluster answers, or no node could ever hold one trial.
    """
    if hardware.address is not None and hardware.address.startswith("ray://"):
        raise ClusterError(
            f"address must not be a Ray client address, got {hardware.address}: run the command on the head "
            "node with address=auto"
        )
    if hardware.wait_minutes and hardware.address is None:
        raise ClusterError(
            f"wait_minutes={hardware.wait_minutes:g} is for a cluster that has an autoscaler, and no address "
            "is given: add --address auto on its head, or leave --wait-minutes out"
        )
    if hardware.address is None:
        _start()
    else:
        _join(hardware.address)
    try:
        turn = nullcontext() if hardware.address is None or study is None else hold_driver_lock(study, say)
        with turn, _room_for_trials(hardware, say) as resources:
            yield resources
    finally:
        ray.shutdown()


def _start() -> None:
    try:
        _init("local", include_dashboard=False)
    except Exception as error:  # Ray raises OSError, RuntimeError and plain Exception, all for this machine
        raise ClusterError(
            f"Ray can't be started here ({first_line(error)}): `seqsweep doctor` says what is missing"
        ) from error


def _join(address: str) -> None:
    try:
        _init(address)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ClusterError(
            f"no Ray cluster answers at address={address!r} ({first_line(error)}): start one with "
            "`ray start --head`, or leave the address out to run on this machine alone"
        ) from error


def _init(address: str, *, include_dashboard: bool | None = None) -> None:
    ray.init(
        address=address,
        log_to_driver=False,
        logging_level=logging.CRITICAL,
        configure_logging=True,
        include_dashboard=include_dashboard,
    )


@contextmanager
def _room_for_trials(hardware: HardwareConfig, say: Callable[[str], None]) -> Iterator[Resources]:
    """With `wait_minutes` ask an autoscaler for nodes, and wait for the first."""
    resources = trial_resources(hardware, _nodes())
    if not hardware.wait_minutes:
        if hardware.address is not None:
            request_resources(bundles=[])  # what a driver that was killed has left
        check_satisfiable(resources, _nodes())
        yield resources
        return
    wanted = (hardware.max_concurrent or 1) * resources.num_workers
    request_resources(bundles=[resources.of_worker] * wanted)
    deadline, told = time.monotonic() + 60 * hardware.wait_minutes, False
    try:
        while True:
            try:
                resources = trial_resources(hardware, _nodes())
                check_satisfiable(resources, _nodes())
                break
            except ClusterError as error:
                if time.monotonic() > deadline:
                    raise
                if not told:
                    say(f"waiting for a node: {error}")
                told = True
                time.sleep(SECONDS_BETWEEN_LOOKS)
        yield resources
    finally:
        request_resources(bundles=[])  # so that what is idle may go


def trial_resources(hardware: HardwareConfig, nodes: list[Mapping[str, float]]) -> Resources:
    num_gpus = sum(node.get("GPU", 0) for node in nodes)
    gpus = hardware.gpus_per_trial
    if gpus is None:
        gpus = float(hardware.num_workers) if num_gpus else 0.0
    gpus /= hardware.num_workers
    cpus = hardware.cpus_per_trial
    if cpus is None:
        with_gpus = [(node, _fractions(node.get("GPU", 0), gpus)) for node in nodes] if gpus else []
        shares = [node.get("CPU", 0) // num_fit for node, num_fit in with_gpus if num_fit]
        cpus = max(1.0, min(shares, default=1.0))  # the poorest node's, so that all GPUs are used
    return Resources(cpus, gpus, hardware.num_workers)


def check_satisfiable(resources: Resources, nodes: list[Mapping[str, float]]) -> None:
    num_fit = sum(_fits(resources, node) for node in nodes)
    there = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
    if resources.num_workers > 1 and num_fit < resources.num_workers:
        raise ClusterError(
            f"the cluster can't hold a trial of workers_per_trial={resources.num_workers}, each on "
            f"{resources.cpus:g} CPUs and {resources.gpus:g} GPUs, but {num_fit} such workers: "
            f"the nodes have {there or 'nothing'}; ask for less"
        )
    if not num_fit:
        raise ClusterError(
            f"no node can hold a trial of cpus_per_trial={resources.cpus:g} and "
            f"gpus_per_trial={resources.gpus:g}: the nodes have {there or 'nothing'}; ask for less, or give "
            "--wait-minutes where an autoscaler adds nodes"
        )


def concurrency(resources: Resources, limit: int | None) -> int:
    """How many trials the cluster holds as it is now; nodes come and go."""
    total = sum(_fits(resources, node) for node in _nodes()) // resources.num_workers
    return total if limit is None else min(total, limit)


def _fits(resources: Resources, node: Mapping[str, float]) -> int:
    by_cpu = int(node.get("CPU", 0) // resources.cpus)
    return by_cpu if not resources.gpus else min(by_cpu, _fractions(node.get("GPU", 0), resources.gpus))


def _fractions(gpus: float, share: float) -> int:
    """A fraction must lie on one GPU; whole GPUs add up."""
    return int(gpus) * int(1 / share + 1e-9) if share < 1 else int(gpus // share)


def _nodes() -> list[Mapping[str, float]]:
    return [node["Resources"] for node in alive_nodes()]
