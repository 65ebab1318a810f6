"""How far reading has come, told from time to time: by where the process stands in its open files."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

TOLD_BYTES = 200 * 2**20  # from here on reading takes long enough that one wants to know what goes on
INTERVAL_S = 5.0


@contextmanager
def reading(
    name: str, files: Sequence[Path], notify: Callable[[str], None], interval_s: float = INTERVAL_S
) -> Iterator[None]:
    """Tells what is read, and every few seconds how much of it has been; nothing for a small log."""
    size = sum(file.stat().st_size for file in files)
    if size < TOLD_BYTES:
        yield
        return
    notify(f"reading {name} ({size / 1e9:.1f} GB)")
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(interval_s):
            if (done := bytes_read(files)) is not None:
                notify(f"reading {name}: {done / size:.0%}")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def bytes_read(files: Sequence[Path]) -> int | None:
    """Bytes of `files`, which are read one after the other; None where the system doesn't say (not Linux)."""
    before = 0
    try:
        position = {os.path.realpath(link): _position(link) for link in Path("/proc/self/fd").iterdir()}
    except OSError:
        return None
    for file in files:
        if (here := position.get(os.path.realpath(file))) is not None:
            return before + here
        before += file.stat().st_size
    return None


def _position(link: Path) -> int | None:
    try:
        facts = Path(f"/proc/self/fdinfo/{link.name}").read_text()
    except OSError:  # closed in between
        return None
    return int(facts.split("pos:", 1)[1].split(None, 1)[0])
