"""Given an interaction log, find the best sequential recommender for it. `__all__` is what is promised."""

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqsweep.results.compare import compare_studies
    from seqsweep.results.leaderboard import load_epochs, load_finalists, load_leaderboard
    from seqsweep.sweep.best_model.recommender import load_model

__all__ = ["compare_studies", "load_epochs", "load_finalists", "load_leaderboard", "load_model"]

# In a wheel the packages lie in this folder, in a checkout beside it. The links that a checkout has here are
# for type checkers and editors; on the way to some machines they get lost, or turn into copies.
_ROOT = Path(__file__).parents[1]
if (_ROOT / "pyproject.toml").is_file() and (_ROOT / "search_spaces").is_dir():
    __path__.insert(0, str(_ROOT))

# Ray reads this once, when it is first imported, wherever that is: so it stands here, before any of it.
os.environ.setdefault("RAY_AUTH_MODE", "token")

_MODULES = {
    "compare_studies": "seqsweep.results.compare",
    "load_epochs": "seqsweep.results.leaderboard",
    "load_finalists": "seqsweep.results.leaderboard",
    "load_leaderboard": "seqsweep.results.leaderboard",
    "load_model": "seqsweep.sweep.best_model.recommender",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `import seqsweep` takes no torch and no pandas."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
