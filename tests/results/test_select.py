from typing import Any

import pandas as pd
import pytest

from seqsweep.results.errors import TableError
from seqsweep.results.leaderboard import build_leaderboard
from seqsweep.results.schema import Hparam, TrialRecord
from seqsweep.results.select import Condition, as_records, select_columns, select_rows


def record(trial: int, objective: float, **hparams: Hparam) -> TrialRecord:
    return TrialRecord(trial=trial, state="complete", objective=objective, hparams=hparams)


RECORDS = [
    record(0, 0.4, model="sasrec", lr=1e-3, hidden_dim=64, tied=True),
    record(1, 0.3, model="gru4rec", lr=1e-2, hidden_dim=32),
    record(2, 0.2, model="sasrec", lr=0.1, hidden_dim=64, tied=False),
    TrialRecord(trial=3, state="failed", model="hstu", error="diverged: [nan]"),
    TrialRecord(trial=None, state="baseline", objective=0.25, model="markov"),
]
TIMES = ["2026-01-01T10:00Z", "2026-01-02T00:00Z", None, None, None]


@pytest.fixture
def frame() -> pd.DataFrame:
    """As `load_leaderboard` gives it."""
    return build_leaderboard(RECORDS).to_pandas(types_mapper=_nullable)


def _nullable(type_: Any) -> Any:
    return {
        "int32": pd.Int32Dtype(),
        "int64": pd.Int64Dtype(),
        "double": pd.Float64Dtype(),
        "bool": pd.BooleanDtype(),
        "string": pd.StringDtype(),
    }.get(str(type_))


@pytest.mark.parametrize(
    ("filters", "trials"),
    [
        (["model=sasrec"], [0, 2]),
        (["model == 'sasrec'", "hparam.lr<0.05"], [0]),
        (["hparam.lr>=1e-2"], [1, 2]),
        (["hparam.lr <= 0.01"], [0, 1]),
        (["hparam.hidden_dim>32"], [0, 2]),
        (["hparam.tied=true"], [0]),
        (["hparam.tied!=TRUE"], [2]),  # a null is neither equal nor different
        (["hparam.tied=null", "trial!=null"], [1, 3]),
        (["model~*rec", "model!=gru4rec"], [0, 2]),
        (["error~diverged: [[]*"], [3]),
        (["error!=null"], [3]),
        (["model=nobody"], []),
        (["error='this and that'"], []),
        (['model="sasrec"', "trial<1"], [0]),
        (["note='salt and pepper'"], [1]),
        (["note~salt and *"], [1]),
        (["'hparam.my own' > 2"], [2]),
        (['"hparam.my own"<=2'], [1]),
    ],
)
def test_rows_that_meet_all_conditions_are_kept(
    frame: pd.DataFrame, filters: list[str], trials: list[int]
) -> None:
    frame["note"] = pd.Series([None, "salt and pepper", "or", None, None], dtype="string")
    frame["hparam.my own"] = pd.Series([None, 2, 3, None, None], dtype="Int64")
    rows = select_rows(frame, conditions=map(Condition.parse, filters))
    assert rows["trial"].tolist() == trials


def test_a_time_is_compared_in_utc(frame: pd.DataFrame) -> None:
    frame["started_at"] = pd.Series(TIMES, dtype="datetime64[us, UTC]")
    for text, trials in (("started_at>=2026-01-02", [1]), ("started_at!=2026-01-02", [0])):
        assert select_rows(frame, conditions=[Condition.parse(text)])["trial"].tolist() == trials


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr<1", r"there is no column 'lr': did you mean hparam\.lr\?"),
        ("modle=x", r"did you mean model\?"),
        ("zzzzz=1", r"there are rank, trial(, [^, ]+){10} and \d+ more; docs/leaderboard\.md has all$"),
        ("hparam.lr<fast", r"hparam\.lr is compared with a number, got 'fast'"),
        ("hparam.tied=perhaps", "is compared with true or false, got 'perhaps'"),
        ("started_at<yesterdays", "is compared with a time"),
        ("model", r"must be COLUMN OPERATOR VALUE .* got 'model'"),
        ("model='a' or model='b'", "of several filters all must hold"),
        ("model = 'a' and trial < 3", "of several filters all must hold"),
    ],
)
def test_a_condition_that_can_not_be_is_explained(frame: pd.DataFrame, text: str, message: str) -> None:
    with pytest.raises(TableError, match=message):
        select_rows(frame, conditions=[Condition.parse(text)])


def test_states_order_and_limit(frame: pd.DataFrame) -> None:
    assert select_rows(frame, states=["failed", "baseline"])["model"].tolist() == ["hstu", "markov"]
    assert select_rows(frame, sort="-hparam.lr")["trial"].tolist()[:3] == [2, 1, 0]
    assert select_rows(frame, sort="objective")["model"].tolist()[:2] == ["sasrec", "markov"]
    limited = select_rows(frame, limit=1)
    assert limited["model"].tolist() == ["sasrec", "markov"]  # what a trial is read against stays
    with pytest.raises(TableError, match=r"a state must be one of complete, .*got 'done'"):
        select_rows(frame, states=["done"])


def test_columns_by_patterns_come_as_asked_and_once(frame: pd.DataFrame) -> None:
    assert select_columns(frame, ["objective", "hparam.*", "rank", "hparam.lr"]) == [
        "objective",
        "hparam.hidden_dim",
        "hparam.lr",
        "hparam.tied",
        "rank",
    ]
    with pytest.raises(TableError, match=r"no column 'test\.recall\*'"):
        select_columns(frame, ["test.recall*"])


def test_records_for_json_have_no_nan_and_every_digit() -> None:
    frame = pd.DataFrame(
        {
            "x": pd.array([0.1 + 0.2, float("nan")], dtype="Float64"),
            "n": pd.array([2**53 + 1, None], dtype="Int64"),
            "inf": [float("inf"), 1.0],
            "at": pd.Series(["2026-01-02T03:04:05Z", None], dtype="datetime64[us, UTC]"),
        }
    )
    assert as_records(frame) == [
        {"x": 0.30000000000000004, "n": 2**53 + 1, "inf": None, "at": "2026-01-02T03:04:05+00:00"},
        {"x": None, "n": None, "inf": 1.0, "at": None},
    ]
