"""The arrows between packages (docs/decisions.md): read from the code itself."""

import ast
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
STUDY = (  # modules that know Optuna
    *("study", "study_reader", "requests", "records", "search", "journal"),
    *("sampling", "pruning", "user_space", "dashboard", "reproduce"),
)
ONLY_IN = {
    "ray": ("sweep/", "data_pipeline/distributed"),
    "optuna": (
        *(f"sweep/{name}.py" for name in STUDY),
        "search_spaces/",
        "results/report",
    ),
    "torch": ("sweep/", "models/", "data_pipeline/"),
}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module or ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    package = name.split("/")[0]
    for whole in imports(path):
        module = whole.removeprefix("seqsweep.")
        top = module.split(".")[0]
        if top in PACKAGES:
            assert module != whole, f"{name} imports {whole}: below seqsweep alone"
        if top in PACKAGES and top != package:
            assert top in ALLOWED[package] or module in ALLOWED[package], f"{name} imports {module}"
        if top in ONLY_IN:
            assert name.startswith(ONLY_IN[top]), f"{name} imports {module}"


def test_the_entry_point_defines_nothing() -> None:
    tree = ast.parse((ROOT / "seqsweep/__main__.py").read_text(encoding="utf-8"))
    assert [type(node) for node in tree.body] == [ast.ImportFrom, ast.Expr]
