from pathlib import Path

import optuna
import pytest

import seqsweep.sweep.driver.report_page
from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.preparing.prepare import prepare
from seqsweep.data_pipeline.store import read_manifest
from seqsweep.search_spaces import Hparam
from seqsweep.sweep.driver.publish import Publisher
from seqsweep.sweep.driver.report_page import ReportWriter, data_facts, read_study_folder
from seqsweep.sweep.settings.search import SearchConfig
from seqsweep.sweep.study.attributes import StudyAttributes
from seqsweep.sweep.study.study import Study
from tests.commands import called
from tests.reports import FACTS


def space(trial: optuna.Trial) -> dict[str, Hparam]:
    return {"model": "sasrec", "lr": trial.suggest_float("lr", 1e-4, 1e-2, log=True)}


def open_study(folder: Path, search: SearchConfig | None = None) -> Study:
    attributes: StudyAttributes = {"families": ["sasrec"], "identity": {"training": {"objective": "hr@10"}}}
    return Study.open(
        folder, name=folder.name, seed=0, search=search or SearchConfig(), space=space, attributes=attributes
    )


@pytest.fixture
def said() -> list[str]:
    return []


def test_a_page_is_written_with_the_tables_but_not_each_time(tmp_path: Path, said: list[str]) -> None:
    with open_study(tmp_path / "mine") as study:
        publisher = Publisher(
            study, tmp_path / "mine", FACTS, [], report=ReportWriter(study, tmp_path / "mine", said.append)
        )
        publisher.write()
        page = tmp_path / "mine/report.html"
        before = page.stat().st_ino
        publisher._written_at = -1e9
        publisher._num_changes = -1
        publisher.step()
        assert page.stat().st_ino == before  # a minute has not passed
        publisher.write()
        assert page.stat().st_ino != before  # at the end it is written whatever the time
    assert said == []


def test_a_page_that_fails_does_not_end_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("of a plot")

    with open_study(tmp_path / "mine") as study:
        monkeypatch.setattr(seqsweep.sweep.driver.report_page, "write_report", fail)
        ReportWriter(study, tmp_path / "mine", said.append).step()
    assert said == ["warning: report.html could not be written (ZeroDivisionError: of a plot)"]


def test_facts_of_a_study_are_read_from_its_folder_alone(tmp_path: Path) -> None:
    with open_study(tmp_path / "mine", SearchConfig(trials=7, max_epochs=30, objectives=("num_parameters",))):
        pass
    with Study.read(tmp_path / "mine") as study:
        found = read_study_folder(study, tmp_path / "mine")
    assert found.objectives == {"valid.hr@10": "maximize", "num_parameters": "minimize"}
    assert (found.num_trials, found.rungs, found.data, found.seed) == (7, {}, None, 0)
    with open_study(tmp_path / "one", SearchConfig(max_epochs=30)) as study:
        assert read_study_folder(study, tmp_path / "one").rungs == {"sasrec": (3, 9, 27)}


def test_data_facts_count_users_and_items_by_their_interactions(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    # Item 9 is met by all 10 users, in their first place; the others by one user each.
    lines = [
        f"{user} {9 if place == 0 else 100 * user + place} {place // 2}"
        for user in range(10)
        for place in range(4)
    ]
    log.write_text("\n".join(lines) + "\n")
    prepared = prepare(DataConfig(path=str(log)), tmp_path / "cache", lambda _: None)
    facts = data_facts(read_manifest(prepared), prepared)
    assert (facts["num_users"], facts["num_items"], facts["num_interactions"]) == (10, 31, 40)
    assert facts["lengths"] == [("3-4", 10)]
    assert facts["popularity"] == [("1", 30), ("2", 0), ("3-4", 0), ("5-9", 0), ("10-19", 1)]
    assert facts["tie_share"] == pytest.approx(2 / 3)  # times 0, 0, 1, 1
    assert facts["head_share"] == 10 / 40  # of one item of 31
    assert [step["step"] for step in facts["counts"]] == ["read"]


def test_report_as_a_command(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with open_study(tmp_path / name) as study:
            Publisher(study, tmp_path / name, FACTS, []).write()

    def seqsweep(*arguments: str) -> tuple[int, str]:
        done = called("report", *arguments, "--runs", str(tmp_path))
        return done.exit_code, done.output

    assert seqsweep("one")[0] == 0 and (tmp_path / "one/report.html").is_file()
    assert seqsweep("one", "two", "--out", str(tmp_path / "both.html"))[0] == 0
    assert "2 studies compared" in (tmp_path / "both.html").read_text()
    code, output = seqsweep("one", "--out", str(tmp_path / "none/page.html"))
    assert code == 1 and "--out must be a file in a folder that is there" in output
    code, output = seqsweep("three")
    assert code == 1 and "there is no study 'three'; below" in output
