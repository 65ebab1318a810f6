"""`top` and `compare` on leaderboards that lie somewhere."""

import json
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from seqsweep.results.leaderboard import StudyFacts, build_leaderboard, write_table
from seqsweep.results.schema import TrialRecord
from seqsweep.sweep.cli.render import table_of
from tests.commands import called

FACTS = StudyFacts("one", "3f2a", "valid.ndcg@10", "leave_one_out", {})
TRIALS = [
    TrialRecord(
        trial=number,
        state="pruned" if number % 2 else "complete",
        model="sasrec",
        objective=0.5 - number / 100,
        hparams={"lr": 10.0**-number},
        seconds=float(number % 5),
    )
    for number in range(12)
] + [TrialRecord(trial=None, state="baseline", model="markov", objective=0.2)]


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "leaderboard.parquet"
    write_table(build_leaderboard(TRIALS), path, FACTS)
    return str(path)


def test_the_table_for_a_reader_has_ten_trials_and_what_they_are_read_against(table: str) -> None:
    lines = called("top", table).stdout.splitlines()
    assert len(lines) == 1 + 10 + 1 and "markov" in lines[-1]
    assert len(called("top", table, "-n", "all").stdout.splitlines()) == 1 + 12 + 1
    assert len(called("top", table, "-n", "2").stdout.splitlines()) == 1 + 2 + 1


def test_what_can_be_spared_is_left_out_until_the_rest_fits_whole() -> None:
    frame = pd.DataFrame({"model": ["sasrec"], "seconds": [1.5], "valid.ndcg@10": [0.25], "loss": ["ce"]})

    def names(width: int) -> list[object]:
        return [column.header for column in table_of(frame, width, ("loss", "seconds")).columns]

    whole = len("sasrec  seconds  valid.ndcg@10  loss")
    assert names(whole) == ["model", "seconds", "valid.ndcg@10", "loss"]
    assert names(whole - 1) == ["model", "seconds", "valid.ndcg@10"]
    assert names(10) == ["model", "valid.ndcg@10"]


def test_a_reader_gets_the_columns_asked_for(table: str) -> None:
    done = called("top", table, "--columns", "trial,hparam.*", "--filter", "trial<3", "--sort", "hparam.lr")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["trial", "hparam.lr"],
        ["2", "0.01"],
        ["1", "0.1"],
        ["0", "1"],
    ]


def test_blanks_after_commas_are_no_part_of_a_name(table: str) -> None:
    done = called("top", table, "--columns", "trial, state", "--state", "complete, pruned", "-n", "1")
    assert [line.split() for line in done.stdout.splitlines()] == [["trial", "state"], ["0", "complete"]]


def test_where_no_row_is_left_a_reader_is_told_why_and_a_script_gets_an_empty_list(table: str) -> None:
    filters = ("--filter", "trial>99", "--filter", "model=x", "--state", "failed")
    for arguments in (filters, (*filters, "--columns", "trial")):
        done = called("top", table, *arguments)
        assert (done.exit_code, done.stdout) == (0, "no row meets trial>99 and model=x and state=failed\n")
    as_json, as_csv = (called("top", table, *filters, flag) for flag in ("--json", "--csv"))
    assert (json.loads(as_json.stdout), as_json.stderr) == ([], "")
    assert as_csv.stdout.count("\n") == 1 and as_csv.stderr == ""


def test_results_that_were_copied_without_their_journal_are_read(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = tmp_path / "runs" / "copied"
    copied.mkdir(parents=True)
    shutil.copy(table, copied)
    monkeypatch.chdir(tmp_path)
    expected = called("top", table).stdout
    for place in ("copied", "runs/copied", str(copied)):
        assert called("top", place).stdout == expected
        assert len(json.loads(called("compare", place, table, "--json").stdout)) == 2
    (copied / "leaderboard.parquet").unlink()
    assert "there is no study 'copied'" in called("top", "copied").stderr


def test_scripts_get_all_rows_and_nothing_but_the_table(table: str) -> None:
    rows = json.loads(called("top", table, "--json").stdout)
    assert len(rows) == 13 and rows[0]["rank"] == 1 and rows[11]["hparam.lr"] == 1e-11
    assert rows[12]["rank"] is None and rows[12]["model"] == "markov"
    frame = pd.read_csv(StringIO(called("top", table, "--csv", "--state", "pruned").stdout))
    assert frame["trial"].tolist() == [1, 3, 5, 7, 9, 11] and frame["hparam.lr"].iloc[-1] == 1e-11


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--columns", "test.ndgc@10"), "did you mean test.ndcg@10?"),
        (("--filter", "lr<1"), "did you mean hparam.lr?"),
        (("--sort", "second"), "did you mean seconds?"),
        (("-n", "few"), "--limit takes a number of trials, 0 or all, got 'few'"),
        (("--json", "--csv"), "--json and --csv can't be had at once"),
    ],
)
def test_a_mistake_is_one_message(table: str, arguments: tuple[str, ...], message: str) -> None:
    done = called("top", table, *arguments)
    assert done.exit_code == 1 and message in done.stderr and done.stdout == ""
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr


def test_a_file_that_is_no_leaderboard_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.parquet"
    path.write_text("rank,trial\n1,0\n")
    done = called("top", str(path))
    assert done.exit_code == 1 and "must be a table written by seqsweep" in done.stderr


def test_studies_side_by_side(table: str, tmp_path: Path) -> None:
    other = str(tmp_path / "other.parquet")
    write_table(build_leaderboard(TRIALS[3:]), Path(other), replace(FACTS, study="two", fingerprint="4f00"))
    done = called("compare", table, other)
    heading, one, two, *reasons = [line.split() for line in done.stdout.splitlines()]
    assert heading[:4] == ["study", "model", "metric", "valid"] and one[:4] == [
        "one",
        "sasrec",
        "ndcg@10",
        "0.5000",
    ]
    assert two[0] == "two" and (one[-1], two[-1]) == ("yes", "no")
    assert [" ".join(line) for line in reasons] == [
        "two can't be compared with one:",
        "fingerprint: 4f00, not 3f2a",
    ]
    rows = json.loads(called("compare", table, other, "--json").stdout)
    assert [row["comparable"] for row in rows] == [True, False] and [row["trials"] for row in rows] == [12, 9]
