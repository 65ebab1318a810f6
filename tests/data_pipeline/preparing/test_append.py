"""A log that is appended to is the log prepared from both parts; what could differ is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.preparing.append import append
from seqsweep.data_pipeline.preparing.prepare import prepare
from seqsweep.data_pipeline.store import open_log

Row = tuple[object, ...]

OLD = [("u", "b", 5), ("v", "a", 6), ("u", "c", 7), ("v", "b", 8), ("u", "a", 9)]
NEW = [("v", "d", 9), ("w", "a", 10), ("u", "d", 11)]


def as_csv(rows: list[Row]) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


@pytest.fixture
def both(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Old prepared and new appended; and both prepared together."""
    runs = 0

    def prepare_both(old: list[Row], new: list[Row], **options: object) -> tuple[Path, Path]:
        nonlocal runs
        runs += 1
        folder = tmp_path / str(runs)
        (folder / "log").mkdir(parents=True)
        (folder / "log" / "1.csv").write_text(as_csv(old))
        (folder / "log" / "2.csv").write_text(as_csv(new))
        config = DataConfig.model_validate(
            {"path": str(folder / "log" / "1.csv"), "format": "delimited", **options}
        )
        first = prepare(config, folder / "cache")
        appended = append(first, str(folder / "log" / "2.csv"), folder / "cache", print)
        together = prepare(config.model_copy(update={"path": str(folder / "log")}), folder / "other")
        return appended, together

    return prepare_both


def assert_equal(appended: Path, together: Path, *, steps: int = 1) -> None:
    assert appended.name == together.name  # the fingerprint
    files = sorted(path.name for path in together.iterdir())
    assert sorted(path.name for path in appended.iterdir()) == files
    for name in files:
        if name != "manifest.json":
            assert (appended / name).read_bytes() == (together / name).read_bytes(), name
    one, other = open_log(appended).manifest, open_log(together).manifest
    assert len(one.counts) == steps
    assert [count.num_rows for count in one.counts] == [count.num_rows for count in other.counts]
    assert one.counts[-1] == other.counts[-1]
    left_out = {"name", "origin", "counts"}
    assert one.model_dump(exclude=left_out) == other.model_dump(exclude=left_out)


rows = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 3)), min_size=4, max_size=25
).filter(lambda log: max([u for u, _, _ in log].count(user) for user, _, _ in log) >= 3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(rows, rows, st.booleans(), st.sampled_from(["", "x"]))
def test_appended_equals_together(
    both: Callable[..., tuple[Path, Path]],
    old: list[tuple[int, int, int]],
    new: list[tuple[int, int, int]],
    has_time: bool,
    prefix: str,
) -> None:
    width = 3 if has_time else 2
    first = [
        (user, f"{prefix}{item}", time)[:width] for user, item, time in sorted(old, key=lambda row: row[2])
    ]
    second = [(user + 2, f"{prefix}{item + 2}", time + 3)[:width] for user, item, time in new]
    assert_equal(*both(first, second, shard_bytes=40))


def test_filters_are_applied_to_what_is_new(both: Callable[..., tuple[Path, Path]]) -> None:
    old = [(*row[:2], rating, row[2]) for row, rating in zip(OLD, [5, 4, 4, 1, 5], strict=True)]
    new = [(*row[:2], rating, row[2]) for row, rating in zip(NEW, [4, 1, 5], strict=True)]
    assert_equal(*both(old, new, min_rating=3, end_time=11), steps=3)


def test_new_duplicates_are_dropped(both: Callable[..., tuple[Path, Path]]) -> None:
    assert_equal(*both(OLD, [*NEW[1:], NEW[1]], drop_duplicates=True), steps=2)


def test_ties_that_were_hashed(both: Callable[..., tuple[Path, Path]]) -> None:
    old = [(user, item, 5) for user in range(4) for item in range(6)]  # stored by item
    new = [(user, item, 6) for user in range(4) for item in range(6)]
    appended, together = both(old, new)
    assert_equal(appended, together)
    assert open_log(appended).manifest.tie_order == "hash"


def test_ties_that_begin_to_be_hashed(both: Callable[..., tuple[Path, Path]]) -> None:
    old = [(0, 1, 5), (0, 0, 5), (0, 2, 6)]
    new = [(user, item, 6) for user in range(4) for item in range(6)]
    appended, together = both(old, new)
    assert_equal(appended, together)
    assert open_log(appended).manifest.tie_order == "hash"


@pytest.mark.parametrize(
    ("old", "new", "options", "words"),
    [
        (OLD, [("u", "a", 8)], {}, "at or after the old log's end, got 8 and an end of 9"),
        (OLD, NEW, {"drop_duplicates": True}, "must be after the old log's end, got 9"),
        (OLD, NEW, {"min_user_interactions": 2}, "min_item_interactions, and the old log has it"),
        (OLD, NEW, {"max_users": 5}, "no max_users"),
        ([(0, 1), (0, 2), (0, 3)], [(0, 4)], {"drop_duplicates": True}, "no drop_duplicates"),
        (OLD, [("u", "a", "2001-01-01T00:00:00.5")], {}, "has s, got us; convert the times"),
        ([(1, 1, 1), (1, 2, 2), (1, 3, 3)], [("x", 1, 4)], {}, "user ids that are string, such as 'x'"),
        (OLD, [("u", "a", -1)], {}, "negative timestamp"),
        (
            [(user, item, 5) for user in range(4) for item in range(6)],
            [(user, item, 6) for user in range(4) for item in range(6, 0, -1)],
            {},
            "don't ascend by item id any more",
        ),
    ],
)
def test_refused(
    both: Callable[..., tuple[Path, Path]],
    tmp_path: Path,
    old: list[Row],
    new: list[Row],
    options: dict[str, object],
    words: str,
) -> None:
    with pytest.raises(DataError, match=words):
        both(old, new, **options)
    assert not [path for path in (tmp_path / "1" / "cache").iterdir() if path.name.startswith(".staging")]


def test_generated_log(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="generated"):
        append(prepare(DataConfig(), tmp_path), "x.csv", tmp_path, print)
