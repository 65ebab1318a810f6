"""Whether this machine can run a study: what is checked, each with its way out."""

import os
import platform
import re
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import requires, version
from pathlib import Path
from typing import Literal

import ray
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray._private.services import find_gcs_addresses

from seqsweep.sweep.cluster.connect import connect
from seqsweep.sweep.environment import PACKAGES
from seqsweep.sweep.errors import ClusterError, first_line
from seqsweep.sweep.settings.study_config import HardwareConfig

Level = Literal["ok", "warning", "problem"]

GIB = 2**30
MIN_MEMORY = 4 * GIB
MIN_FREE, SCARCE_FREE = 1 * GIB, 5 * GIB  # checkpoints of five trials and a prepared log
SLOW_WRITE = 20 * 2**20  # bytes a second: a checkpoint of 200 MB then takes 10 s
WRITTEN = 32 * 2**20
MAX_SKEW_S = 5.0
STORE_SHARE = 0.3  # of the memory: Ray's object store, which lies in /dev/shm
SHARED_MEMORY = "/dev/shm"
MAX_SOCKET = 107  # bytes of a Unix socket's path
RAY_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
MIN_FILES, SCARCE_FILES = 1024, 4096
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
CGROUP_CPUS = "/sys/fs/cgroup/cpu.max"
RELEASED = 1_767_225_600  # 2026-01-01: a clock before it is wrong


@dataclass(frozen=True)
class Finding:
    level: Level
    what: str
    advice: str = ""  # the way out


def examine(runs: Path, cache: Path) -> Iterator[Finding]:
    """One by one, as they are found; the slow one last."""
    yield from check_versions(installed_versions(), supported_versions())
    yield check_gpus()
    yield check_cpus(len(os.sched_getaffinity(0)), cpu_quota())
    yield check_memory(physical_memory(), memory_limit())
    yield check_shared_memory(shared_memory(), usable_memory())
    for name, folder in (("runs", runs), ("cache", cache)):
        yield check_folder(name, folder)
    yield check_temp_folder(ray_temp_folder())
    yield check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield check_clock(time.time())
    yield check_running_ray(sorted(find_gcs_addresses()))  # type: ignore[no-untyped-call]
    yield check_local_ray()


def installed_versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def supported_versions() -> dict[str, SpecifierSet]:
    """As pyproject.toml gives them."""
    needs = [Requirement(line) for line in requires("seqsweep") or [] if "extra ==" not in line]
    return {"python": SpecifierSet(">=3.11"), **{need.name: need.specifier for need in needs}}


def check_versions(installed: Mapping[str, str], supported: Mapping[str, SpecifierSet]) -> Iterator[Finding]:
    wrong = [
        name
        for name, found in installed.items()
        if name in supported and not supported[name].contains(found, prereleases=True)
    ]
    right = [f"{name} {found}" for name, found in installed.items() if name not in wrong]
    if right:
        yield Finding("ok", ", ".join(right))
    for name in wrong:
        way = "use another Python" if name == "python" else f"pip install '{name}{supported[name]}'"
        yield Finding("problem", f"{name} {installed[name]} is not among {supported[name]}", way)


def check_gpus() -> Finding:
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
        named = [(gpu.name, gpu.total_memory, f"sm_{gpu.major}{gpu.minor}") for gpu in gpus]
        return judge_gpus(named, torch.version.cuda, torch.cuda.get_arch_list())
    return judge_no_gpu(any(Path("/dev").glob("nvidia[0-9]*")), torch.version.cuda)


def judge_gpus(gpus: Sequence[tuple[str, int, str]], cuda: str | None, built_for: Sequence[str]) -> Finding:
    """`gpus`: name, bytes and architecture. A later minor version runs what was built for an earlier."""
    what = ", ".join(f"{name} with {size / GIB:.0f} GiB" for name, size, _ in gpus)
    families = {re.sub(r".[a-z]?$", "", arch) for arch in built_for}
    foreign = sorted({arch for *_, arch in gpus if arch[:-1] not in families})
    if foreign:
        return Finding(
            "problem",
            f"GPUs: {what}; this torch is built for {', '.join(built_for)}, not for {', '.join(foreign)}",
            "install a torch built for them, see pytorch.org/get-started",
        )
    return Finding("ok", f"GPUs: {what}; CUDA {cuda}")


def judge_no_gpu(has_devices: bool, cuda: str | None) -> Finding:
    if has_devices:
        reason = (
            "is built without CUDA" if cuda is None else f"can't use its driver (torch wants CUDA {cuda})"
        )
        way = (
            "install a torch with CUDA"
            if cuda is None
            else "update the driver, or install an older CUDA's torch"
        )
        return Finding(
            "problem", f"there is a GPU, but torch {reason}", f"{way}, see pytorch.org/get-started"
        )
    return Finding("ok", "no GPU: trials train on CPUs")


def cpu_quota() -> float | None:
    """CPUs that the control group gives; None where it gives all."""
    try:
        quota, period = Path(CGROUP_CPUS).read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def check_cpus(num_cpus: int, quota: float | None) -> Finding:
    if quota is not None and quota < num_cpus:
        return Finding(
            "warning",
            f"{num_cpus} CPUs, of which the control group gives {quota:g}: Ray may start more trials",
            f"--max-concurrent {max(1, int(quota))}",
        )
    return Finding("ok", f"{num_cpus} CPU{'' if num_cpus == 1 else 's'}")


def physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_limit() -> int | None:
    """Of the control group; None where there is none."""
    for path in CGROUP_LIMITS:
        try:
            return int(Path(path).read_text())
        except (OSError, ValueError):  # ValueError: `max`
            continue
    return None


def usable_memory() -> int:
    return min(physical_memory(), memory_limit() or physical_memory())


def check_memory(physical: int, limit: int | None) -> Finding:
    usable = min(physical, limit or physical)
    of = f", the control group's limit on a machine of {_gib(physical)}" if usable < physical else ""
    what = f"memory: {_gib(usable)}{of}"
    if usable < MIN_MEMORY:
        return Finding("warning", what, f"a study wants {_gib(MIN_MEMORY)}; begin with --max-concurrent 1")
    return Finding("ok", what)


def shared_memory() -> int | None:
    """Bytes of /dev/shm; None where there is none."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).total
    except OSError:
        return None


def check_shared_memory(size: int | None, memory: int) -> Finding:
    need = int(STORE_SHARE * memory)
    if size is None:
        return Finding(
            "problem",
            "/dev/shm, where Ray's object store lies, is not there",
            "mount it: mkdir -p /dev/shm && mount -t tmpfs tmpfs /dev/shm",
        )
    if size < need:
        return Finding(
            "warning",
            f"/dev/shm has {_gib(size)}, Ray's object store takes up to {_gib(need)} and goes to the disk",
            f"enlarge it: docker run --shm-size={need / GIB + 0.1:.1f}g, or remount /dev/shm with size=",
        )
    return Finding("ok", f"/dev/shm: {_gib(size)}, Ray's object store takes up to {_gib(need)}")


def check_folder(name: str, folder: Path) -> Finding:
    """Space, speed and clock of where it is, or will be."""
    place = nearest_folder(folder)
    flag = f"name another folder: --{name} DIR"
    if place is None:
        return Finding("problem", f"{name}: {folder} is a file, or lies below one", flag)
    try:
        free = shutil.disk_usage(place).free
        if free < MIN_FREE:
            return judge_folder(name, folder, free, 0.0, 0.0)
        with tempfile.NamedTemporaryFile(dir=place) as file:
            start = time.monotonic()
            file.write(os.urandom(WRITTEN))
            file.flush()
            os.fsync(file.fileno())
            speed = WRITTEN / (time.monotonic() - start)
            skew = os.stat(file.name).st_mtime - time.time()
    except OSError as error:
        return Finding("problem", f"{name}: can't write in {place} ({error.strerror})", flag)
    return judge_folder(name, folder, free, speed, skew)


def nearest_folder(folder: Path) -> Path | None:
    """Itself or the one in which it can be made; None where a file is in the way."""
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    return place if os.path.isdir(place) else None


def judge_folder(name: str, folder: Path, free: int, speed: float, skew: float) -> Finding:
    """`speed` in bytes a second; `skew`: seconds that the file system's clock is ahead."""
    what, flag = f"{name} ({folder}): {_gib(free)} free", f"name another folder: --{name} DIR"
    if free < MIN_FREE:
        return Finding("problem", what, f"make room, or {flag}")
    what += f", written at {speed / 2**20:.0f} MiB/s"
    if free < SCARCE_FREE:
        return Finding("warning", what, f"make room, {flag}, or give --max-disk-gb")
    if abs(skew) > MAX_SKEW_S:
        return Finding(
            "warning", f"{what}; its clock differs by {skew:.0f} s", "synchronise both clocks (NTP)"
        )
    return (
        Finding("warning", what, f"the disk is slow; {flag}") if speed < SLOW_WRITE else Finding("ok", what)
    )


def ray_temp_folder() -> str:
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"


def check_temp_folder(folder: str) -> Finding:
    longest = len(os.fsencode(folder.rstrip("/") + RAY_SOCKET))
    if longest > MAX_SOCKET:
        return Finding(
            "problem",
            f"temp folder {folder}: paths of Ray's sockets have {longest} bytes, at most {MAX_SOCKET} fit",
            "name a shorter one: export RAY_TMPDIR=/tmp",
        )
    place, another = nearest_folder(Path(folder)), "name another one: export RAY_TMPDIR=/tmp"
    if place is None:
        return Finding("problem", f"temp folder {folder}: it is a file, or lies below one", another)
    try:
        with tempfile.NamedTemporaryFile(dir=place):
            pass
    except OSError as error:
        return Finding("problem", f"temp folder {folder}: can't write in {place} ({error.strerror})", another)
    return Finding("ok", f"temp folder: {folder}")


def check_open_files(limit: int) -> Finding:
    if 0 <= limit < SCARCE_FILES:
        level: Level = "problem" if limit < MIN_FILES else "warning"
        return Finding(
            level, f"{limit} open files at most, Ray takes some hundreds a worker", "ulimit -n 65536"
        )
    return Finding("ok", "open files: " + ("unlimited" if limit < 0 else f"{limit} at most"))


def check_clock(now: float) -> Finding:
    moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < RELEASED:
        return Finding(
            "problem", f"clock: {moment} lies before this program was written", "set the clock (NTP)"
        )
    return Finding("ok", f"clock: {moment}")


def check_running_ray(addresses: Sequence[str]) -> Finding:
    if not addresses:
        return Finding("ok", "no Ray is running: a study starts its own")
    found = ", ".join(addresses)
    dead = [address for address in addresses if not _answers(address)]
    if dead:
        return Finding(
            "problem", f"Ray at {', '.join(dead)} does not answer", "end what is left of it: ray stop"
        )
    token = "a token is" if os.environ.get("RAY_AUTH_MODE") == "token" else "no token is"
    return Finding(
        "ok", f"Ray is running at {found}; a study starts its own unless --address joins one ({token} sent)"
    )


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return True
    except OSError:
        return False


def check_local_ray() -> Finding:
    start = time.monotonic()
    try:
        with connect(HardwareConfig(), lambda _: None):
            started = time.monotonic() - start
            ray.get(ray.remote(_task).remote(), timeout=120)
            total: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    except (ClusterError, ray.exceptions.RayError) as error:
        reason = first_line(error.__cause__ or error)  # of what Ray said, not of its way out: that is here
        return Finding("problem", f"Ray does not start here: {reason}", "see /tmp/ray/session_latest/logs")
    seconds = time.monotonic() - start
    return Finding(
        "ok",
        f"Ray starts in {started:.1f} s and has done a task after {seconds:.1f} s; it sees "
        f"{total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs, {_gib(total.get('memory', 0))} memory, "
        f"{_gib(total.get('object_store_memory', 0))} object store",
    )


def _task() -> None:
    """That a worker has come up is all that is asked of it."""


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f} GiB"
