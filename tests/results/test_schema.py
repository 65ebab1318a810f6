import re
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqsweep import compare_studies
from seqsweep.results.metrics import METRICS
from seqsweep.results.schema import (
    EpochRecord,
    TrialRecord,
    epochs_schema,
    finalists_schema,
    leaderboard_schema,
)

FIXTURE = Path(__file__).parents[1] / "fixtures" / "leaderboard-v1"
SPREAD = ("mean", "std", "low", "high")
DOCUMENT = Path(__file__).parents[2] / "docs" / "leaderboard.md"


def documented_types(section: str) -> dict[str, str]:
    """Column name to type from the tables under one heading of docs/leaderboard.md."""
    text = DOCUMENT.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    types: dict[str, str] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            types |= {name: cells[1] for name in re.findall(r"`([^`]+)`", cells[0])}
    return types


def type_names(schema: pa.Schema) -> dict[str, str]:
    return {field.name: str(field.type).replace("double", "float64") for field in schema}


def test_the_document_lists_every_leaderboard_column_with_its_type() -> None:
    documented = documented_types("leaderboard.parquet")
    assert documented.pop("hparam.*") == "int64, float64, string or bool"
    assert documented == type_names(leaderboard_schema({}))


def test_the_document_lists_every_finalists_column_with_its_type() -> None:
    assert documented_types("finalists.parquet") == type_names(finalists_schema())


def test_the_document_lists_every_epochs_column_with_its_type() -> None:
    assert documented_types("epochs.parquet") == type_names(epochs_schema())


def test_the_document_explains_every_column_of_a_real_leaderboard() -> None:
    documented = documented_types("leaderboard.parquet")
    patterns = ["hparam.*", "seeds", *(f"{split}.*.{part}" for split in ("valid", "test") for part in SPREAD)]
    for name in pq.read_schema(FIXTURE / "leaderboard.parquet").names:
        assert name in documented or any(fnmatchcase(name, pattern) for pattern in patterns), name


def test_the_document_lists_the_columns_of_a_comparison() -> None:
    text = DOCUMENT.read_text(encoding="utf-8").split("\n## compare_studies\n")[1].split("\n## ")[0]
    cells = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    documented = {name: cell[1].strip() for cell in cells for name in re.findall(r"`([^`]+)`", cell[0])}
    written = {str(name): str(dtype) for name, dtype in compare_studies([FIXTURE]).dtypes.items()}
    metrics = {
        name: written.pop(name) for name in map(str, list(written)) if re.match(r"(valid|test)\.", name)
    }
    assert (
        documented.pop("valid.*") == documented.pop("test.*") == "Float64" == "".join(set(metrics.values()))
    )
    assert written == documented


def test_metric_columns_derive_from_the_registry() -> None:
    names = set(leaderboard_schema({}).names)
    assert {f"{split}.{metric}" for split in ("valid", "test") for metric in METRICS} <= names


def test_hparam_columns_stand_in_alphabetical_order_after_the_family() -> None:
    names = leaderboard_schema({"lr": pa.float64(), "dropout": pa.float64()}).names
    assert names[4:9] == ["model", "residual", "loss", "hparam.dropout", "hparam.lr"]


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_metric_nobody_knows_is_refused(split: str) -> None:
    with pytest.raises(ValueError, match=r"among ndcg@1, .*got ndcg@3"):
        TrialRecord(trial=0, state="complete", **{split: {"ndcg@3": 0.1}})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got recall"):
        EpochRecord(trial=0, epoch=1, valid={"recall": 0.1})


def test_a_time_without_a_zone_is_refused() -> None:
    aware = datetime(2026, 1, 2, tzinfo=UTC)
    TrialRecord(trial=0, state="complete", started_at=aware, ended_at=aware)
    with pytest.raises(ValueError, match="ended_at must carry a time zone"):
        TrialRecord(trial=0, state="complete", started_at=aware, ended_at=aware.replace(tzinfo=None))
