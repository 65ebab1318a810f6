from __future__ import annotations

import hashlib
import json


def derive_seed(study_seed: int, *path: str | int) -> int:
    """A seed for one named use, as in `derive_seed(seed, "trial", 7)`; the same on every machine.

    It has 63 bits, to fit a signed 64-bit integer (Torch, Arrow). For NumPy's old generators take it modulo
    2**32.
    """
    # JSON keeps "1" and 1 apart, and ("a", "bc") from ("ab", "c").
    text = json.dumps([study_seed, *path], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def trial_seed(study_seed: int, trial_number: int) -> int:
    """Of everything random in a trial's training."""
    return derive_seed(study_seed, "trial", trial_number)
