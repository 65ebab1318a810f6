"""Settings of the process that computes: without them a CPU spends much of its time beside arithmetic."""

import ctypes
from functools import cache

import torch

# Parameters of glibc's mallopt, from malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEPT_BLOCK = 32 * 2**20  # bytes; the largest threshold that glibc takes


def flush_denormals() -> None:
    """Denormals count as zero from now on in this thread: Adam's moments of rare items decay into them, and
    steps are then 10 x slower."""
    torch.set_flush_denormal(True)


@cache
def keep_freed_memory() -> None:
    """Freed memory up to `KEPT_BLOCK` bytes a block stays with the process from now on.

    By default glibc gives blocks as large as an item table or a batch's activations back at once, and the
    kernel zeroes them again at the next step, page by page: 360,000 faults an epoch of Games. Other C
    libraries keep their ways.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BLOCK)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_TOP_PAD, 2 * KEPT_BLOCK)


def give_back_memory() -> None:
    """To the system, what earlier trials of this process have freed."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
        has_both = hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")
    except (OSError, TypeError):  # TypeError: Windows, where a library must be named
        return None
    return libc if has_both else None
