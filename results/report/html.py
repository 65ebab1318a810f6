"""Elements of a report's page as HTML, and how values are written in them.

What comes from a study is escaped by `text`, in figures by `figure.plot_text`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

NOTHING = "–"
NOT_RECORDED = "not recorded"


def text(value: object) -> str:
    return escape(str(value))


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


def whole(value: object) -> object:
    """An integer where a column of floats holds one."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) >= 1 else value


def spaced(name: str) -> str:
    return name.replace("_", " ")


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
