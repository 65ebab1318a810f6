"""First contact: help, completion, and how little is imported for them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from seqsweep.models import MODELS
from seqsweep.sweep.cli import completion
from seqsweep.sweep.cli.app import app
from seqsweep.sweep.cli.help import SECTIONS
from seqsweep.sweep.storage.study_folder import JOURNAL_NAME

ROOT = Path(__file__).parents[3]
HEAVY = ("torch", "ray", "optuna", "pandas", "pyarrow", "numpy")


def seqsweep(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own that tells at its end what heavy modules it has imported."""
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr))\n"
        "from seqsweep.sweep.cli.app import app\n"
        "app(prog_name='seqsweep')"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name in ("games", "games-large", "ml-1m"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / JOURNAL_NAME).touch()
    (tmp_path / "runs" / "no-study").mkdir()
    return tmp_path


@pytest.mark.parametrize("arguments", [(), ("--help",), ("--version",), ("run", "--help"), ("top", "--help")])
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert seqsweep(*arguments).stderr.splitlines()[-1] == "[]"


def test_without_arguments_the_commands_are_listed_by_what_one_wants_to_do() -> None:
    lines = CliRunner().invoke(app, [], env={"COLUMNS": "80"}).output.splitlines()
    titles = [line.rstrip(":") for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Options", *SECTIONS, "This machine"]
    assert lines[lines.index("Search:") + 1].split()[:2] == ["run", "Start"]
    assert max(map(len, lines)) <= 80 and not any(line.endswith("...") for line in lines[1:])


def test_flags_are_listed_by_what_they_are_about() -> None:
    lines = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "80"}).output.splitlines()
    assert [line for line in lines if line[:1].strip() and not line.startswith("Usage")] == [
        "Arguments:",
        "Options:",
        "Data:",
        "Search:",
        "Budget:",
        "Hardware:",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"), [(("tpo",), "Did you mean 'top'?"), (("run", "--trails", "3"), "--trials")]
)
def test_what_is_misspelt_is_answered_with_the_nearest(arguments: tuple[str, ...], message: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2 and message in done.stderr


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("seqsweep to", ["top"]),
        ("seqsweep top g", ["games", "games-large"]),
        ("seqsweep top --runs elsewhere g", []),
        ("seqsweep compare ml-1m games-", ["games-large"]),
        ("seqsweep run --warm-start m", ["ml-1m"]),
        ("seqsweep warm-start games --from m", ["ml-1m"]),
        ("seqsweep report ml-1m games-", ["games-large"]),
        ("seqsweep recommend m", ["ml-1m"]),
        ("seqsweep evaluate m", ["ml-1m"]),
        ("seqsweep export m", ["ml-1m"]),
        ("seqsweep run --models g", ["gru4rec"]),
        ("seqsweep run --models sasrec,h", ["sasrec,hstu"]),
    ],
)
def test_bash_completes_commands_studies_and_models(runs: Path, words: str, completions: list[str]) -> None:
    done = seqsweep(
        cwd=runs,
        _SEQSWEEP_COMPLETE="complete_bash",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split()) - 1),
    )
    assert done.stdout.split() == completions and done.stderr.splitlines()[-1] == "[]"


def test_settings_are_completed_with_studies_and_files(runs: Path) -> None:
    (runs / "games.toml").touch()
    done = seqsweep(
        cwd=runs, _SEQSWEEP_COMPLETE="complete_bash", COMP_WORDS="seqsweep run games", COMP_CWORD="2"
    )
    assert done.stdout.split() == ["games", "games-large", "games.toml"]


def test_what_is_typed_is_no_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[a]b.toml").touch()
    context = typer.Context(typer.main.get_command(app))
    assert completion.complete_settings(context, "**a") == []
    assert completion.complete_settings(context, "[a]") == ["[a]b.toml"]


def test_the_completed_models_are_those_there_are() -> None:
    assert set(completion.MODELS) == {*MODELS, "all"}
