"""`inspect` and `prepare` as a user meets them."""

import gzip
import json
import re
from pathlib import Path

import pytest
from typer.testing import Result

from seqsweep.data_pipeline.store import open_log
from tests.commands import called

ROWS = [(user, (user + step) % 9, 1_000_000_000 + 60 * step) for user in range(8) for step in range(user + 2)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.csv").write_text("who,what,when\n" + "".join(f"u{u},{i},{t}\n" for u, i, t in ROWS))
    return tmp_path


COLUMNS = ("--columns", "user=who,item=what,time=when")


def test_inspect_says_what_a_log_is_taken_for_and_what_it_holds(folder: Path) -> None:
    done = called("inspect", "log.csv", *COLUMNS)
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    assert "format delimited: by its name" in words
    assert "columns user = who, item = what, timestamp = when" in words
    assert "first rows u0,0,1000000000" in words
    assert "the same as --format delimited --columns user=who,item=what,timestamp=when" in words
    assert f"interactions {len(ROWS)} of 8 users with 9 items" in words
    assert "time 2001-09-09T01:46:40Z to 2001-09-09T01:54:40Z (unit: s)" in words
    assert "evaluated 7 users (leave-one-out); 1 with fewer than 3 interactions only train" in words
    assert "seen items are removed in rankings" in words
    assert re.search(r"lengths 2 1 #+ 3-4 2 #+ 5-9 5 #+", words)
    assert [path.name for path in folder.iterdir()] == ["log.csv"]  # nothing is kept


def test_inspect_for_scripts() -> None:
    done = called("inspect", "log.csv", *COLUMNS, "--json", "--max-users", "4")
    record = json.loads(done.output)
    assert record["source"]["format"] == "delimited"
    assert [count["step"] for count in record["counts"]] == ["read", "max_users"]
    assert (record["num_users"], record["counts"][0]["num_rows"]) == (4, len(ROWS))


def test_inspect_tells_the_guess_before_what_is_wrong(folder: Path) -> None:
    (folder / "bad.csv").write_text("user,item,time\n1,2,3\n1,3,4\n1,4,soon\n")
    done = called("inspect", "bad.csv")
    assert done.exit_code == 1
    assert "columns       user = user, item = item, timestamp = time" in done.output
    assert "error: bad.csv, line 4: non-numeric timestamp 'soon'" in done.output
    assert "Traceback" not in done.output


def prepared(done: Result) -> Path:
    assert done.exit_code == 0, done.output
    return Path(done.output.split("prepared in ")[1].strip())


def test_one_content_in_several_forms(folder: Path) -> None:
    forms = {
        "log.jsonl.gz": gzip.compress(
            "".join(json.dumps({"user_id": f"u{u}", "asin": i, "ts": t}) + "\n" for u, i, t in ROWS).encode()
        ),
        "log.inter": (
            "user_id:token\titem_id:token\ttimestamp:float\n"
            + "".join(f"u{u}\t{i}\t{t}.0\n" for u, i, t in ROWS)
        ).encode(),
    }
    folders = [prepared(called("prepare", "--data", "log.csv", *COLUMNS))]
    for name, content in forms.items():
        (folder / name).write_bytes(content)
        folders.append(prepared(called("prepare", "--data", name)))
    manifests = [open_log(path).manifest for path in folders]
    assert len({manifest.fingerprint for manifest in manifests}) == 3
    assert len({manifest.content for manifest in manifests}) == 1


def test_append_and_a_prepared_folder_as_the_log(folder: Path) -> None:
    old = prepared(called("prepare", "--data", "log.csv", *COLUMNS))
    (folder / "new.csv").write_text("who,what,when\nu0,5,2000000000\nu9,77,2000000000\n")
    for data in (("log.csv", *COLUMNS), (str(old),)):
        new = prepared(called("prepare", "--data", *data, "--append", "new.csv"))
        log = open_log(new)
        assert (log.num_users, log.num_items, log.manifest.num_interactions) == (9, 10, len(ROWS) + 2)
    (folder / "older.csv").write_text("who,what,when\nu0,5,5\n")
    done = called("prepare", "--data", str(old), "--append", "older.csv")
    assert done.exit_code == 1 and "at or after the old log's end" in " ".join(done.output.split())


def test_filters_by_flag() -> None:
    flags = ("--start-time", "2001-09-09T01:47:00Z", "--drop-duplicates", "--min-user-interactions", "2")
    done = called("prepare", "--data", "log.csv", *COLUMNS, *flags, "--k-core", "single")
    manifest = open_log(prepared(done)).manifest
    assert [count.step for count in manifest.counts] == ["read", "time_range", "drop_duplicates", "k_core"]
    assert manifest.counts[1].num_rows == len(ROWS) - 8  # each user's first
