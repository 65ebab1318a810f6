"""Several studies on one page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from seqsweep.results.report.content import ENDED, StudyContent, interval, short_name, total
from seqsweep.results.report.figure import Figure, figure_of, plot, plot_text, series_colour
from seqsweep.results.report.html import (
    NOTHING,
    columns,
    duration,
    hparam_text,
    paragraph,
    section,
    shown,
    spaced,
    table,
    text,
)
from seqsweep.results.report.progress_plot import best_so_far

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")

Named = tuple[str, StudyContent]


def comparison(contents: Sequence[StudyContent]) -> tuple[str, list[str]]:
    """Heading and sections."""
    named = list(zip(_names(contents), contents, strict=True))
    heading = (
        f"<h1>{len(named)} studies compared</h1>"
        f'<p class="sub">{text(" · ".join(name for name, _ in named))}</p>'
    )
    return heading, [_side_by_side(named), _curves(named), _best_hparams(named)]


def _names(contents: Sequence[StudyContent]) -> list[str]:
    """By name; by their folder where two have the same."""
    count = Counter(content.name for content in contents)
    return [content.name if count[content.name] == 1 else content.about.path for content in contents]


def _warnings(contents: Sequence[StudyContent]) -> list[str]:
    """Why numbers of these studies can't be compared."""
    told = {
        "fingerprint": "They were not run on the same data and preparation (fingerprints {values})",
        "protocol": "They were not evaluated alike ({values})",
        "objective": "They did not search for the same ({values})",
    }
    found = []
    for key, sentence in told.items():
        values = list(dict.fromkeys(str(content.attrs[key]) for content in contents))
        if len(values) > 1:
            short = [value[:12] for value in values] if key == "fingerprint" else values
            end = ": their values can't be compared." if key != "objective" else ": compare metric by metric."
            found.append(sentence.format(values="; ".join(short)) + end)
    return found


def _side_by_side(named: Sequence[Named]) -> str:
    metric = named[0][1].metric
    lines: list[tuple[str, Callable[[StudyContent], str]]] = [
        (f"best valid.{metric}", lambda content: _best(content, f"valid.{metric}")),
        (f"finalists' valid.{metric}, mean", lambda content: _mean(content, f"valid.{metric}")),
        (f"finalists' test.{metric}, mean", lambda content: _mean(content, f"test.{metric}")),
        *(
            (f"test.{name}", lambda content, name=name: _best(content, f"test.{name}"))
            for name in dict.fromkeys((metric, "ndcg@10", "hr@10", "mrr"))
        ),
        ("best baseline, test", lambda content: _baseline(content, f"test.{metric}")),
        ("model", lambda content: NOTHING if content.best is None else shown(content.best["model"])),
        (
            "parameters",
            lambda content: NOTHING if content.best is None else shown(content.best["num_parameters"]),
        ),
        ("trials ended", _trials),
        ("device time of the trials", lambda content: duration(total(content.trials, "device_seconds"))),
        (
            "device time of the finalists",
            lambda content: duration(total(content.finalists, "device_seconds") or None),
        ),
        ("from first start to last end", _wall),
    ]
    listed = table(
        "Side by side",
        ("", *(name for name, _ in named)),
        [(label, *(value(content) for _, content in named)) for label, value in lines],
    )
    found = _warnings([content for _, content in named])
    return section(
        "side-by-side",
        "Side by side",
        "Best trial and cost of each study. Intervals are 95 %, over users and seeds.",
        *(paragraph(warning, "warning") for warning in found),
        listed,
    )


def _best(content: StudyContent, column: str) -> str:
    return NOTHING if content.best is None else shown(content.best[column])


def _mean(content: StudyContent, column: str) -> str:
    row = content.best or {}
    mean, between = row.get(f"{column}.mean"), interval(row, column)
    return NOTHING if mean is None else f"{mean:.4f}" + (f" ({between})" if between else "")


def _baseline(content: StudyContent, column: str) -> str:
    there = [row for row in content.in_state("baseline") if row[column] is not None]
    if not there:
        return NOTHING
    best = max(there, key=lambda row: float(row[column]))
    return f"{best[column]:.4f} ({spaced(best['model'])})"


def _trials(content: StudyContent) -> str:
    counts = {state: len(content.in_state(state)) for state in ENDED}
    told = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    return f"{sum(counts.values())}" + (f" ({told})" if told else "")


def _wall(content: StudyContent) -> str:
    begun = [row["started_at"] for row in content.trials if row["started_at"] is not None]
    ended = [row["ended_at"] for row in content.trials if row["ended_at"] is not None]
    return duration((max(ended) - min(begun)).total_seconds()) if begun and ended else NOTHING


def _curves(named: Sequence[Named]) -> str:
    with_values = [(name, content) for name, content in named if content.ranked]
    if not with_values:
        return ""
    drawn = [
        plot(_figure(with_values, by_hours=by_hours), f"Best so far over {what}", height=360)
        for by_hours, what in ((False, "trials"), (True, "device hours"))
    ]
    lead = "The best validation value so far, over trials and over the device hours that they took."
    return section("best-so-far", "Best so far", lead, columns(*drawn))


def _figure(named: Sequence[Named], *, by_hours: bool) -> Figure:
    """Over trials, or over the device hours that they took."""
    traces = []
    for place, (name, content) in enumerate(named):
        x, y = _over_hours(content) if by_hours else _over_trials(content)
        line = {
            "color": series_colour(place),
            "width": 2,
            "shape": "hv",
            "dash": DASHES[place % len(DASHES)],
        }
        traces.append({"name": plot_text(name), "mode": "lines", "x": x, "y": y, "line": line})
    objectives = dict.fromkeys(content.objective for _, content in named)
    layout = {
        "xaxis": {"title": "device hours" if by_hours else "trials", "rangemode": "tozero"},
        "yaxis": {"title": " / ".join(objectives)},
    }
    return figure_of(traces, layout)


def _over_trials(content: StudyContent) -> tuple[list[float], list[float]]:
    rows = sorted(content.ranked, key=lambda row: int(row["trial"]))
    return _steps(best_so_far(rows), {int(row["trial"]): float(row["trial"] + 1) for row in rows})


def _over_hours(content: StudyContent) -> tuple[list[float], list[float]]:
    ended = [row for row in content.trials if row["ended_at"] is not None]
    ended.sort(key=lambda row: row["ended_at"])
    hours, spent = {}, 0.0
    for row in ended:
        spent += (row["device_seconds"] or 0.0) / 3600
        hours[int(row["trial"])] = spent
    return _steps(best_so_far([row for row in ended if row["rank"] is not None]), hours)


def _steps(best: Sequence[tuple[int, float]], places: Mapping[int, float]) -> tuple[list[float], list[float]]:
    """`places`: trial -> where it ended on the axis, in this order. The last value lasts to their end."""
    if not best:
        return [], []
    x, y = [places[trial] for trial, _ in best], [value for _, value in best]
    return [*x, list(places.values())[-1]], [*y, y[-1]]


def _best_hparams(named: Sequence[Named]) -> str:
    rows = [content.best or {} for _, content in named]
    names = list(
        dict.fromkeys(
            name for row in rows for name in row if name in ("residual", "loss") or name.startswith("hparam.")
        )
    )
    there = [name for name in names if any(row.get(name) is not None for row in rows)]
    if not there:
        return ""
    listed = table(
        "Hyperparameters of the best trials",
        ("hparam", *(name for name, _ in named)),
        [
            (
                short_name(name),
                *(NOTHING if row.get(name) is None else hparam_text(row[name]) for row in rows),
            )
            for name in there
        ],
    )
    return section("hparams", "Best hyperparameters", "What each study ended with.", listed)
