"""Write README.md: what each benchmark measures, how to run it, and the tables of its newest records.

python -m benchmarks.readme [--check]
"""

import argparse
import ast
import os
from pathlib import Path
from typing import Any

from benchmarks.record import HERE, RECORDS, Row, cell, newest

README = HERE / "README.md"
NAMES = (
    "bench_peers",
    "train_epoch",
    "rank_users",
    "growth",
    "large_catalogue",
    "tisasrec_memory",
    "mhc_overhead",
    "prepare_log",
    "store_sharing",
    "store_sharing_nodes",
    "sweep_overhead",
    "sweep_vs_plain_tune",
    "study_cost",
    "evaluation_schedule",
    "pruning",
    "learning",
    "time_to_quality",
)
HEAD = """# Benchmarks

Made by `python -m benchmarks.readme` from the newest records in `records/`: do not edit. `make bench` runs
all but the peers, `make bench-peers` those, with RecTools in an environment of its own; both end by making
this page. `learning` and `time_to_quality` take hours and are run by hand.
Run from the folder of the project; each also runs alone. Logs are looked for in `$SEQSWEEP_DATA`,
else in `../shared/data`; without them `train_epoch` and `rank_users` take the generated log. A GPU is used
where there is one (`--device cpu` leaves it alone). Nothing here is a test: machines are noisy, so compare
what one run measured, and read ratios rather than seconds.

A value that was measured several times is its median (lowest – highest). The floor is what operations and
bytes would take at the best rates measured on the same machine (`benchmarks/floor.py` says what is counted);
its share of the measured time is how close a program comes to it.
"""


def text() -> str:
    return "\n".join([HEAD, *(section(name) for name in (*NAMES, *others()))])


def others() -> list[str]:
    """Benchmarks that have a record and no place of their own yet."""
    recorded = {path.name.partition("-")[0] for path in RECORDS.glob("*.json")}
    return sorted(recorded - set(NAMES))


def section(name: str) -> str:
    parts = [f"## {name}", description(HERE / f"{name}.py")]
    records = newest(name)
    parts += [part for record in records for part in (facts(record), table(record["rows"]))]
    if not records:
        parts.append("No record yet.")
    return "\n\n".join(parts) + "\n"


def description(path: Path) -> str:
    """The script's docstring, its command as a block of code."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    paragraphs = []
    for paragraph in docstring.split("\n\n"):
        is_code = paragraph.startswith(("python ", "    "))
        paragraphs.append(f"```\n{paragraph}\n```" if is_code else paragraph)
    return "\n\n".join(paragraphs)


def facts(record: dict[str, Any]) -> str:
    """One paragraph: when, on what, with which settings."""
    machine = record["machine"]
    place = [machine["cpu"], f"{machine['cores']} cores", f"{machine['memory_gib']:g} GiB"]
    if machine["gpu"]:
        place.append(machine["gpu"])
    if machine["threads"]:
        place.append(f"{machine['threads']} threads")
    place += [f"torch {machine['torch']}", f"Python {machine['python']}"]
    settings = ", ".join(
        f"{key} {cell(value)}"
        for key, value in record["settings"].items()
        if value is not None and value is not False and value != [] and key not in ("threads", "device")
    )
    more = ", ".join(
        f"{key.replace('_', ' ')}: {cell(value)}"
        for key, value in record.items()
        if key not in ("benchmark", "date", "commit", "machine", "settings", "rows")
    )
    lines = [f"{record['date'][:10]}, {', '.join(place)}. Settings: {settings or 'none'}."]
    return " ".join([*lines, *([f"{more}."] if more else [])])


def table(rows: list[Row]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(column.replace("_", " ") for column in columns) + " |"]
    lines.append("|" + "|".join("--:" if is_number(rows, column) else "---" for column in columns) + "|")
    lines += ["| " + " | ".join(cell(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def is_number(rows: list[Row], column: str) -> bool:
    return not any(isinstance(row.get(column), str) and "%" not in row[column] for row in rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; say whether it is up to date")
    arguments = parser.parse_args(argv)
    if arguments.check:
        if not README.exists() or README.read_text() != text():
            raise SystemExit(f"{README.name} is not what the records say: run python -m benchmarks.readme")
        return
    staging = README.with_suffix(".staging")
    staging.write_text(text())
    os.replace(staging, README)


if __name__ == "__main__":
    main()
