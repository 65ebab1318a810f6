"""docs/architecture.md describes each part of the packages as the part does itself."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
PARTS = sorted(
    path.parent for name in ("sweep", "data_pipeline") for path in ROOT.glob(f"{name}/*/__init__.py")
)


@pytest.mark.parametrize("part", PARTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_part_has_its_sentence(part: Path) -> None:
    sentence = ast.get_docstring(ast.parse((part / "__init__.py").read_text(encoding="utf-8")))
    assert f"| `{part.name}/` | {sentence} |" in PAGE
