"""Event files that TensorBoard reads back, across restarts, and never many of them open."""

import re
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import plugin_data_pb2  # type: ignore[import-untyped]

from seqsweep.results.schema import Hparam
from seqsweep.sweep.driver import tensorboard as module
from seqsweep.sweep.driver.tensorboard import TensorBoardWriter
from seqsweep.sweep.errors import ConfigError

HPARAMS: dict[str, Hparam] = {"model": "sasrec", "lr": 0.001, "num_blocks": 2, "shared": True}
START = "_hparams_/session_start_info"


def report(epoch: int) -> dict[str, int | float | str | bool | None]:
    return {
        "epoch": epoch, "loss": 8 / epoch, "objective": 0.125 * epoch, "lr": 2**-10, "seconds": 1.5,
        "eval_seconds": 0.5, "valid.ndcg@10": 0.125 * epoch, "valid.hr@10": 0.25 * epoch, "valid.mrr": None,
        "node": "here", "last": False,
    }  # fmt: skip


def load(folder: Path, trial_number: int) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard" / str(trial_number))).Reload()


def scalars(folder: Path, trial_number: int, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in load(folder, trial_number).Scalars(tag)]


def files(folder: Path, trial_number: int) -> list[Path]:
    return sorted((folder / "tensorboard" / str(trial_number)).iterdir())


def test_scalars_by_epoch(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    for epoch in (1, 2, 4):
        writer.write(7, HPARAMS, report(epoch))
    events = load(tmp_path, 7)  # before it is closed: TensorBoard looks on while the trial runs
    assert set(events.Tags()["scalars"]) == {
        "loss", "objective", "lr", "seconds", "valid/ndcg@10", "valid/hr@10",
    }  # fmt: skip
    assert scalars(tmp_path, 7, "loss") == [(1, 8.0), (2, 4.0), (4, 2.0)]
    assert scalars(tmp_path, 7, "valid/hr@10") == [(1, 0.25), (2, 0.5), (4, 1.0)]
    assert scalars(tmp_path, 7, "lr") == [(1, 2**-10), (2, 2**-10), (4, 2**-10)]
    writer.close()


def hparams_of(events: EventAccumulator) -> dict[str, Hparam]:
    content = events.SummaryMetadata(START).plugin_data.content
    kept = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    return {key: getattr(value, value.WhichOneof("kind")) for key, value in kept.items()}


def num_starts(folder: Path, trial_number: int) -> int:
    return sum(path.read_bytes().count(START.encode()) for path in files(folder, trial_number))


def test_hparams_once(tmp_path: Path) -> None:
    for epochs in ((1, 2), (3,)):  # two drivers
        writer = TensorBoardWriter(tmp_path)
        for epoch in epochs:
            writer.write(3, HPARAMS, report(epoch))
        writer.close()
    assert hparams_of(load(tmp_path, 3)) == HPARAMS
    assert num_starts(tmp_path, 3) == 1


def test_trials_with_equal_hparams_are_one_group(tmp_path: Path) -> None:
    """A finalist's trainings are shown as repetitions."""
    writer = TensorBoardWriter(tmp_path)
    for trial_number, hparams in enumerate((HPARAMS, HPARAMS, {**HPARAMS, "lr": 0.002})):
        writer.write(trial_number, hparams, report(1))
    writer.close()
    names = []
    for trial_number in range(3):
        content = load(tmp_path, trial_number).SummaryMetadata(START).plugin_data.content
        names.append(plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.group_name)
    assert names[0] == names[1] != names[2]


def test_a_driver_that_goes_on_adds_to_the_trials_folder(tmp_path: Path) -> None:
    for epochs in ((1, 2), (3,), (4, 5)):
        writer = TensorBoardWriter(tmp_path)
        for epoch in epochs:
            writer.write(0, HPARAMS, report(epoch))
        writer.close()
    assert scalars(tmp_path, 0, "objective") == [(epoch, 0.125 * epoch) for epoch in (1, 2, 3, 4, 5)]
    assert len(files(tmp_path, 0)) == 3


@pytest.mark.parametrize("num_cut", [1, 20, 100])
def test_a_driver_that_was_killed_while_it_wrote(tmp_path: Path, num_cut: int) -> None:
    first, second = TensorBoardWriter(tmp_path), TensorBoardWriter(tmp_path)
    first.write(0, HPARAMS, report(1))
    first.write(0, HPARAMS, report(2))
    first.close()
    (file,) = files(tmp_path, 0)
    file.write_bytes(file.read_bytes()[:-num_cut])
    second.write(0, HPARAMS, report(3))
    second.close()
    assert scalars(tmp_path, 0, "objective") == [(1, 0.125), (3, 0.375)]
    assert hparams_of(load(tmp_path, 0)) == HPARAMS


def num_open() -> int:
    """Event files that this process holds."""
    links = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            links.append(link.readlink().name)
    return sum("tfevents" in name for name in links)


def test_never_many_files_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OPEN_FILES", 4)
    writer = TensorBoardWriter(tmp_path)
    for trial_number in range(6):
        writer.write(trial_number, HPARAMS, report(1))
        assert num_open() == min(trial_number + 1, 4)
    writer.write(2, HPARAMS, report(2))  # open still, and now the one written last
    writer.write(6, HPARAMS, report(1))
    assert len(files(tmp_path, 2)) == 1 and num_open() == 4
    writer.write(0, HPARAMS, report(2))  # closed long ago
    assert scalars(tmp_path, 0, "loss") == [(1, 8.0), (2, 4.0)]
    writer.end(0)
    writer.end(99)  # was never written
    assert num_open() == 3
    writer.close()
    assert num_open() == 0


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'seqsweep[tensorboard]'")):
        TensorBoardWriter(tmp_path)
    assert not list(tmp_path.iterdir())
