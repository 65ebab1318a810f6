"""The service: propose, run, stop, resume, export."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sweep.inference import Recommender

# Ray reads this once, when it is first imported, wherever that is: so it stands here, before any of it.
os.environ.setdefault("RAY_AUTH_MODE", "token")


def load_model(path: str | Path, device: str | None = None) -> "Recommender":
    """The model in a `best/` folder, or of a study by its folder or its name below `runs`.

    device: "cpu", "cuda"; a GPU if there is one where None is given. Raises ModelError, a ValueError, for a
    folder that holds no model or one that this version can't use. Nothing in the folder is executed.

        load_model("runs/mine/best").recommend([[31, 1029, 17]], k=10)
    """
    from sweep.inference import load

    return load(path, device)
