"""The messages that docs/troubleshooting.md explains are still said."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("sweep", "models", "data_pipeline", "search_spaces", "results")
PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### `(.+)`$", PAGE, re.M)
# Said by pydantic, by torch, by Ray.
OTHERS = ("Extra inputs are not permitted", "OutOfMemoryError", "The current node timed out during startup")
BETWEEN = "\0"  # a value inside of a message


def texts() -> list[str]:
    """All strings of the source, with `BETWEEN` where a value is put in."""
    found = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(map(text_of, node.values)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def text_of(part: ast.expr) -> str:
    return part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else BETWEEN


TEXTS = texts()


def is_said(heading: str) -> bool:
    words = [part.strip() for part in heading.split("..") if part.strip()]
    pattern = re.compile(".*".join(map(re.escape, words)))
    return any(pattern.search(text) for text in TEXTS)


@pytest.mark.parametrize("heading", [h for h in HEADINGS if not any(other in h for other in OTHERS)])
def test_a_message_of_the_page_is_said(heading: str) -> None:
    assert is_said(heading)


def test_the_page_explains_messages_and_another_is_not_found() -> None:
    assert len(HEADINGS) == len(set(HEADINGS)) > 50
    assert is_said("no such file; check the path")
    assert not is_said("no such file; look for the path")
