"""The parts of a report's page as HTML. What comes from a study is escaped here, and nowhere else.

A figure is what Plotly.newPlot takes, as plain data: its Python classes would cost a second a page and check
nothing that the browser does not. A colour is named by the style sheet's variable, "--accent".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

Figure = dict[str, Any]

# Nothing is loaded, from whatever a study's texts hold: the browser itself sees to it.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
NOTHING = "–"


def text(value: object) -> str:
    return escape(str(value))


def plot_text(value: object) -> str:
    """For a label in a figure, which Plotly reads as HTML."""
    return escape(str(value), quote=False)


def paragraph(content: str, kind: str = "") -> str:
    return f'<p class="{kind}">{text(content)}</p>' if kind else f"<p>{text(content)}</p>"


def code(command: str) -> str:
    return f"<pre><code>{text(command)}</code></pre>"


def section(name: str, title: str, lead: str, *parts: str) -> str:
    """`lead`: what there is to see."""
    body = "\n".join(part for part in parts if part)
    return (
        f'<section id="{text(name)}" aria-labelledby="{text(name)}-title">'
        f'<h2 id="{text(name)}-title">{text(title)}</h2>\n{paragraph(lead, "lead")}\n{body}\n</section>'
    )


def columns(*parts: str) -> str:
    return f'<div class="columns">{"".join(f"<div>{part}</div>" for part in parts if part)}</div>'


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """The first `left` columns hold text; of the others, the numbers stand at the right.

    Wide tables scroll inside their box, which the keyboard reaches.
    """
    head = "".join(
        f'<th scope="col"{_side(place, left)}>{text(name)}</th>' for place, name in enumerate(header)
    )
    body = "".join(f"<tr>{_cells(row, left)}</tr>\n" for row in rows)
    kind = "" if any(header) else ' class="facts"'
    heading = f"<thead><tr>{head}</tr></thead>" if any(header) else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table{kind}>'
        f"<caption>{text(caption)}</caption>{heading}<tbody>{body}</tbody></table></div>"
    )


def _cells(row: Sequence[object], left: int) -> str:
    first, *others = row
    cells = [f'<th scope="row">{text(shown(first))}</th>']
    cells += [f"<td{_side(place, left)}>{text(shown(value))}</td>" for place, value in enumerate(others, 1)]
    return "".join(cells)


def _side(place: int, left: int) -> str:
    return "" if place < left else ' class="number"'


def plot(figure: Figure, label: str, *, height: int, min_width: int = 0) -> str:
    """`label`: for those who do not see it. Wider than the page, it scrolls inside its box."""
    data = json.dumps(figure, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    size = f"height:{height}px" + (f";min-width:{min_width}px" if min_width else "")
    box = ' class="scroll" tabindex="0"' if min_width else ""
    return (
        f'<div{box}><div class="plot" role="img" aria-label="{text(label)}" style="{size}">'
        f'<script type="application/json">{data}</script></div></div>'
    )


def shown(value: object) -> str:
    """As in the terminal's tables: metrics with four decimals, counts by thousands."""
    if value is None:
        return NOTHING
    if isinstance(value, bool | str):
        return value if isinstance(value, str) else "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1 else f"{value:,.1f}"
    return str(value)


def hparam_text(value: object) -> str:
    """As it would be typed: 0.000312, 64, true."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def megabytes(count: int | None) -> str:
    return NOTHING if count is None else f"{count / 2**20:,.0f} MiB"


def share(value: float) -> str:
    return f"{value:.1%}"


def page(title: str, heading: str, links: Sequence[tuple[str, str]], body: str, created: datetime) -> str:
    """The whole file. `heading` and `body` are HTML; `links`: ids of sections and their titles."""
    menu = "".join(f'<a href="#{text(name)}">{text(label)}</a>' for name, label in links)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(title)}</title>
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


@cache
def _beside(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]  # half a second to import

    return str(get_plotlyjs())
