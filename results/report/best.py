"""The best trial, and above all sections the few numbers that most readers come for."""

from __future__ import annotations

import shlex

from seqsweep.results.metrics import METRICS
from seqsweep.results.report.content import (
    ENDED,
    Row,
    StudyContent,
    finite,
    interval,
    is_hparam,
    short_name,
    total,
)
from seqsweep.results.report.html import (
    NOT_RECORDED,
    NOTHING,
    code,
    columns,
    duration,
    hparam_text,
    section,
    shown,
    spaced,
    table,
    text,
)
from seqsweep.results.schema import FAMILY


def heading(content: StudyContent) -> str:
    data = content.about.data
    log = "" if data is None else f"{data['origin']} · "
    searched = [f"{way.replace('ize', 'ises')} {name}" for name, way in content.about.objectives.items()]
    return (
        f"<h1>{text(content.name)}</h1>"
        f'<p class="sub">{text(log)}{text(content.attrs["protocol"])} · '
        f"{text(', '.join(searched))}</p>"
        f'<dl class="tiles">{"".join(_tile(*tile) for tile in _tiles(content))}</dl>'
    )


def _tiles(content: StudyContent) -> list[tuple[str, str, str]]:
    """Name, value, note."""
    tiles = [] if content.best is None else _tiles_of_best(content, content.best)
    counts = {state: len(content.in_state(state)) for state in (*ENDED, "running")}
    ended = sum(counts[state] for state in ENDED)
    told = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    tiles.append(("trials ended", f"{ended} of {max(content.about.num_trials, ended)}", told))
    spent = total(content.trials, "device_seconds") + total(content.finalists, "device_seconds")
    tiles.append(("device time", duration(spent), "finalists' too" if content.finalists else ""))
    return tiles


def _tiles_of_best(content: StudyContent, best: Row) -> list[tuple[str, str, str]]:
    measured = [part for part in ("test", "valid") if best[f"{part}.{content.metric}"] is not None]
    tiles = [
        (column, shown(_mean(best, column)), _note(best, column))
        for column in (f"{part}.{content.metric}" for part in measured)
    ]
    if best.get("seeds") is None and "test" not in measured:
        tiles[-1] = (*tiles[-1][:2], f"trial {best['trial']}, the best of many")
    return [*tiles, *_gain(content, best)]


def _mean(row: Row, column: str) -> float:
    """Of a finalist over its trainings; else the one value there is."""
    mean = row.get(f"{column}.mean")
    return float(row[column] if mean is None else mean)


def _note(row: Row, column: str) -> str:
    between = interval(row, column)
    return (
        f"{between}, {_seeds(row)}" if between and row.get("seeds") is not None else f"trial {row['trial']}"
    )


def _seeds(row: Row) -> str:
    return f"{row['seeds']} seed" + ("" if row["seeds"] == 1 else "s")


def _gain(content: StudyContent, best: Row) -> list[tuple[str, str, str]]:
    """Over the best baseline, like with like: on test where both have it."""
    for part in ("test", "valid"):
        column = f"{part}.{content.metric}"
        there = [row for row in content.in_state("baseline") if row[column]]
        if best[column] is not None and there:
            baseline = max(there, key=lambda row: float(row[column]))
            ratio = _mean(best, column) / baseline[column] - 1
            return [(f"over {spaced(baseline['model'])}", f"{ratio:+.0%}".replace("-", "−"), column)]
    return []


def _tile(name: str, value: str, note: str) -> str:
    kind = ' class="first"' if name.startswith(("test.", "valid.")) else ""
    below = f'<dd class="note">{text(note)}</dd>' if note else ""
    return f"<div{kind}><dt>{text(name)}</dt><dd>{text(value)}</dd>{below}</div>"


def best_trial(content: StudyContent) -> str:
    best = content.best
    if best is None:
        return section("best", "Best trial", "No trial has a value yet.")
    lead = (
        f"Trial {best['trial']}, {best['model'] or NOT_RECORDED}, at epoch {shown(best['best_epoch'])}. Of "
        "many trials the best is best partly by luck: its validation values are a little too good, test "
        "values are not."
    )
    use = ""
    if (content.about.folder / "best" / "config.json").is_file():
        model = shlex.quote(f"{content.about.path}/best")
        use = "<h3>To use it</h3>" + code(f"seqsweep recommend {model} LOG")
    facts = columns(_metrics(best), _hparams(best), _size_and_cost(best) + use)
    return section("best", "Best trial", lead, facts)


def _metrics(best: Row) -> str:
    over_seeds = best.get("seeds") is not None
    parts = {"valid": "valid.{}", **({"valid, mean": "valid.{}.mean"} if over_seeds else {})}
    parts |= {"test, mean" if over_seeds else "test": "test.{}"}
    return table(
        "Metrics" + (f", and means over {_seeds(best)}" if over_seeds else ""),
        ("metric", *parts),
        [
            (name, *(finite(best.get(part.format(name))) for part in parts.values()))
            for name in METRICS
            if best[f"valid.{name}"] is not None or best[f"test.{name}"] is not None
        ],
    )


def _hparams(row: Row) -> str:
    names = [name for name in row if (name in FAMILY or is_hparam(name)) and row[name] is not None]
    return table(
        "Hyperparameters", ("hparam", "value"), [(short_name(name), hparam_text(row[name])) for name in names]
    )


def _size_and_cost(row: Row) -> str:
    milliseconds, num_bytes = row["milliseconds_per_user"], row["peak_memory_bytes"]
    facts = [
        ("parameters", shown(row["num_parameters"])),
        ("epochs trained", shown(row["epochs"])),
        ("time of training and validation", duration(row["seconds"])),
        ("of it validation", duration(row["eval_seconds"])),
        ("peak memory", NOTHING if num_bytes is None else f"{num_bytes / 2**20:,.0f} MiB"),
        ("scoring a user", NOTHING if milliseconds is None else f"{milliseconds:.3g} ms"),
        ("device", row["device"]),
    ]
    return table("Size and cost", ("", ""), facts)
