"""The Dockerfile and what goes into the image, as far as no engine is needed."""

import fnmatch
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ["/".join(name.split(".")[1:] or [name]) for name in PYPROJECT["tool"]["setuptools"]["packages"]]


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile, as (name, rest); continued lines joined, comments left out."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in joined.splitlines() if line.strip()]


def context() -> set[str]:
    """What .dockerignore lets through of the root's files and folders: all is left out but what it names."""
    first, *rest = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"
    ]
    assert first == "*"
    return {line[1:].rstrip("/") for line in rest if line.startswith("!")}


def test_the_linter_finds_nothing() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    run = subprocess.run([linter, "--no-color", DOCKERFILE], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "")


def test_the_linter_would_find_something(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian:latest\nRUN cd /tmp\n")
    run = subprocess.run([Path(sys.executable).parent / "hadolint", bad], capture_output=True, text=True)
    assert run.returncode == 1
    assert "DL3007" in run.stdout


def test_run_commands_are_bash() -> None:
    commands = [re.sub(r"^--mount=\S+\s+", "", rest) for name, rest in instructions() if name == "RUN"]
    assert commands
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_the_base_is_an_argument_and_slim() -> None:
    assert instructions()[:2] == [("ARG", "BASE=python:3.11-slim-bookworm"), ("FROM", "${BASE}")]


def test_the_image_holds_the_packages_and_what_installs_them() -> None:
    named = {
        *(package for package in PACKAGES if "/" not in package),
        "pyproject.toml",
        PYPROJECT["project"]["readme"],
        *PYPROJECT["project"]["license-files"],
    }
    assert context() == named | {"constraints.txt"}
    assert all((ROOT / name).exists() for name in context())


def test_dependencies_are_a_layer_of_their_own() -> None:
    names = [name for name, _ in instructions()]
    rests = [rest for _, rest in instructions()]
    install = next(i for i, rest in enumerate(rests) if "pip install" in rest)
    everything = rests.index(". .")
    assert install < everything
    assert "RUN" not in names[everything:]  # a change of code makes no layer but its own copy
    for name in rests[names.index("COPY")].split()[:-1]:
        assert name in context()
        assert not any(fnmatch.fnmatch(name, package) for package in PACKAGES)


def test_empty_packages_are_made_before_the_dependencies_are_installed(tmp_path: Path) -> None:
    (install,) = (rest for name, rest in instructions() if name == "RUN" and "pip install" in rest)
    (code,) = re.findall(r'python -c "(.*?)"', install)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    made = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("__init__.py")}
    assert made == set(PACKAGES)


def test_it_runs_as_nobody_in_particular_with_authentication() -> None:
    last_user = [rest for name, rest in instructions() if name == "USER"][-1]
    assert last_user == "1000"
    assert any(name == "ENV" and "RAY_AUTH_MODE=token" in rest for name, rest in instructions())
    assert ("ENTRYPOINT", '["tini", "--", "seqsweep"]') in instructions()
