"""The arrows between packages (docs/architecture.md): read from the code itself.

A part imports only parts on lower floors. Parts on one floor never see each other, but on the lowest.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("sweep", "models", "data_pipeline", "search_spaces", "results")
ALLOWED = {
    "sweep": {"models", "data_pipeline", "search_spaces", "results"},
    "models": {"data_pipeline.ids", "data_pipeline.history"},
    "data_pipeline": set(),
    "search_spaces": set(),
    "results": set(),
}
FLOORS = {
    "sweep": {
        "cli": 8,
        "jobs": 7,
        "driver": 6,
        "cluster": 5,
        "best_model": 5,
        "study": 4,
        "engine": 4,
        "settings": 3,
        "storage": 2,
        **dict.fromkeys(("errors", "seeds", "environment"), 1),
    },
    "data_pipeline": {
        "on_ray": 4,
        "preparing": 3,
        "formats": 2,
        "views": 2,
        **dict.fromkeys(
            ("config", "cuts", "dates", "demo", "errors", "history", "ids", "schema", "split", "store"), 1
        ),
    },
}
ONLY_IN = {
    "ray": ("sweep/cluster/", "sweep/jobs/", "sweep/driver/searching", "data_pipeline/on_ray/"),
    "optuna": (
        *("sweep/study/", "sweep/driver/reproduce", "sweep/driver/user_space"),
        *("search_spaces/", "results/report/"),
    ),
    "torch": (
        *(
            "sweep/engine/",
            "sweep/best_model/",
            "sweep/cluster/",
            "sweep/driver/",
            "sweep/storage/trial_files",
        ),
        *("models/", "data_pipeline/views/", "data_pipeline/preparing/", "data_pipeline/history"),
    ),
    "typer": ("sweep/cli/",),
    "rich": ("sweep/cli/",),
}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Modules that are imported anywhere in the file; of a package also what is taken from it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(path: Path) -> set[str]:
    """Of those, modules of ours, without the name before all of them."""
    found = {whole.removeprefix("seqsweep.") for whole in imports(path) if whole.startswith("seqsweep.")}
    return {name for name in found if is_module(name)}


def is_module(name: str) -> bool:
    place = ROOT / name.replace(".", "/")
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    package = name.split("/")[0]
    for module in imports(path):
        top = module.split(".")[0]
        assert top not in PACKAGES, f"{name} imports {module}: below seqsweep alone"
        if top in ONLY_IN:
            assert name.startswith(ONLY_IN[top]), f"{name} imports {module}"
    for module in own(path):
        top = module.split(".")[0]
        assert top == package or top in ALLOWED[package] or module in ALLOWED[package] or module == top, (
            f"{name} imports {module}"
        )


@pytest.mark.parametrize("package", FLOORS)
def test_no_import_goes_up(package: str) -> None:
    floors = FLOORS[package]
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = name_of(path).split(".")
        if len(parts) == 1:
            continue
        for module in own(path):
            other = module.split(".")
            if other[0] == package and len(other) > 1 and other[1] != parts[1]:
                below = floors[other[1]] < floors[parts[1]]
                assert below or floors[other[1]] == floors[parts[1]] == 1, f"{path} imports {module}"


@pytest.mark.parametrize("package", FLOORS)
def test_every_part_has_a_floor(package: str) -> None:
    there = {re.sub(r"\.py$", "", path.name) for path in (ROOT / package).iterdir() if path.name[0] != "_"}
    assert there == FLOORS[package].keys()


def test_nothing_imports_in_a_circle() -> None:
    arrows = {name_of(path): own(path) - {name_of(path)} for path in FILES}
    while leaves := {name for name, seen in arrows.items() if not seen & arrows.keys()}:
        arrows = {name: seen for name, seen in arrows.items() if name not in leaves}
    assert not arrows


def test_the_entry_point_defines_nothing() -> None:
    tree = ast.parse((ROOT / "seqsweep/__main__.py").read_text(encoding="utf-8"))
    assert [type(node) for node in tree.body] == [ast.ImportFrom, ast.Expr]
