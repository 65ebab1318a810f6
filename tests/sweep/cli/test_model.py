"""A trained model as a user meets it: train, evaluate, recommend, load_model, export."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from seqsweep import load_model
from seqsweep.data_pipeline.history import History
from seqsweep.models import MODELS
from seqsweep.results.best_folder import find_best
from seqsweep.sweep.best_model.model_folder import ModelError, read_exported
from seqsweep.sweep.best_model.recommender import _top
from tests.commands import called

ROOT = Path(__file__).parents[3]
every_model = pytest.mark.parametrize("model", MODELS)
SMALL = ("--max-users", "150", "--set", "hidden_dim=16", "--set", "max_len=12", "--epochs", "1")


def done(*arguments: str | Path) -> str:
    result = called(*arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def refused(*arguments: str | Path) -> str:
    """One message, no traceback."""
    result = called(*arguments)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in result.output and "error: " in result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def trained(folder: Path) -> Callable[[str], Path]:
    """The study of a model of this family, trained once."""

    def train(model: str) -> Path:
        study = folder / "runs" / f"demo-{model}"
        if not study.exists():
            places = ("--runs", folder / "runs", "--cache", folder / "cache")
            done("train", "demo", "--model", model, *SMALL, *places)
        return study

    return train


@pytest.fixture
def best(trained: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(trained("sasrec") / "best", tmp_path / "best"))


@every_model
def test_evaluate_gives_the_numbers_of_the_leaderboard(
    trained: Callable[[str], Path], folder: Path, model: str
) -> None:
    study = trained(model)
    record = json.loads(done("evaluate", study, "--json", "--cache", folder / "cache"))
    assert record["is_own_log"]
    row = pd.read_parquet(study / "leaderboard.parquet").loc[0]
    recorded = json.loads((study / "best/metrics.json").read_text())
    for part in ("valid", "test"):
        for name, value in record["metrics"][part].items():
            assert value == row[f"{part}.{name}"] == recorded[part][name]
    assert record["metrics"]["test"]["mrr"] > 0


@every_model
def test_recommended_are_the_best_of_all_scores(trained: Callable[[str], Path], model: str) -> None:
    recommender = load_model(trained(model) / "best", "cpu")
    generator = np.random.default_rng(0)
    ids = recommender.item_ids
    sequences = {f"u{n}": [ids[i] for i in generator.permutation(len(ids))[:n]] for n in (1, 3, 12, 30)}
    times = {user: [1_600_000_000 + 60 * n for n in range(len(s))] for user, s in sequences.items()}
    frame = recommender.recommend(sequences, 7, times=times)
    assert frame["user"].unique().tolist() == list(sequences)
    exported = read_exported(trained(model) / "best", "cpu")
    for user, sequence in sequences.items():
        known = recommender.known(_raw({user: sequence}, {user: times[user]}))
        score_V = _scores(exported, known)
        score_V[[ids.index(item) for item in sequence]] = -np.inf
        rows = frame[frame["user"] == user]
        assert rows["rank"].tolist() == [1, 2, 3, 4, 5, 6, 7]
        assert rows["item"].tolist() == [ids[i] for i in np.argsort(-score_V, kind="stable")[:7]]
        np.testing.assert_allclose(rows["score"], np.sort(score_V)[::-1][:7], rtol=1e-4, atol=1e-5)


def _raw(sequences: Any, times: Any) -> Any:
    from seqsweep.sweep.best_model.recommender import raw_log

    return raw_log(sequences, times)[1]


def _scores(exported: Any, known: Any) -> Any:
    """Of one user, by the model itself."""
    from seqsweep.data_pipeline.views.device import DeviceSequences

    log = DeviceSequences(known, torch.device("cpu"), known.target_U, exported.config.clock.usual_gap)
    length = np.minimum(known.target_U, exported.model.config.max_len)
    with torch.inference_mode():
        history: History = log.history(
            np.zeros(1, np.int64), known.target_U - length, length, with_times=exported.model.uses_time
        )
        return exported.model.score(exported.model.last_state(history))[0].numpy().copy()


def test_unknown_items_are_dropped_and_seen_ones_left_out_unless_kept(best: Path) -> None:
    recommender = load_model(best)
    first, second = recommender.item_ids[:2]
    plain = recommender.recommend([[first, second]])
    mixed = recommender.recommend([["never heard of"], [first, -5, second], []])
    assert mixed["user"].unique().tolist() == [1]
    assert mixed["item"].tolist() == plain["item"].tolist()
    num_items = len(recommender.item_ids)
    everything = recommender.recommend([[first, second]], k=10_000, exclude_seen=False)
    assert sorted(everything["item"]) == sorted(recommender.item_ids)
    assert everything["score"].is_monotonic_decreasing
    rest = recommender.recommend([[first, second]], k=10_000)
    assert len(rest) == num_items - 2 and not {first, second} & set(rest["item"])
    chosen = recommender.item_ids[5:9]
    assert set(recommender.recommend([[first]], candidates=chosen)["item"]) == set(chosen)
    with pytest.raises(ModelError, match="must know a candidate"):
        recommender.recommend([[first]], candidates=["no item"])
    with pytest.raises(ModelError, match="one time for each item"):
        recommender.recommend([[first, second]], times=[[1]])


def test_models_that_use_time_ask_for_it(trained: Callable[[str], Path]) -> None:
    recommender = load_model(trained("tisasrec"))
    with pytest.raises(ModelError, match="tisasrec uses times"):
        recommender.recommend([recommender.item_ids[:2]])


@pytest.mark.parametrize("width", [5, 64, 1000, 1001])
@pytest.mark.parametrize("k", [1, 5])
def test_top_is_a_sort_s_beginning(width: int, k: int) -> None:
    score_BN = torch.randn(7, width, generator=torch.Generator().manual_seed(0))
    score_BK, place_BK = _top(score_BN, k)
    torch.testing.assert_close(
        score_BK.sort(descending=True).values, score_BN.sort(descending=True).values[:, :k]
    )
    assert torch.equal(score_BN.gather(1, place_BK), score_BK)


def test_a_large_catalogue_is_searched_in_parts(best: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender = load_model(best)
    sequences = [recommender.item_ids[n : n + 3] for n in range(40)]
    whole = recommender.recommend(sequences, 20)
    monkeypatch.setattr("seqsweep.sweep.best_model.recommender.ITEMS_AT_A_TIME", 7)
    pd.testing.assert_frame_equal(recommender.recommend(sequences, 20), whole, rtol=1e-4)


def test_recommend_reads_any_log_without_its_rare_users(best: Path, tmp_path: Path) -> None:
    ids = load_model(best).item_ids
    rows = [
        "user,item,time",
        f"ann,{ids[0]},5",
        f"ann,{ids[1]},6",
        "bob,999999,7",
        f"eve,{ids[2]},8",
        "eve,999999,9",
    ]
    (tmp_path / "new.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "recs.parquet"
    told = done("recommend", best, tmp_path / "new.csv", "--top-k", "3", "--out", out)
    assert "dropped 2 interactions with 1 items" in told and "left out 1 users" in told
    table = pq.read_table(out)
    assert [str(kind) for kind in table.schema.types] == ["string", "int64", "float", "int32"]
    assert table["user"].to_pylist() == ["ann"] * 3 + ["eve"] * 3
    assert table["rank"].to_pylist() == [1, 2, 3] * 2
    again = load_model(best).recommend({"ann": ids[:2], "eve": [ids[2]]}, 3)
    assert table["item"].to_pylist() == again["item"].tolist()
    (tmp_path / "users.txt").write_text("eve\n")
    (tmp_path / "items.txt").write_text(f"{ids[7]}\n")
    only = ("--users", tmp_path / "users.txt", "--candidates", tmp_path / "items.txt")
    done("recommend", best, tmp_path / "new.csv", "--out", tmp_path / "one.csv", *only)
    frame = pd.read_csv(tmp_path / "one.csv")
    assert frame["user"].tolist() == ["eve"] and frame["item"].tolist() == [ids[7]]
    assert "must end in .parquet or .csv" in refused("recommend", best, "--out", tmp_path / "a.txt")
    assert not list(tmp_path.glob(".*"))


def test_another_log_is_evaluated_by_raw_ids(best: Path, tmp_path: Path) -> None:
    """The items of the model's log under the same raw ids, and some that it does not know."""
    ids = load_model(best).item_ids
    generator = np.random.default_rng(0)
    rows = [
        f"{user},{item},{1000 * user + place}"
        for user in range(30)
        for place, item in enumerate(generator.permutation([*ids[:20], 777777, 888888])[:9])
    ]
    (tmp_path / "next.csv").write_text("\n".join(["user,item,time", *rows]) + "\n")
    places = (tmp_path / "next.csv", "--max-users", "1000", "--cache", tmp_path / "cache")
    record = json.loads(done("evaluate", best, *places, "--json"))
    assert not record["is_own_log"] and record["num_unknown_items"] == 2
    assert record["num_users"] == {"valid": 30, "test": 30}
    # More is to choose from than the log's 22 items, and the model knows next to nothing.
    assert 0 < record["metrics"]["test"]["mrr"] < 0.3
    assert "another log than the model was trained on" in done("evaluate", best, *places)


@every_model
def test_items_that_are_not_known_take_no_place_of_the_window(
    trained: Callable[[str], Path], tmp_path: Path, model: str
) -> None:
    """Histories of 27 and more, unknown items among them and at their ends: `recommend` ranks the same."""
    best = trained(model) / "best"
    recommender = load_model(best, "cpu")
    ids = recommender.item_ids
    generator = np.random.default_rng(1)
    sequences = {}
    for user in range(12):
        items = generator.permutation(ids)[:16].tolist()
        for at in generator.integers(0, 15, 8):
            items.insert(int(at), 900_000 + int(at))
        sequences[user] = [*items[:-1], 900_100, 900_101, 900_102, items[-1]]
    rows = [
        f"{user},{item},{1_600_000_000 + 1000 * user + place}"
        for user, items in sequences.items()
        for place, item in enumerate(items)
    ]
    (tmp_path / "next.csv").write_text("\n".join(["user,item,time", *rows]) + "\n")
    places = (tmp_path / "next.csv", "--max-users", "1000", "--cache", tmp_path / "cache")
    record = json.loads(done("evaluate", best, *places, "--json"))
    assert record["num_unread_users"] == 0
    frame = recommender.recommend(
        {user: items[:-1] for user, items in sequences.items()},
        len(ids),
        times={u: [1_600_000_000 + 1000 * u + n for n in range(len(i) - 1)] for u, i in sequences.items()},
        exclude_seen="seen items removed" in record["protocol"],
    )
    rank_U = [
        frame.loc[(frame["user"] == user) & (frame["item"] == items[-1]), "rank"].item()
        for user, items in sequences.items()
    ]
    assert record["metrics"]["test"]["mrr"] == pytest.approx(np.mean(1 / np.array(rank_U)), rel=1e-6)


def test_what_is_no_sequence_is_one_message(best: Path, trained: Callable[[str], Path]) -> None:
    model, ids = load_model(best), load_model(best).item_ids
    wrong: list[tuple[Any, Any, str]] = [
        ([ids[0], ids[1]], None, "must be lists, one a user"),
        ("abc", None, "list of lists"),
        (pd.DataFrame({"item": ids[:2]}), None, "list of lists"),
        ([[ids[0], None]], None, "that are None"),
        ([[ids[0]]], [[1.5]], "whole numbers"),
        ([[ids[0]]], [[None]], "whole numbers"),
        ([[ids[0], ids[1]]], [[1]], "one time for each item"),
    ]
    for sequences, times, message in wrong:
        with pytest.raises(ModelError, match=message):
            model.recommend(sequences, times=times)
    large = model.recommend([[ids[0], 2**63 + 5]], 2)  # an id that it does not know, beyond 64 bits
    assert large["item"].tolist() == model.recommend([[ids[0]]], 2)["item"].tolist()


def test_mistakes_of_recommend_are_one_message(best: Path, tmp_path: Path) -> None:
    ids = load_model(best).item_ids
    log = tmp_path / "log.csv"
    log.write_text(f"user,item,time\nann,{ids[0]},5\n")
    before = log.read_text()
    assert "another file than the log" in refused("recommend", best, log, "--out", log)
    (tmp_path / "folder.parquet").mkdir()
    assert "which is a folder" in refused("recommend", best, log, "--out", tmp_path / "folder.parquet")
    out = ("--out", tmp_path / "out.csv")
    assert "must be a file of one id a line" in refused("recommend", best, log, *out, "--users", tmp_path)
    (tmp_path / "items.txt").write_bytes(b"\xef\xbb\xbf" + f"{ids[3]}\n777777\n".encode())
    told = done("recommend", best, log, *out, "--candidates", tmp_path / "items.txt")
    assert "1 of 2 candidates" in told and "among 1 items" in told
    assert pd.read_csv(out[1])["item"].tolist() == [ids[3]]
    assert "cpu and cuda" in refused("recommend", best, log, *out, "--device", "meta")
    assert log.read_text() == before


def test_a_model_inside_its_study_is_used_from_there(
    trained: Callable[[str], Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained("gru4rec") / "best")
    assert "to the last digit" in done("evaluate", ".", "--cache", folder / "cache")


def test_settings_are_refused_for_a_prepared_log(best: Path, folder: Path, tmp_path: Path) -> None:
    (prepared,) = [path.parent for path in (folder / "cache").glob("*/manifest.json")]
    out = ("--out", tmp_path / "out.csv")
    assert "is a prepared log" in refused("recommend", best, prepared, *out, "--min-rating", "5")
    assert "is a prepared log" in refused("evaluate", best, prepared, "--max-users", "3")


def spoil(best: Path, how: str) -> None:
    config = json.loads((best / "config.json").read_text())
    match how:
        case "no weights":
            (best / "model.safetensors").unlink()
        case "truncated weights":
            content = (best / "model.safetensors").read_bytes()
            (best / "model.safetensors").write_bytes(content[: len(content) // 2])
        case "not JSON":
            (best / "config.json").write_text("{")
        case "unknown model":
            (best / "config.json").write_text(json.dumps({**config, "model": "mamba"}))
        case "unknown setting":
            (best / "config.json").write_text(json.dumps({**config, "config": {"rope": True}}))
        case "other shape":
            wider = {**config["config"], "hidden_dim": 2**20}
            (best / "config.json").write_text(json.dumps({**config, "config": wider}))
        case "other items":
            (best / "config.json").write_text(json.dumps({**config, "num_items": 10**12}))
        case "broken ids":
            (best / "item_ids.parquet").write_bytes(b"PAR1 and no more")
        case "no metrics":
            (best / "metrics.json").unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no weights", "must hold model.safetensors"),
        ("truncated weights", "not a whole file of weights"),
        ("not JSON", "is not JSON"),
        ("unknown model", "must be one of bert4rec"),
        ("unknown setting", "does not fit sasrec"),
        ("other shape", "must be torch.float32"),
        ("other items", "must have the items 1 to 1000000000000"),
        ("broken ids", "no table of item ids"),
        ("no metrics", "must hold metrics.json"),
    ],
)
def test_a_spoilt_folder_is_one_message(best: Path, how: str, message: str) -> None:
    spoil(best, how)
    assert message in refused("evaluate", best)
    with pytest.raises(ModelError):
        load_model(best)


def test_a_folder_of_the_first_versions_recommends_and_says_what_it_lacks(best: Path, tmp_path: Path) -> None:
    config = json.loads((best / "config.json").read_text())
    for key in ("protocol", "data", "autocast", "num_threads", "clock"):
        del config[key]
    (best / "config.json").write_text(json.dumps(config))
    recommender = load_model(best)
    assert len(recommender.recommend([recommender.item_ids[:3]])) == 10
    assert "must have protocol and data" in refused("evaluate", best)
    assert "name a log" in refused("recommend", best)


def test_a_model_is_found_between_two_renames(best: Path) -> None:
    study = best.parent
    os.rename(best, study / ".best.replaced")
    assert find_best(study) == study / ".best.replaced"
    assert load_model(study).config.model == "sasrec"


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    assert "there is no model 'nothing'" in refused("recommend", "nothing", "--runs", tmp_path)


def test_train_goes_on_and_refuses_what_does_not_fit(trained: Callable[[str], Path], folder: Path) -> None:
    study = trained("sasrec")
    frame = pd.read_parquet(study / "leaderboard.parquet")
    assert frame["state"].tolist()[:2] == ["complete", "baseline"] and frame.loc[0, "hparam.hidden_dim"] == 16
    before = (study / "study.journal").read_bytes()
    places = ("--runs", folder / "runs", "--cache", folder / "cache")
    done("train", "demo", *SMALL, *places)
    assert (study / "study.journal").read_bytes().startswith(before)
    assert pd.read_parquet(study / "leaderboard.parquet").equals(frame)  # nothing was trained again
    assert "did you mean 'lr'" in refused("train", "demo", "--set", "lrr=1", *places)
    assert "--model must be one of" in refused("train", "demo", "--model", "gpt", *places)
    assert "heads" in refused("train", "demo", "--set", "num_heads=3", *places)


def test_the_package_is_imported_without_torch() -> None:
    code = "import sys, seqsweep as s; s.load_leaderboard; sys.exit(bool({'torch', 'ray'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def test_the_card_says_how_to_load_it(best: Path) -> None:
    card = (best / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace("runs/demo-sasrec/best", str(best))
    names: dict[str, Any] = {}
    exec(compile(code, "card", "exec"), names)
    assert len(names["model"].recommend([names["model"].item_ids[:3]])) == 10
    for line in ("## Beside it", "## How it was found", "## Intended use", "| pruner | none |"):
        assert line in card.splitlines()
    assert "baseline markov" in card and " to 0." in card


def test_onnx_gives_the_same_scores(best: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    told = done("export", best, "--onnx", tmp_path / "model.onnx")
    assert "scores differ from PyTorch's by at most" in told
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (score_BV,) = session.run(None, {"item_ids": np.array([[3, 1, 0, 0], [5, 2, 9, 4]])})
    recommender = load_model(best)
    ids = recommender.item_ids
    frame = recommender.recommend([[ids[2], ids[0]], [ids[4], ids[1], ids[8], ids[3]]], 1, exclude_seen=False)
    assert frame["item"].tolist() == [ids[place] for place in score_BV.argmax(1)]
    assert not list(tmp_path.glob(".*"))
    content = (tmp_path / "model.onnx").read_bytes()
    assert str(ROOT).encode() not in content and b"site-packages" not in content


def test_onnx_of_a_model_that_reads_one_item(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    places = ("--runs", folder / "runs", "--cache", folder / "cache", "--name", "one-item")
    done("train", "demo", *SMALL, "--set", "max_len=1", *places)
    done("export", folder / "runs/one-item", "--onnx", tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").is_file()


def test_onnx_of_a_recurrence_by_a_scan(trained: Callable[[str], Path], tmp_path: Path) -> None:
    """Whose passes depend on the length, and whose numbers are complex: the graph has neither."""
    onnxruntime = pytest.importorskip("onnxruntime")
    done("export", trained("lrurec"), "--onnx", tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    recommender = load_model(trained("lrurec") / "best", "cpu")
    for length in (1, 5, 12):
        item_id_BL = np.arange(1, 2 * length + 1).reshape(2, length)
        (score_BV,) = session.run(None, {"item_ids": item_id_BL})
        histories = [[recommender.item_ids[item_id - 1] for item_id in row] for row in item_id_BL]
        frame = recommender.recommend(histories, 1, exclude_seen=False)
        assert frame["item"].tolist() == [recommender.item_ids[place] for place in score_BV.argmax(1)]


def test_models_that_read_times_are_no_onnx(trained: Callable[[str], Path], tmp_path: Path) -> None:
    assert "reads times can't be exported" in refused(
        "export", trained("hstu"), "--onnx", tmp_path / "a.onnx"
    )
    assert not list(tmp_path.iterdir())
