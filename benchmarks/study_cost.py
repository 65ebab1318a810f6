"""What the driver of a long study pays: for a report, for a proposal, and for going on with what is there.

No Ray and no training: random objectives are reported in process. Most trials are proposed at random, which
is quick; TPE proposes NUM_TPE trials in a row at several sizes of the study. Times are of the wall; `cpu` is
the process's own, which neither the disk nor other processes change much. With --folder on a tmpfs the disk
is left out.

python -m benchmarks.study_cost [--trials 10000] [--pruner asha] [--folder FOLDER]
"""

import argparse
import math
import os
import resource
import statistics
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import Row, add_folder, show, write
from seqsweep.results.leaderboard import StudyFacts
from seqsweep.results.metrics import METRICS
from seqsweep.search_spaces import SEARCH_SPACES
from seqsweep.search_spaces.compose import compose
from seqsweep.sweep.driver.publish import Publisher
from seqsweep.sweep.settings.search import SearchConfig
from seqsweep.sweep.storage.study_folder import JOURNAL_NAME
from seqsweep.sweep.study.study import Study

NUM_TPE = 20  # proposals of TPE at each of its sizes
NUM_FSYNCS = 200
NUM_READS = 5
SHARES = (0.0, 0.1, 0.5, 1.0)  # of the trials, after which TPE is asked


@dataclass(frozen=True)
class Spent:
    wall_s: float
    cpu_s: float


@dataclass
class Times:
    """Of each call, by the number of trials that there were: rounded down to tenths, for TPE as it began."""

    report: defaultdict[int, list[Spent]] = field(default_factory=lambda: defaultdict(list))
    propose: defaultdict[int, list[Spent]] = field(default_factory=lambda: defaultdict(list))
    tpe: defaultdict[int, list[Spent]] = field(default_factory=lambda: defaultdict(list))


def open_study(folder: Path, trials: int, arguments: argparse.Namespace) -> Study:
    search = SearchConfig(
        trials=trials,
        sampler="random",
        pruner=arguments.pruner,
        grace_epochs=arguments.grace_epochs,
        max_epochs=arguments.max_epochs,
    )
    space = compose({"sasrec": SEARCH_SPACES["sasrec"]}, {"sasrec": {}})
    return Study.open(folder, name="cost", seed=0, search=search, space=space)


def epoch_report(epoch: int, objective: float, max_epochs: int) -> dict[str, Any]:
    """As large as that of a trial that trains."""
    return {
        "epoch": epoch,
        "loss": 6.1 - objective,
        "objective": objective,
        "lr": 1e-3,
        "best_epoch": epoch,
        "seconds": 1.0123456789,
        "eval_seconds": 0.1234567891,
        "last": epoch == max_epochs,
        **{f"valid.{name}": objective for name in METRICS},
        "device_seconds": 1.135802468,
        "milliseconds_per_user": 0.0512345678,
        "peak_memory_bytes": 512_345_088,
        "node": "node-of-a-cluster",
        "device": "cpu x 1",
        "num_parameters": 190_464,
    }


def drive(study: Study, sizes: list[int], arguments: argparse.Namespace) -> Times:
    """Run the study to its end, `--live` trials side by side."""
    times = Times()
    generator = np.random.default_rng(0)
    running: deque[tuple[int, int, float]] = deque()  # trial, epochs so far, what it comes to
    random_search = study.search
    num_started, tenth = 0, 0
    while study.has_more or running:
        while study.has_more and len(running) < arguments.live:
            size = next((size for size in sizes if size <= num_started < size + NUM_TPE), None)
            tenth = sizes[-1] * (10 * num_started // sizes[-1]) // 10
            update = {} if size is None else {"sampler": "tpe"}
            study.search = random_search.model_copy(update=update)
            with timed(times.propose[tenth] if size is None else times.tpe[size]):
                request = study.ask()
            assert request is not None
            num_started += 1
            running.append((request.trial_number, 0, float(generator.beta(2, 5))))
        trial_number, epochs, quality = running.popleft()
        epoch = epochs + 1
        objective = quality * (1 - math.exp(-epoch / 4)) + float(generator.normal(0, 0.01))
        report = epoch_report(epoch, objective, arguments.max_epochs)
        with timed(times.report[min(tenth, sizes[-1] * 9 // 10)]):
            is_over = study.report(trial_number, report)
        if not is_over and epoch == arguments.max_epochs:
            study.complete(trial_number)
        elif not is_over:
            running.append((trial_number, epoch, quality))
    return times


@contextmanager
def timed(into: list[Spent]) -> Iterator[None]:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    yield
    into.append(Spent(time.perf_counter() - wall_s, time.process_time() - cpu_s))


def milliseconds(spent: list[Spent]) -> dict[str, float]:
    wall_ms = [1e3 * each.wall_s for each in spent]
    return {
        "median": round(statistics.median(wall_ms), 3),
        "p99": round(float(np.percentile(wall_ms, 99)), 3),
        "cpu": round(1e3 * statistics.median(each.cpu_s for each in spent), 3),
    }


def repeated(call: Callable[[], object], number: int = NUM_READS) -> dict[str, float]:
    spent: list[Spent] = []
    for _ in range(number):
        with timed(spent):
            call()
    return milliseconds(spent)


def fsync(folder: Path) -> dict[str, float]:
    """Of a KiB appended to a file there: the part of each report that is the disk's."""
    with open(folder / "fsync", "ab", buffering=0) as file:

        def append() -> None:
            file.write(b"x" * 1024)
            os.fsync(file.fileno())

        return repeated(append, NUM_FSYNCS)


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    sizes = [round(share * arguments.trials) for share in SHARES]
    num_trials = arguments.trials + NUM_TPE
    started = time.perf_counter()
    with open_study(folder, num_trials, arguments) as study:
        times = drive(study, sizes, arguments)
        counts = study.counts()
        num_reports = sum(map(len, times.report.values()))
        driven_s = time.perf_counter() - started
        # What else the driver does now and then: its tables, at most every 5 s, and its display.
        facts = StudyFacts("cost", "", "valid.ndcg@10", "", {})
        publisher = Publisher(study, folder, facts, [])
        tables_ms = repeated(publisher.write)
        records_ms = repeated(lambda: (study.records(), study.best()))
    reopened: list[Spent] = []
    with timed(reopened):
        study = open_study(folder, num_trials, arguments)
    with study:
        assert study.counts() == counts, f"{counts} trials were there, reopened it has {study.counts()}"
    return {
        "trials": num_trials,
        "states": dict(counts),
        "reports": num_reports,
        "driven_s": round(driven_s, 1),
        "report_ms": {size: milliseconds(seconds) for size, seconds in times.report.items()},
        "random_proposal_ms": {size: milliseconds(seconds) for size, seconds in times.propose.items()},
        "tpe_proposal_ms": {size: milliseconds(seconds) for size, seconds in times.tpe.items()},
        "reopen_ms": milliseconds(reopened),
        "tables_ms": tables_ms,
        "records_ms": records_ms,
        "fsync_ms": fsync(folder),
        "journal_mib": round((folder / JOURNAL_NAME).stat().st_size / 2**20, 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--max-epochs", type=int, default=10)
    parser.add_argument("--pruner", default="asha")
    parser.add_argument("--grace-epochs", type=int, default=3)
    parser.add_argument("--live", type=int, default=8, help="trials side by side")
    parser.add_argument("--folder", type=Path, help="where the study lies; else where temporary files do")
    add_folder(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        record = measure(Path(folder), arguments)
    rows: list[Row] = []
    for name in ("report_ms", "random_proposal_ms", "tpe_proposal_ms"):
        rows += [{"work": name, "from_trial": size, **times} for size, times in record.pop(name).items()]
    for name in ("reopen_ms", "tables_ms", "records_ms", "fsync_ms"):
        rows.append({"work": name, "from_trial": record["trials"], **record.pop(name)})
    for row in rows:
        show(row)
    reports = [row for row in rows if row["work"] == "report_ms"]
    record["report_end_to_start"] = {
        key: round(reports[-1][key] / reports[0][key], 2) for key in ("median", "cpu")
    }
    write("study_cost", rows, arguments, **record)


if __name__ == "__main__":
    main()
