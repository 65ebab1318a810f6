"""Damaged logs of all formats: every one is read, or refused in one line that names it."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.formats.recognise import source_format
from seqsweep.data_pipeline.preparing.prepare import prepare
from seqsweep.data_pipeline.store import open_log, read_item_ids, read_user_ids
from tests.data_pipeline.formats.fuzz_corpus import Damaged, corpus

SEED = 20_240_229
NUM_FILES = 2_400
NUM_PARTS = 6
OF_ALL_ROWS = ("fewer than 3 interactions for every user", "nothing is left after the filter")


@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_damaged_files_are_read_or_refused(tmp_path: Path, part: int) -> None:
    cache = tmp_path / "cache"
    outcomes = {"read": 0, "refused": 0}
    for number, damaged in enumerate(corpus(SEED + part, NUM_FILES // NUM_PARTS)):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = folder / damaged.name
        path.write_bytes(damaged.content)
        outcomes["read" if check(path, damaged, cache) else "refused"] += 1
        left = [file.name for file in cache.iterdir()] if cache.exists() else []
        assert all(re.fullmatch(r"[0-9a-f]{32}(\.lock)?", name) for name in left), (
            path,
            damaged.damage,
            left,
        )
    assert outcomes["read"] > NUM_FILES / NUM_PARTS / 10
    assert outcomes["refused"] > NUM_FILES / NUM_PARTS / 3


def check(path: Path, damaged: Damaged, cache: Path) -> bool:
    """Whether the log could be prepared; with plausible counts then, else with a sound message."""
    what = f"{path}, {damaged.damage}, format={damaged.format}"
    try:
        folder = prepare(DataConfig(path=str(path), format=damaged.format), cache)
    except DataError as error:
        message = str(error)
        assert type(error) is DataError, what
        assert str(path) in message or message.startswith(OF_ALL_ROWS), (what, message)
        assert message.isprintable(), (what, message)
        assert len(message) < 1200 + len(str(path)), (what, message)
        return False
    log = open_log(folder)
    manifest = log.manifest
    assert 1 <= manifest.num_users <= manifest.num_interactions, what
    assert 1 <= manifest.num_items <= manifest.num_interactions, what
    assert sum(map(len, log.item_chunks())) == log.offset_U[-1] == manifest.num_interactions, what
    item = np.concatenate(list(log.item_chunks()))
    assert np.array_equal(np.unique(item), np.arange(1, manifest.num_items + 1)), what
    pairs = naive_pairs(path, damaged)
    if pairs is not None:
        user_id = np.repeat(np.arange(log.num_users), np.diff(log.offset_U))
        raw_user, raw_item = (read(folder)[name].to_numpy() for read, name in RAW_IDS)
        read_pairs = zip(raw_user[user_id].astype(str), raw_item[item - 1].astype(str), strict=True)
        assert Counter(read_pairs) == Counter(pairs), what
    return True


RAW_IDS = ((read_user_ids, "raw_user_id"), (read_item_ids, "raw_item_id"))
Pairs = list[tuple[str, str]]


def naive_pairs(path: Path, damaged: Damaged) -> Pairs | None:
    """User and item of every row as a few lines of Python read them; None where these are no judge."""
    if damaged.format != "auto" or "misnamed" in damaged.damage or not is_utf8(damaged.content):
        return None
    form, text = (
        source_format(DataConfig(path=str(path))),
        damaged.content.decode("utf-8-sig"),
    )
    if path.name in ("log.csv", "reviews.csv", "dates.csv"):
        return naive_table(text)
    return NAIVE[form](text) if form in NAIVE and path.suffix not in (".gz", ".bz2", ".zst", ".lz4") else None


def is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def naive_words(text: str) -> Pairs:
    rows = [
        re.split("[ \t]+", line.strip(" \t")) for line in re.split("\r\n|\r|\n", text) if line.strip(" \t")
    ]
    return [(row[0].strip(), row[1].strip()) for row in rows]


def naive_sequences(text: str) -> Pairs:
    rows = [
        re.split("[ \t]+", line.strip(" \t")) for line in re.split("\r\n|\r|\n", text) if line.strip(" \t")
    ]
    return [(row[0].strip(), item.strip()) for row in rows for item in row[1:]]


def naive_recbole(text: str) -> Pairs:
    header, *rows = [line.split("\t") for line in re.split("\r\n|\r|\n", text) if line]
    names = [name.strip() for name in header]
    user, item = names.index("user_id:token"), names.index("item_id:token")
    return [(row[user].strip(), row[item].strip()) for row in rows]


def naive_json(text: str) -> Pairs:
    """Two objects in a line are two rows, as a line end may lack."""
    rows, decoder = [], json.JSONDecoder()
    while text := text.strip():
        row, end = decoder.raw_decode(text)
        rows.append((str(row["reviewerID"]).strip(), str(row["asin"]).strip()))
        text = text[end:]
    return rows


def naive_table(text: str) -> Pairs | None:
    """Only of a header that is whole: a damaged one may mean anything."""
    found = re.match(r'\s*"?user(_id)?"?(.)"?item', text)
    if found is None:
        return None
    lines, usual = io.StringIO(text.lstrip(), newline=""), csv.field_size_limit()
    csv.field_size_limit(len(text) + 1)  # very long fields are among the damage
    header, *rows = [row for row in csv.reader(lines, delimiter=found[2]) if row]
    csv.field_size_limit(usual)
    roles = [name.strip().removesuffix("_id") for name in header]
    return [(row[roles.index("user")].strip(), row[roles.index("item")].strip()) for row in rows]


NAIVE: dict[str, Callable[[str], Pairs]] = {
    "plain": naive_words,
    "sequences": naive_sequences,
    "recbole": naive_recbole,
    "json_lines": naive_json,
}
