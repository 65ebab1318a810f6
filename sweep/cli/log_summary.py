"""What a prepared log holds, in words: for `seqsweep prepare` and `seqsweep inspect`."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from seqsweep.data_pipeline.dates import iso_date
from seqsweep.data_pipeline.formats.describe import SourceGuess
from seqsweep.data_pipeline.preparing.manifest import length_ranges
from seqsweep.data_pipeline.schema import Manifest
from seqsweep.sweep.settings.protocol import REPEATS_ARE_NORMAL

BAR = 30  # characters of the longest bar of the histogram


def guess_lines(guess: SourceGuess) -> Iterator[str]:
    """How the log would be read, and the flags that say so."""
    many = f"; {len(guess.files)} files" if len(guess.files) > 1 else ""
    said = guess.separator is None or guess.separator in guess.why
    between = "" if said else f", {guess.separator} between"
    names = ", with names" if guess.header and guess.separator else ""
    yield f"{'format':<14}{guess.format}: {guess.why}{between}{names}{many}"
    yield f"{'columns':<14}{', '.join(f'{role} = {name}' for role, name in guess.columns.items())}"
    for number, row in enumerate(guess.rows):
        yield f"{'' if number else 'first rows':<14}{row}"
    if guess.flags:
        yield f"{'the same as':<14}{guess.flags}"
    yield ""


def as_record(guess: SourceGuess, manifest: Manifest) -> dict[str, Any]:
    """For scripts: how the log is read, and the manifest's facts."""
    facts = manifest.model_dump(mode="json", exclude={"shards", "tables", "ceilings"})
    shares = {
        "content": manifest.content,
        "tie_share": manifest.tie_share,
        "test_targets_tied": manifest.test_targets_tied,
        "repeat_share": manifest.repeat_share,
    }
    return {"source": {**asdict(guess), "files": [str(file) for file in guess.files]}, **facts, **shares}


def log_lines(manifest: Manifest) -> Iterator[str]:
    """Aligned lines: a label and what there is to say."""
    for label, text in _facts(manifest):
        yield f"{label:<14}{text}"
    yield "lengths"
    ranges = length_ranges(manifest.lengths)
    most, width = max(count for _, count in ranges), max(len(name) for name, _ in ranges)
    for name, count in ranges:
        yield f"  {name:>{width}}  {count:>11,}  {'#' * round(BAR * count / most)}".rstrip()


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield (
        "interactions",
        f"{manifest.num_interactions:,} of {manifest.num_users:,} users with {manifest.num_items:,} items",
    )
    for before, after in zip(manifest.counts, manifest.counts[1:], strict=False):
        who = "" if after.num_users is None else f", {after.num_users:,} users, {after.num_items:,} items"
        yield "", f"{after.step}: {before.num_rows:,} to {after.num_rows:,} interactions{who}"
    yield "time", _time(manifest)
    yield from _order(manifest)
    repeats = manifest.repeat_share
    decided = "removed" if repeats <= REPEATS_ARE_NORMAL else "kept"
    yield (
        "repeats",
        f"{repeats:.1%} of the interactions; with seen = auto, seen items are {decided} in rankings",
    )
    counts = manifest.leave_one_out
    yield (
        "evaluated",
        f"{counts['num_eval_users']:,} users (leave-one-out); {counts['num_train_only_users']:,} with fewer "
        "than 3 interactions only train",
    )
    yield (
        "cold targets",
        f"{counts['num_cold_test_targets']:,} of test and {counts['num_cold_valid_targets']:,} of validation "
        "are in nobody's training part, and always lose",
    )
    yield "content", manifest.content


def _time(manifest: Manifest) -> str:
    if manifest.time_range is None or manifest.time_unit is None:
        return "none: the order of the rows counts"
    start, end = (iso_date(time, manifest.time_unit) for time in manifest.time_range)
    return f"{start} to {end} (unit: {manifest.time_unit})"


def _order(manifest: Manifest) -> Iterator[tuple[str, str]]:
    if manifest.tie_order is None:
        return
    text = (
        f"{manifest.tie_share:.1%} of neighbours have equal times, and {manifest.test_targets_tied:.1%} of "
        "the test targets tie with the validation target"
    )
    yield "ties", text
    if manifest.neighbours.num_tied:
        yield (
            "",
            "ordered by a seeded hash: the log is stored by item id, which tells nothing of time"
            if manifest.tie_order == "hash"
            else "ordered as the rows are",
        )
