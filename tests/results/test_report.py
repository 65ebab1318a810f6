import json
import math
import os
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqsweep.results.report import write_comparison, write_report
from seqsweep.results.report.content import StudyFolder, read_content
from seqsweep.results.report.cost import dominates_none
from seqsweep.results.report.curves import MAX_THIN
from seqsweep.results.report.importance import MIN_TRIALS, importance
from seqsweep.results.report.progress_plot import best_so_far
from seqsweep.results.schema import TrialRecord
from tests.reports import (
    BASELINES,
    FACTS,
    as_finalists,
    failed,
    front_study,
    full_study,
    optuna_trials,
    searched,
    write_study,
)

HOSTILE = "<script>alert(1)</script>\"'&<img src=http://evil.example/x onerror=alert(1)>"


class Page(HTMLParser):
    """What a browser would make of a report: elements, ids, and addresses that it would load."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sections: list[str] = []
        self.outside: list[str] = []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attributes)
        if tag == "section":
            self.sections.append(given["id"] or "")
        for name in ("src", "href", "data", "action", "srcset"):
            if name in given and not (given[name] or "").startswith("#"):
                self.outside.append(f"{tag} {name}={given[name]}")

    @property
    def own(self) -> str:
        """Without what every page has: styles and scripts that are no figure."""
        no_style = re.sub(r"<style>.*?</style>", "", self.html, flags=re.DOTALL)
        return re.sub(r"<script>.*?</script>", "", no_style, flags=re.DOTALL)


def figures(page: Page) -> list[Any]:
    found = re.findall(r'<script type="application/json">(.*?)</script>', page.html, re.DOTALL)
    return [json.loads(figure) for figure in found]


def page_of(about: StudyFolder) -> Page:
    return Page(write_report(about))


def test_a_full_study_has_every_section_but_the_front(tmp_path: Path) -> None:
    page = page_of(full_study(tmp_path / "mine"))
    assert page.sections == [
        *("best", "history", "finalists", "baselines", "curves", "importance", "parallel", "slices", "cost"),
        *("leaderboard", "failures", "data", "made-with"),
    ]
    assert "seqsweep recommend runs/mine/best LOG" in page.own
    assert (
        "diverged" in page.own
        and "loss is nan at epoch 2" in page.own
        and "seqsweep show runs/mine 30" in page.own
    )
    assert "time aware ceiling" in page.own and "0.0900 to 0.1200" in page.own
    assert "epochs 3, 9" in page.own and "44.0%" in page.own and "55,375" in page.own
    assert [path.name for path in (tmp_path / "mine").iterdir() if "staging" in path.name] == []


@pytest.mark.parametrize("make", [full_study, front_study])
def test_a_page_loads_nothing(tmp_path: Path, make: object) -> None:
    assert callable(make)
    page = page_of(make(tmp_path / "mine"))
    assert page.outside == [] and page.tags.count("script") > 5
    assert "default-src 'none'" in page.html and "https://" not in page.own and "http://" not in page.own


def test_an_empty_study_says_so_and_draws_nothing_about_trials(tmp_path: Path) -> None:
    page = page_of(write_study(tmp_path / "mine", []))
    assert page.sections == ["best", "finalists", "data", "made-with"]
    assert "No trial has a value yet." in page.own and page.own.count('class="plot"') == 2  # of the data


def test_a_study_of_failures_alone_shows_them_by_class(tmp_path: Path) -> None:
    records = [
        failed(0, "diverged: loss is nan"),
        failed(1, "out_of_memory: 3 GiB"),
        failed(2, "diverged: inf"),
    ]
    page = page_of(write_study(tmp_path / "mine", [*records, *BASELINES]))
    assert page.sections == ["best", "finalists", "baselines", "leaderboard", "failures", "data", "made-with"]
    rows = re.findall(
        r'<th scope="row">(diverged|out_of_memory)</th><td>(\d)</td><td>(.*?)</td><td>(.*?)</td>', page.own
    )
    assert rows == [("diverged", "2", "loss is nan", "0, 2"), ("out_of_memory", "1", "3 GiB", "1")]


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    records = [
        replace(record, model=HOSTILE, hparams={**record.hparams, "norm": HOSTILE if record.trial else "pre"})
        for record in searched(4)
    ]
    hostile = [failed(4, f"{HOSTILE}: {HOSTILE}"), TrialRecord(None, "baseline", 0.1, model=HOSTILE)]
    facts = replace(FACTS, study=HOSTILE, protocol=HOSTILE)
    usual = page_of(write_study(tmp_path / "usual", [*searched(4), failed(4, "e: x"), BASELINES[0]]))
    page = page_of(write_study(tmp_path / "hostile", [*as_finalists(records, 0), *hostile], facts=facts))
    assert page.outside == [] and "img" not in page.tags
    assert HOSTILE not in page.own and "<script>alert" not in page.html and "<img" not in page.own
    figures = re.findall(r'<script type="application/json">(.*?)</script>', page.html, re.DOTALL)
    assert page.tags.count("script") == len(figures) + 2 and all("<" not in figure for figure in figures)
    assert usual.tags.count("script") > 5


def test_sections_without_content_are_left_out_or_say_so(tmp_path: Path) -> None:
    page = page_of(write_study(tmp_path / "mine", searched(1), data=None))
    assert not {"failures", "front", "baselines", "parallel", "slices", "cost"} & set(page.sections)
    assert "Too few trials: 1 of the 20" in page.own and "None was trained." in page.own
    assert "Facts of the log are not recorded" in page.own
    queued = [*searched(1), TrialRecord(trial=1, state="queued")]
    assert "None yet: they come after" in page_of(write_study(tmp_path / "begun", queued)).own
    between = replace(write_study(tmp_path / "between", searched(3)), num_trials=9)  # none runs just now
    assert "None yet: they come after" in page_of(between).own
    shutil.copy(full_study(tmp_path / "full").folder / "finalists.parquet", between.folder)
    assert "None yet: they are being trained" in page_of(between).own


def test_of_many_trials_an_even_part_is_drawn(tmp_path: Path) -> None:
    about = write_study(tmp_path / "mine", searched(1500), with_trials=False)
    content = read_content(about)
    assert [row["rank"] for row in content.drawn] == list(range(1, 1500, 2))
    assert page_of(about).own.count("(750 of 1,500, evenly by rank)") == 2


def test_several_objectives_are_shown_as_a_front(tmp_path: Path) -> None:
    page = page_of(front_study(tmp_path / "mine"))
    assert "front" in page.sections and "2 of 6 trials are on the front" in page.own
    assert "num_parameters by" not in page.own and "valid.ndcg@10 by num_parameters" in page.own


def test_a_page_replaces_the_one_before_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = full_study(tmp_path / "mine")
    before = write_report(about).read_text()

    def die(*_: object) -> None:
        raise OSError("full")

    monkeypatch.setattr("os.replace", die)
    with pytest.raises(OSError, match="full"):
        write_report(about)
    assert (tmp_path / "mine/report.html").read_text() == before
    assert not list((tmp_path / "mine").glob(".*"))


def test_two_writers_of_a_page_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = full_study(tmp_path / "mine")
    replace_file, staged = os.replace, set()

    def meet(source: Path, target: Path) -> None:
        staged.add(source)
        if len(staged) == 1:  # the other one begins and ends before the first has renamed its file
            write_report(about)
        replace_file(source, target)

    monkeypatch.setattr("os.replace", meet)
    path = write_report(about)
    assert len(staged) == 2 and Page(path).sections
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert path.stat().st_mode == ordinary.stat().st_mode


def test_the_curves_say_how_many_of_those_pruned_are_drawn(tmp_path: Path) -> None:
    few = page_of(write_study(tmp_path / "few", searched(30), with_trials=False)).own
    assert "Thin: the 10 that were pruned" in few
    many = page_of(write_study(tmp_path / "many", searched(330), with_trials=False))
    assert f"Thin: {MAX_THIN} of the 110 that were pruned" in many.own
    traces = [trace for figure in figures(many) for trace in figure["data"]]
    ends = next(trace for trace in traces if trace.get("name") == "stopped here")
    assert len(ends["x"]) == MAX_THIN


def test_an_infinite_hparam_has_no_place_in_a_plot(tmp_path: Path) -> None:
    records = searched(6)
    infinite = {"lr": math.inf, "clip": math.inf}
    records[2] = replace(records[2], hparams={**records[2].hparams, **infinite})
    records[3] = replace(records[3], hparams={**records[3].hparams, "clip": -math.inf})
    page = page_of(write_study(tmp_path / "mine", records, with_trials=False))
    assert {"parallel", "slices"} <= set(page.sections) and "<h3>lr</h3>" in page.own
    assert "<h3>clip</h3>" not in page.own and '<th scope="col" class="number">clip</th>' in page.own
    told = [text for figure in figures(page) for trace in figure["data"] for text in trace.get("text", ())]
    assert "trial 2: lr inf" in told


def test_what_a_trial_has_not_is_told_as_such(tmp_path: Path) -> None:
    records = searched(6)
    records[0] = replace(records[0], hparams={**records[0].hparams, "num_streams": 2})
    records[1] = replace(records[1], hparams={**records[1].hparams, "num_streams": 4})
    page = page_of(write_study(tmp_path / "mine", records, with_trials=False)).html
    assert "trial 0: num_streams 2" in page and "trial 2: num_streams has none" in page


def test_importance_finds_the_hparam_that_decided() -> None:
    records = searched(60)
    found = importance(
        optuna_trials(records), {number: record.objective or 0 for number, record in enumerate(records)}
    )
    assert next(iter(found.shares)) == "sasrec.lr" and found.shares["sasrec.lr"] > 0.5
    assert sum(found.shares.values()) == pytest.approx(1)
    assert (found.num_trials, found.num_best) == (60, 6)


def test_importance_of_few_trials_is_not_given() -> None:
    records = searched(MIN_TRIALS - 1)
    found = importance(
        optuna_trials(records), {number: record.objective or 0 for number, record in enumerate(records)}
    )
    assert found.shares == {} and found.num_trials == MIN_TRIALS - 1


def test_best_so_far_has_a_step_where_a_trial_is_better() -> None:
    rows = [
        {"trial": trial, "objective": value} for trial, value in enumerate([0.1, 0.3, 0.2, None, 0.3, 0.4])
    ]
    assert best_so_far(rows) == [(0, 0.1), (1, 0.3), (5, 0.4)]


def test_a_front_has_what_no_other_row_beats() -> None:
    rows = [
        {"good": good, "cost": cost} for good, cost in [(1, 1), (2, 2), (2, 3), (3, 9), (0, 1), (None, 0)]
    ]
    front = dominates_none(rows, {"good": "maximize", "cost": "minimize"})
    assert [(row["good"], row["cost"]) for row in front] == [(1, 1), (2, 2), (3, 9)]


def beats(one: Sequence[int], other: Sequence[int]) -> bool:
    """More is better in the first, less in the second."""
    return one[0] >= other[0] and one[1] <= other[1] and one != other


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=30))
def test_a_front_is_as_its_definition_has_it(pairs: list[tuple[int, int]]) -> None:
    front = dominates_none(
        [{"good": good, "cost": cost} for good, cost in pairs], {"good": "maximize", "cost": "minimize"}
    )
    expected = [pair for pair in pairs if not any(beats(other, pair) for other in pairs)]
    assert [(row["good"], row["cost"]) for row in front] == expected


def test_the_front_of_a_long_search_takes_no_time() -> None:
    rows = [{"good": place, "cost": place} for place in range(10_000)]
    start = time.monotonic()
    assert len(dominates_none(rows, {"good": "maximize", "cost": "minimize"})) == 10_000
    assert time.monotonic() - start < 5  # it takes 0.01 s; comparing each with each took 79 s


def test_studies_side_by_side_and_what_forbids_to_compare_them(tmp_path: Path) -> None:
    first = full_study(tmp_path / "first")
    records = [*searched(5), *BASELINES]
    same = write_study(tmp_path / "same", records, facts=replace(FACTS, study="same"))
    other = write_study(
        tmp_path / "other", records, facts=replace(FACTS, fingerprint="77" * 16, protocol="temporal")
    )
    alike = Page(write_comparison([first, same], tmp_path / "alike.html"))
    assert 'class="warning"' not in alike.own.replace('<noscript><p class="warning">', "")
    assert alike.sections == ["side-by-side", "best-so-far", "hparams"] and alike.outside == []
    assert "0.1000 (0.0900 to 0.1200)" in alike.own and "31 (20 complete, 10 pruned, 1 failed)" in alike.own
    apart = Page(write_comparison([first, other], tmp_path / "apart.html")).own
    assert (
        "fingerprints 3f2a3f2a3f2a; 777777777777" in apart
        and "leave_one_out, ranking=full; temporal" in apart
    )
    assert "runs/other" in apart  # both are named "mine"


def test_a_study_without_a_leaderboard_is_refused(tmp_path: Path) -> None:
    about = full_study(tmp_path / "mine")
    (tmp_path / "mine/leaderboard.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="a table must exist"):
        read_content(about)
