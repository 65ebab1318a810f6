"""The file around the sections of a report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path

from seqsweep.results.report.html import text

# Nothing is loaded, from whatever a study's texts hold: the browser itself sees to it.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def page(title: str, heading: str, sections: Sequence[str], created: datetime) -> str:
    """The whole file. `heading` and `sections` are HTML."""
    menu, body = "".join(map(_link, sections)), "\n".join(sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(title)} · seqsweep</title>
<style>{_beside("style.css")}</style>
</head>
<body>
<header>{heading}<nav aria-label="Sections">{menu}</nav></header>
<main>
<noscript><p class="warning">The plots need JavaScript; the tables don't.</p></noscript>
{body}
</main>
<footer><p>Written by seqsweep, {created:%Y-%m-%d %H:%M} UTC. This file loads nothing: it can be kept and sent
alone.</p></footer>
<script>{_plotly()}</script>
<script>{_beside("script.js")}</script>
</body>
</html>
"""


def _link(part: str) -> str:
    found = re.match(r'<section id="([a-z-]+)".*?<h2[^>]*>([^<]*)</h2>', part, re.DOTALL)
    return "" if found is None else f'<a href="#{found[1]}">{found[2]}</a>'


@cache
def _beside(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]  # half a second to import

    return str(get_plotlyjs())
