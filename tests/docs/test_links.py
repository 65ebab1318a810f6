"""Links of the pages that lie outside docs/ lead somewhere; those inside are checked by `make docs`."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
LINKS = [(page, link) for page in PAGES for link in LINK.findall((ROOT / page).read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_a_link_leads_to_a_file(page: str, link: str) -> None:
    assert (ROOT / page).parent.joinpath(link).is_file()


def test_both_readmes_are_linked_and_pictures_are_links() -> None:
    assert ("README.md", "README.zh-CN.md") in LINKS and ("README.zh-CN.md", "README.md") in LINKS
    assert ("README.md", "docs/images/live.svg") in LINKS
