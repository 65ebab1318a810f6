"""What a shell completes; nothing heavy is imported, as somebody waits with a finger on the key."""

from glob import escape
from pathlib import Path

import typer

from seqsweep.sweep.storage.study_folder import studies_below

# A test compares them with models.MODELS.
MODELS = ("bert4rec", "gru4rec", "hstu", "lrurec", "sasrec", "tisasrec", "all")


def complete_study(context: typer.Context, incomplete: str) -> list[str]:
    runs = context.params.get("runs") or "runs"
    return [name for name in studies_below(Path(runs)) if name.startswith(incomplete)]


def complete_settings(context: typer.Context, incomplete: str) -> list[str]:
    """Of `run`: a study, or a file of settings."""
    files = (
        sorted(str(path) for path in Path().glob(f"{escape(incomplete)}*.toml"))
        if incomplete[:1] != "/"
        else []
    )
    return [*complete_study(context, incomplete), *files]


def complete_models(incomplete: str) -> list[str]:
    """The last of a list by commas."""
    before, comma, last = incomplete.rpartition(",")
    named = before.split(",")
    return [f"{before}{comma}{name}" for name in MODELS if name.startswith(last) and name not in named]
