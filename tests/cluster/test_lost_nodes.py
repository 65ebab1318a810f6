"""A study on three machines: one loses power, one is cut off and comes back, one joins."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from seqsweep.results.leaderboard import load_leaderboard
from seqsweep.sweep.storage.study_folder import JOURNAL_NAME
from seqsweep.sweep.study.study import Study
from tests.cluster.nodes import Network, Node, wait_until
from tests.cluster.ray_nodes import Cluster, start_head, start_worker, wait_for, wait_to_join
from tests.faults.campaign import Seconds, Tally, check_end, look, seconds_in_checkpoint

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

NAME = "lost"
# Trials must last longer than a worker takes to start: else Tune gives them to a worker that is free before.
EPOCHS = 40
SMALL = (
    "--max-users",
    "3000",
    "--fix",
    "hidden_dim=16",
    "--fix",
    "max_len=20",
    "--fix",
    "residual=plain",
    "--fix",
    "loss=ce",
)
WHOLE = ("--pruner", "none", "--patience", "1000", "--max-epochs", str(EPOCHS))


class Watch:
    """What the study's files say, in between and in the end: no epoch that was saved is trained again."""

    def __init__(self, shared: Path) -> None:
        self.folder = shared / "runs" / NAME
        self._tally, self._ended, self._saved = Tally(), dict[int, tuple[str, float | None]](), Seconds()

    def look(self) -> None:
        look(self.folder, self._ended, self._saved, self._tally)

    def problems(self) -> list[str]:
        self.look()
        check_end(self.folder, self._tally)
        return self._tally.problems

    def running_on(self, node: Node) -> int | None:
        """The trial that last reported from there, if it runs and has a checkpoint to go on from."""
        if not (self.folder / JOURNAL_NAME).exists():
            return None
        with Study.read(self.folder) as study:
            running = [r.trial for r in study.records() if r.state == "running" and r.node == node.name]
        saved = [
            trial for trial in running if trial is not None and seconds_in_checkpoint(self.folder, trial)
        ]
        return saved[-1] if saved else None

    def wait_for_trial_on(self, node: Node) -> int:
        found: list[int | None] = []

        def is_there() -> bool:
            found.append(self.running_on(node))
            return found[-1] is not None

        wait_until(is_there, f"a trial runs on {node.name}", timeout=180)
        assert found[-1] is not None
        return found[-1]


def start_driver(head: Node, num_trials: int) -> subprocess.Popen[str]:
    run = ("python", "-m", "seqsweep", "run", "--name", NAME, "--data", "demo", "--address", "auto")
    folders = ("--runs", str(head.shared / "runs"), "--cache", str(head.shared / "cache"))
    return head.start(
        *(*run, "--trials", str(num_trials), *SMALL, *WHOLE, "--finalists", "0", *folders),
        log=head.shared / "driver.log",
    )


def runs_on(*nodes: Node) -> Callable[[Cluster], bool]:
    """A trial on each, and none elsewhere."""
    addresses = sorted(node.address for node in nodes)

    def condition(cluster: Cluster) -> bool:
        return sorted(cluster.workers) == addresses

    return condition


@pytest.mark.parametrize("num_trials", [8, pytest.param(24, marks=pytest.mark.long)])
def test_a_study_outlives_lost_nodes(network: Network, num_trials: int) -> None:
    head, a, b = (network.add(name) for name in ("head", "a", "b"))
    start_head(head)
    for node in (a, b):
        start_worker(node, head, num_cpus=1)
    wait_to_join(head, a, b)
    watch = Watch(network.shared)
    driver = start_driver(head, num_trials)

    lost = watch.wait_for_trial_on(a)
    wait_for(head, runs_on(a, b), "trials run on a and b")
    watch.look()
    a.lose_power()
    wait_for(head, runs_on(b), "trials run on b alone")

    c = network.add("c")
    start_worker(c, head, num_cpus=1)
    wait_for(head, runs_on(b, c), "trials run on b and c")

    cut_off = watch.wait_for_trial_on(b)
    watch.look()
    b.unplug()
    wait_for(head, runs_on(c), "trials run on c alone")
    b.plug_in()
    wait_to_join(head, b)

    wait_until(lambda: driver.poll() is not None, "the driver has ended", timeout=900)
    assert driver.returncode == 0, (network.shared / "driver.log").read_text()
    assert watch.problems() == []
    with Study.read(watch.folder) as study:
        for trial in (lost, cut_off):
            attributes = study.trial(trial).user_attrs
            assert attributes["attempts"] > 1 and attributes.get("interruptions", []) == []
            assert study.record(trial).epochs == EPOCHS
    frame = load_leaderboard(watch.folder).dropna(subset="trial")
    assert sorted(frame["trial"]) == list(range(num_trials)) and set(frame["state"]) == {"complete"}
    assert {"b", "c"} <= set(frame["node"])
