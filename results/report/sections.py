"""The sections of a study's page, each as HTML; "" where a study has nothing for it."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from results.report import figures
from results.report.content import (
    Row,
    StudyContent,
    finite,
    is_hparam,
    measured,
    short_name,
    total,
)
from results.report.html import (
    code,
    columns,
    duration,
    hparam_text,
    megabytes,
    paragraph,
    plot,
    section,
    share,
    shown,
    table,
    text,
)
from results.report.importance import MIN_TRIALS, importance
from results.schema import FAMILY

SHOWN_TRIALS = 20
SHOWN_SHARES = 12
NOT_RECORDED = "not recorded"


def heading(content: StudyContent) -> str:
    data = content.about.data
    log = "" if data is None else f"{data['origin']} · "
    searched = [f"{way.replace('ize', 'ises')} {name}" for name, way in content.about.objectives.items()]
    return (
        f"<h1>{text(content.name)}</h1>"
        f'<p class="sub">{text(log)}{text(content.attrs["protocol"])} · '
        f"{text(', '.join(searched))}</p>"
        f"{_tiles(content)}"
    )


def _tiles(content: StudyContent) -> str:
    """The few numbers that most readers come for."""
    best = content.best
    tiles = []
    if best is not None:
        is_finalist = best.get("seeds") is not None
        for part in ("test", "valid"):
            column = f"{part}.{content.metric}"
            if best[column] is not None:
                mean = best.get(f"{column}.mean")
                tiles.append((column, shown(best[column] if mean is None else mean), _interval(best, column)))
        if not is_finalist and best[f"test.{content.metric}"] is None:
            tiles[-1] = (*tiles[-1][:2], f"trial {best['trial']}, the best of many")
        tiles.append(_gain(content, best))
    counts = {state: len(content.in_state(state)) for state in ("complete", "pruned", "failed", "running")}
    ended = sum(counts[state] for state in ("complete", "pruned", "failed"))
    told = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    tiles.append(("trials ended", f"{ended} of {max(content.about.num_trials, ended)}", told))
    spent = total(content.trials, "device_seconds") + total(content.finalists, "device_seconds")
    tiles.append(("device time", duration(spent), "finalists' too" if content.finalists else ""))
    return f'<dl class="tiles">{"".join(_tile(*tile) for tile in tiles if tile[0])}</dl>'


def _tile(name: str, value: str, note: str) -> str:
    kind = ' class="first"' if name.startswith(("test.", "valid.")) else ""
    below = f'<dd class="note">{text(note)}</dd>' if note else ""
    return f"<div{kind}><dt>{text(name)}</dt><dd>{text(value)}</dd>{below}</div>"


def _interval(row: Row, column: str) -> str:
    low, high = row.get(f"{column}.low"), row.get(f"{column}.high")
    if row.get("seeds") is None or low is None or high is None:
        return f"trial {row['trial']}"
    return f"{low:.4f} to {high:.4f}, {seeds(row)}"


def seeds(row: Row) -> str:
    return f"{row['seeds']} seed" + ("" if row["seeds"] == 1 else "s")


def _gain(content: StudyContent, best: Row) -> tuple[str, str, str]:
    """Over the best baseline, like with like: on test where both have it."""
    for part in ("test", "valid"):
        column = f"{part}.{content.metric}"
        there = [row for row in content.in_state("baseline") if row[column]]
        if best[column] is not None and there:
            baseline = max(there, key=lambda row: float(row[column]))
            mean = best.get(f"{column}.mean")
            ratio = (best[column] if mean is None else mean) / baseline[column] - 1
            return (f"over {baseline['model'].replace('_', ' ')}", f"{ratio:+.0%}".replace("-", "−"), column)
    return ("", "", "")


def best_trial(content: StudyContent) -> str:
    best = content.best
    if best is None:
        return section("best", "Best trial", "No trial has a value yet.")
    names = measured(best)
    over_seeds = best.get("seeds") is not None
    parts = {"valid": "valid.{}", **({"valid, mean": "valid.{}.mean"} if over_seeds else {})}
    parts |= {"test, mean" if over_seeds else "test": "test.{}"}
    metrics = table(
        "Metrics" + (f", and means over {seeds(best)}" if over_seeds else ""),
        ("metric", *parts),
        [(name, *(finite(best.get(part.format(name))) for part in parts.values())) for name in names],
    )
    lead = (
        f"Trial {best['trial']}, {best['model'] or NOT_RECORDED}, at epoch {shown(best['best_epoch'])}. Of "
        "many trials the best is best partly by luck: its validation values are a little too good, test "
        "values are not."
    )
    use = ""
    if (content.about.folder / "best" / "config.json").is_file():
        model = shlex.quote(f"{content.about.path}/best")
        use = "<h3>To use it</h3>" + code(f"seqsweep recommend {model} LOG")
    return section("best", "Best trial", lead, columns(metrics, _hparams(best), _size_and_cost(best) + use))


def _hparams(row: Row) -> str:
    names = [name for name in row if (name in FAMILY or is_hparam(name)) and row[name] is not None]
    return table(
        "Hyperparameters", ("hparam", "value"), [(short_name(name), hparam_text(row[name])) for name in names]
    )


def _size_and_cost(row: Row) -> str:
    milliseconds = row["milliseconds_per_user"]
    facts = [
        ("parameters", shown(row["num_parameters"])),
        ("epochs trained", shown(row["epochs"])),
        ("time of training and validation", duration(row["seconds"])),
        ("of it validation", duration(row["eval_seconds"])),
        ("peak memory", megabytes(row["peak_memory_bytes"])),
        ("scoring a user", shown(None) if milliseconds is None else f"{milliseconds:.3g} ms"),
        ("device", row["device"]),
    ]
    return table("Size and cost", ("", ""), facts)


def history(content: StudyContent) -> str:
    if not content.ranked:
        return ""
    baseline = content.in_state("baseline")[:1]
    lead = "Every trial's best validation value, and the best so far." + (
        f" Above the dotted line a trial is worth more than counting ({baseline[0]['model']})."
        if baseline
        else ""
    )
    label = f"{content.objective} of {len(content.ranked)} trials by number, with the best so far"
    return section("history", "Optimisation history", lead, plot(figures.history(content), label, height=360))


def finalists(content: StudyContent) -> str:
    rows = [row for row in content.ranked if row.get("seeds") is not None]
    if not rows:
        is_over = not content.in_state("running") and not content.in_state("queued")
        there = "None was trained." if is_over and not content.finalists else "They come after the search."
        return section("finalists", "Finalists", f"The best trials, trained again over fresh seeds. {there}")
    lead = (
        "The best trials, trained again over fresh seeds. Square and circle are means with their 95 % "
        "interval over users and seeds, strokes single trainings. Where intervals overlap much, either may "
        "be better."
    )
    names = [f"{part}.{content.metric}" for part in ("valid", "test")]
    listed = table(
        "Finalists, best first",
        (
            "finalist",
            "seeds",
            *(f"{name} {what}" for name in names for what in ("mean", "std", "95 % interval")),
        ),
        [
            (f"trial {row['trial']}", row["seeds"], *(cell for name in names for cell in _spread(row, name)))
            for row in rows
        ],
    )
    label = f"Means and intervals of {len(rows)} finalists"
    return section(
        "finalists",
        "Finalists",
        lead,
        plot(figures.finalists(content), label, height=130 + 52 * len(rows)),
        listed,
    )


def _spread(row: Row, column: str) -> tuple[object, object, str]:
    low, high = row.get(f"{column}.low"), row.get(f"{column}.high")
    interval = shown(None) if low is None or high is None else f"{low:.4f} to {high:.4f}"
    return row.get(f"{column}.mean"), row.get(f"{column}.std"), interval


def references(content: StudyContent) -> str:
    baselines, ceilings = content.in_state("baseline"), content.in_state("ceiling")
    best = content.best
    if not baselines and not ceilings:
        return ""
    lead = "What a model has to beat" + (
        ", and the best that any model could reach on this generated log." if ceilings else "."
    )
    rows = [*ceilings, *([best] if best is not None else []), *baselines]
    columns_ = [
        f"{part}.{name}" for part in ("valid", "test") for name in dict.fromkeys((content.metric, "hr@10"))
    ]
    listed = table(
        "Baselines"
        + (", ceilings" if ceilings else "")
        + (" and the best trial" if best is not None else ""),
        ("", *columns_),
        [(_reference_name(row), *(finite(row[name]) for name in columns_)) for row in rows],
    )
    drawn = ""
    if best is not None:
        label = f"{content.metric} of the best trial beside {len(rows) - 1} baselines and ceilings"
        drawn = plot(figures.references(content, best), label, height=120 + 34 * len(rows))
    return section(
        "baselines", "Baselines" + (" and ceiling" if ceilings else ""), lead, columns(drawn, listed)
    )


def _reference_name(row: Row) -> str:
    return str(row["model"]).replace("_", " ") if row["trial"] is None else f"trial {row['trial']}"


def learning_curves(content: StudyContent) -> str:
    if not content.epochs or not content.ranked:
        return ""
    rungs = figures.rungs_shown(content)
    num_pruned = len(content.in_state("pruned"))
    lead = "Validation after each epoch: the best trials in colour." + (
        f" Thin: the {num_pruned} that were pruned, up to where they were stopped." if num_pruned else ""
    )
    if rungs:
        lead += f" Dotted: the rungs (epochs {', '.join(map(str, rungs))}), where poor trials are stopped."
    label = "Validation values by epoch of the best trials and of those that were pruned"
    return section(
        "curves", "Learning curves", lead, plot(figures.learning_curves(content), label, height=400)
    )


def importances(content: StudyContent) -> str:
    if not content.ranked:
        return ""
    found = importance(
        content.about.trials, {int(row["trial"]): float(row["objective"]) for row in content.ranked}
    )
    title = "Importance"
    if not found.shares:
        why = (
            f"Too few trials: {found.num_trials} of the {MIN_TRIALS} that an estimate takes."
            if found.num_trials < MIN_TRIALS
            else "Nothing that was searched made a difference."
        )
        return section("importance", title, why)
    lead = (
        f"What set the best {found.num_best} of {found.num_trials} trials apart (PED-ANOVA; a pruned trial "
        "counts with the best it reached). Shares add up to 100 %. "
        + (
            "With so few trials it is a hint, no more."
            if found.num_trials < 5 * MIN_TRIALS
            else "A small share does not say that any value will do."
        )
    )
    shares = dict(list(_without_family(found.shares, content).items())[:SHOWN_SHARES])
    rest = len(found.shares) - len(shares)
    left = 1 - sum(shares.values())
    more = f"Not drawn: {rest} more, with {left:.0%} together." if rest else ""
    label = "Importance: " + ", ".join(f"{name} {value:.0%}" for name, value in shares.items())
    drawn = plot(figures.importances(shares), label, height=40 + 26 * len(shares))
    return section("importance", title, lead, drawn, paragraph(more, "lead") if more else "")


def _without_family(shares: Mapping[str, float], content: StudyContent) -> dict[str, float]:
    """`sasrec.lr` is `lr` where only one model was searched."""
    if len(content.families) > 1:
        return dict(shares)
    return {
        name.removeprefix(f"{content.families[0]}.") if content.families else name: value
        for name, value in shares.items()
    }


def parallel(content: StudyContent) -> str:
    if len(content.ranked) < 2 or not content.hparams:
        return ""
    names = _by_importance(content)
    shown_names = names[: figures.AXES]
    lead = f"A line is a trial{_some(content)}, from its hyperparameters to its value at the right." + (
        f" {len(shown_names)} of {len(names)} hyperparameters." if len(names) > len(shown_names) else ""
    )
    label = f"Hyperparameters of {len(content.ranked)} trials as lines"
    width = 96 * (len(shown_names) + 1)
    return section(
        "parallel",
        "Parallel coordinates",
        lead,
        plot(figures.parallel(content, shown_names), label, height=380, min_width=width),
    )


def _by_importance(content: StudyContent) -> list[str]:
    """Families first; then what most trials have."""
    have = {name: sum(row[name] is not None for row in content.ranked) for name in content.hparams}
    return sorted(content.hparams, key=lambda name: (is_hparam(name), -have[name]))


def slices(content: StudyContent) -> str:
    if len(content.ranked) < 2 or not content.hparams:
        return ""
    lead = f"{content.objective} by each hyperparameter alone; a point is a trial{_some(content)}." + (
        f" Colour and shape: {', '.join(_keyed(content))}." if len(content.families) > 1 else ""
    )
    parts = [
        f"<div><h3>{text(short_name(name))}</h3>"
        + plot(figures.slice_of(content, name), f"{content.objective} by {short_name(name)}", height=170)
        + "</div>"
        for name in content.hparams
    ]
    return section("slices", "Slices", lead, f'<div class="small">{"".join(parts)}</div>')


def _some(content: StudyContent) -> str:
    """Of a long search not all are drawn."""
    few, all_ = len(content.drawn), len(content.ranked)
    return "" if few == all_ else f" ({few:,} of {all_:,}, evenly by rank)"


def _keyed(content: StudyContent) -> list[str]:
    names = ("blue circles", "orange squares", "green diamonds", "violet triangles", "teal crosses")
    return [f"{family} {names[place % len(names)]}" for place, family in enumerate(content.families)]


def cost(content: StudyContent) -> str:
    costs = [
        (column, title)
        for column, title in (
            ("seconds", "seconds of training and validation"),
            ("num_parameters", "parameters"),
        )
        if len({row[column] for row in content.ranked if row[column]}) > 1
    ]
    if not costs:
        return ""
    lead = "What a better value costs. On the line: no trial is as good for less. Pruned trials trained less."
    drawn = [
        plot(figures.cost(content, column, title), f"{content.objective} by {title}", height=340)
        for column, title in costs
    ]
    return section("cost", "Accuracy against cost", lead, columns(*drawn))


def front(content: StudyContent) -> str:
    """Only with several objectives."""
    first, *others = content.about.objectives
    on_front = [row for row in content.ranked if row["on_front"]]
    if not others or not content.ranked:
        return ""
    lead = (
        f"{len(on_front)} of {len(content.ranked)} trials are on the front: no other is at least as good in "
        "all of the objectives and better in one. Which of them is best is yours to say."
    )
    listed = table(
        f"The front, best {first} first",
        ("trial", "model", *content.about.objectives),
        [
            (f"trial {row['trial']}", row["model"], *(_value(row[name]) for name in content.about.objectives))
            for row in sorted(on_front, key=lambda row: -float(row[first] or 0))
        ],
        left=2,
    )
    drawn = [
        plot(figures.front(content, other, first), f"{first} by {other}, the front marked", height=360)
        for other in others
    ]
    return section("front", "The front", lead, columns(*drawn), listed)


def _value(value: Any) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) >= 1 else value


def failures(content: StudyContent) -> str:
    by_class: defaultdict[str, list[Row]] = defaultdict(list)
    for row in content.in_state("failed"):
        by_class[str(row["error"] or NOT_RECORDED).partition(":")[0]].append(row)
    if not by_class:
        return ""
    rows = [
        (name, len(failed), _first_line(failed[0]), ", ".join(str(row["trial"]) for row in failed[:12]))
        for name, failed in sorted(by_class.items(), key=lambda entry: -len(entry[1]))
    ]
    study = shlex.quote(content.about.path)
    number = rows[0][3].split(",")[0]
    return section(
        "failures",
        "Failures",
        "By class, with the first line of the first of them.",
        table("Failed trials", ("class", "trials", "first line", "numbers"), rows, left=0).replace(
            ' class="number"', ""
        ),
        paragraph("The traceback of one, and all of them once more:"),
        code(f"seqsweep show {study} {number}\nseqsweep retry {study} --failed"),
    )


def _first_line(row: Row) -> str:
    return str(row["error"] or NOT_RECORDED).partition(": ")[2][:300]


def leaderboard(content: StudyContent) -> str:
    if not content.trials:
        return ""
    objectives = [name for name in content.about.objectives if name != content.objective]
    names = [*objectives, "best_epoch", "epochs", "num_parameters"]
    varied = [name for name in content.hparams if is_hparam(name)]
    rows = content.trials[:SHOWN_TRIALS]
    family = [name for name in FAMILY if any(row[name] is not None for row in rows)]
    listed = table(
        f"{len(rows)} of {len(content.trials)} trials" if len(rows) < len(content.trials) else "All trials",
        (
            "rank",
            "trial",
            "state",
            *family,
            content.objective,
            *map(_spaced, names),
            "time",
            *map(short_name, varied),
        ),
        [
            (
                row["rank"],
                row["trial"],
                row["state"],
                *(row[name] for name in family),
                finite(row["objective"]),
                *(_value(row[name]) for name in names),
                duration(row["seconds"]),
                *(shown(None) if row[name] is None else hparam_text(row[name]) for name in varied),
            )
            for row in rows
        ],
        left=3 + len(family),
    )
    lead = "Best first. All columns of all trials are in leaderboard.parquet."
    return section("leaderboard", "Leaderboard", lead, listed)


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def data(content: StudyContent) -> str:
    facts = content.about.data
    fingerprint = str(content.attrs["fingerprint"])
    if facts is None:
        return section(
            "data",
            "Data",
            f"Facts of the log are {NOT_RECORDED}: the study was run before they were kept. The command that "
            f"started it adds them when it is given again. Fingerprint: {fingerprint}.",
        )
    lead = (
        f"{facts['num_users']:,} users, {facts['num_items']:,} items, {facts['num_interactions']:,} "
        f"interactions from {facts['origin']}."
    )
    steps = table(
        "Before and after the filters",
        ("step", "interactions", "users", "items"),
        [(row["step"], row["num_rows"], row["num_users"], row["num_items"]) for row in facts["counts"]],
    )
    sides = [
        ("density", f"{facts['num_interactions'] / (facts['num_users'] * facts['num_items']):.3%}"),
        ("neighbours with equal times", share(facts["tie_share"]) if facts["has_timestamps"] else "no times"),
        ("repeats of an item by its user", share(facts["repeat_share"])),
        ("interactions of the top 1 % of items", share(facts["head_share"])),
        *((_spaced(name.removeprefix("num_")), number) for name, number in content.about.split.items()),
        ("fingerprint", fingerprint[:12]),
    ]
    lengths = plot(
        figures.bars(facts["lengths"], "interactions of a user", "users"),
        "Users by their interactions",
        height=250,
    )
    popularity = plot(
        figures.bars(facts["popularity"], "interactions of an item", "items"),
        "Items by their interactions",
        height=250,
    )
    return section(
        "data", "Data", lead, columns(lengths, popularity), columns(steps, table("Facts", ("", ""), sides))
    )


def made_with(content: StudyContent) -> str:
    facts = content.about.environment
    search: Mapping[str, Any] = facts.get("search", {})
    settings = [
        (_spaced(name), ", ".join(map(str, value)) if isinstance(value, list) else value)
        for name, value in search.items()
        if not isinstance(value, dict) and value not in (None, [])
    ]
    machine = [
        (_spaced(name), facts[name])
        for name in ("commit", "uncommitted_changes", "platform", "cpus")
        if facts.get(name) is not None
    ]
    versions: Mapping[str, str] = content.attrs["versions"]
    lead = "How it was searched, and with what: enough to run it again with study.toml."
    seed = [] if content.about.seed is None else [("seed", content.about.seed)]
    return section(
        "made-with",
        "Settings",
        lead,
        columns(
            table("Search", ("", ""), [*seed, *settings]) if seed or settings else "",
            table("Made with", ("", ""), [*machine, *sorted(versions.items())]),
        ),
    )
