"""The example notebook runs from top to bottom on the tables of a real study."""

import shutil
from pathlib import Path

import nbformat
import pytest
import traitlets
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from tests.reports import BASELINES, failed, searched, write_study

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "leaderboard.ipynb"
TABLES = ROOT / "tests" / "fixtures" / "leaderboard-v1"
STRICT = "import warnings\nwarnings.simplefilter('error')"


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def pictures(notebook: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


class OwnKernel(AsyncKernelManager):
    """Of this Python, whatever kernels are installed."""

    @traitlets.default("kernel_spec_manager")
    def _of_none_installed(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])


def read() -> nbformat.NotebookNode:
    notebook: nbformat.NotebookNode = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_strict: bool = True) -> nbformat.NotebookNode:
    """On runs/demo, with warnings as errors where it is strict."""
    for name in ("IPYTHONDIR", "MPLCONFIGDIR"):  # nothing is left in the home of who tests
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SEQSWEEP_STUDY", str(tmp_path / "runs" / "demo"))
    notebook = read()
    if is_strict:
        notebook.cells.insert(0, nbformat.v4.new_code_cell(STRICT))  # type: ignore[no-untyped-call]
    NotebookClient(
        notebook,
        kernel_manager_class=OwnKernel,
        timeout=120,
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    assert not is_strict or "stderr" not in [output.get("name") for output in outputs(notebook)]
    return notebook


def test_it_runs_on_the_tables_of_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("demo", "other"):
        shutil.copytree(TABLES, tmp_path / "runs" / name)
    assert pictures(run(tmp_path, monkeypatch)) == 6


@pytest.mark.parametrize("num_trials", [0, 1])
def test_it_runs_where_there_is_nothing_to_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_trials: int
) -> None:
    """A study of one trial, as `seqsweep train` leaves it, or of none that has a value yet."""
    write_study(tmp_path / "runs" / "demo", [*searched(num_trials), failed(1, "diverged: nan"), *BASELINES])
    notebook = run(tmp_path, monkeypatch, is_strict=num_trials > 0)  # matplotlib warns of an empty legend
    assert "nothing was moved\n" in [output.get("text") for output in outputs(notebook)]


def test_it_is_kept_with_the_outputs_of_a_real_run_and_small() -> None:
    notebook = read()
    assert notebook.metadata.kernelspec.name == "python3" and pictures(notebook) == 6
    assert NOTEBOOK.stat().st_size < 300_000
