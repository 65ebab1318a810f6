"""A space as rows to read: what is drawn, from where to where, and under which choices."""

from __future__ import annotations

from dataclasses import dataclass

from seqsweep.search_spaces.branches import Space, condition, condition_in_words, values_in_words, walk


@dataclass(frozen=True)
class Row:
    name: str
    values: str
    condition: str  # "" where it is always drawn


def describe_space(space: Space) -> list[Row]:
    """Every parameter in the order of asking, with the choices it depends on."""
    everywhere = walk(space)
    rows = []
    for name in dict.fromkeys(name for asked in everywhere for name in asked.distributions):
        present = [asked for asked in everywhere if name in asked.distributions]
        values = values_in_words(present[0].distributions[name])
        rows.append(Row(name, values, condition_in_words(condition(present, everywhere))))
    return rows
