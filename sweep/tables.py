"""Tables for a terminal: the leaderboard, search spaces."""

from collections.abc import Mapping, Sequence

import pandas as pd
from rich.table import Table

from search_spaces import Hparam
from search_spaces.describe import Row

OUTSIDE_RANKING = ("baseline", "ceiling")  # always shown: what a trial is read against
COLUMNS = ("rank", "trial", "state", "model", "residual", "loss")
WIDE = 140
COUNTS = ("best_epoch", "epochs", "seconds")


def leaderboard_table(frame: pd.DataFrame, *, objective: str, limit: int, width: int) -> Table:
    """Best `limit` trials and every baseline and ceiling; test metrics beside the objective's validation.

    Below WIDE characters of `width` the hit rates are left out, so that no heading is cut.
    """
    metric = objective.removeprefix("valid.")
    hit_rates = ["valid.hr@10", "test.hr@10"] if width >= WIDE and not metric.startswith("hr") else []
    shown = [*COLUMNS, objective, f"test.{metric}", *hit_rates, *COUNTS, "error"]
    reference = frame[frame["state"].isin(OUTSIDE_RANKING)]
    rows = pd.concat([frame.drop(reference.index).head(limit), reference])[shown]
    rows = rows.dropna(axis="columns", how="all")
    table = Table(box=None, pad_edge=False)
    for name in rows.columns:
        table.add_column(name, justify="left" if name in ("state", "model", "loss", "error") else "right")
    for row in rows.itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    return table


def space_table(name: str, rows: Sequence[Row]) -> Table:
    table = Table("hparam", "values", "only if", title=name, title_justify="left", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row.name, row.values, row.condition)
    return table


def points_table(name: str, points: Sequence[Mapping[str, Hparam]]) -> Table:
    """One column a point that is tried first."""
    title = f"{name}: tried first"
    table = Table("hparam", title=title, title_justify="left", box=None, pad_edge=False)
    for number in range(1, len(points) + 1):
        table.add_column(f"point {number}")
    for key in dict.fromkeys(key for point in points for key in point):
        table.add_row(key, *(str(point.get(key, "")) for point in points))
    return table


def _cell(value: object) -> str:
    if pd.isna(value):  # type: ignore[call-overload]
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1 else f"{value:.1f}"
    return str(value)
