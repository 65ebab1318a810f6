"""What `doctor` says of facts that are given to it, and of this machine."""

import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import ray
from packaging.specifiers import SpecifierSet

from seqsweep.sweep.cluster import doctor
from seqsweep.sweep.cluster.doctor import GIB, Finding
from tests.commands import called

FAST = 10.0**9


def test_every_package_that_a_study_records_has_a_supported_range() -> None:
    supported = doctor.supported_versions()
    assert set(doctor.installed_versions()) - set(supported) == {"seqsweep"}
    assert not supported["ray"].contains("2.61.0") and supported["ray"].contains("2.60.1")


def test_a_version_out_of_range_is_a_problem_of_its_own() -> None:
    ranges = {"ray": SpecifierSet(">=2.60,<2.61"), "torch": SpecifierSet(">=2.11")}
    installed = {"ray": "2.61.0", "torch": "2.13.0+cpu", "seqsweep": "0.1.0"}
    ok, wrong = doctor.check_versions(installed, ranges)
    assert ok == Finding("ok", "torch 2.13.0+cpu, seqsweep 0.1.0")
    assert (
        wrong.level == "problem"
        and wrong.what.startswith("ray 2.61.0")
        and "pip install 'ray" in wrong.advice
    )


@pytest.mark.parametrize(
    ("arch", "level"),
    [("sm_90", "ok"), ("sm_80", "ok"), ("sm_86", "ok"), ("sm_100", "problem"), ("sm_70", "problem")],
)
def test_a_gpu_must_be_one_that_torch_is_built_for(arch: str, level: str) -> None:
    found = doctor.judge_gpus([("H100", 80 * GIB, arch)], "12.8", ["sm_80", "sm_90a"])
    assert found.level == level and "H100 with 80 GiB" in found.what


def test_a_gpu_that_torch_does_not_see_is_a_problem() -> None:
    assert doctor.judge_no_gpu(False, None).level == "ok"
    assert "with CUDA" in doctor.judge_no_gpu(True, None).advice
    assert "update the driver" in doctor.judge_no_gpu(True, "12.8").advice


@pytest.mark.parametrize(
    ("finding", "level", "words"),
    [
        (doctor.check_cpus(8, None), "ok", "8 CPUs"),
        (doctor.check_cpus(8, 2.5), "warning", "gives 2.5"),
        (doctor.check_memory(16 * GIB, None), "ok", "16.0 GiB"),
        (
            doctor.check_memory(64 * GIB, 8 * GIB),
            "ok",
            "8.0 GiB, the control group's limit on a machine of 64.0 GiB",
        ),
        (doctor.check_memory(64 * GIB, 2 * GIB), "warning", "2.0 GiB"),
        (
            doctor.check_memory(64 * GIB, 2**63 - 4096),
            "ok",
            "memory: 64.0 GiB",
        ),  # no limit, as cgroup v1 says it
        (doctor.check_shared_memory(64 * 2**20, 10 * GIB), "warning", "/dev/shm has 0.1 GiB"),
        (doctor.check_shared_memory(3 * GIB, 10 * GIB), "ok", "takes up to 3.0 GiB"),
        (
            doctor.check_shared_memory(None, 10 * GIB),
            "problem",
            "/dev/shm, where Ray's object store lies, is not",
        ),
        (doctor.judge_folder("runs", Path("r"), GIB // 2, FAST, 0), "problem", "0.5 GiB free"),
        (doctor.judge_folder("runs", Path("r"), 2 * GIB, FAST, 0), "warning", "2.0 GiB free"),
        (doctor.judge_folder("runs", Path("r"), 20 * GIB, 2**20, 0), "warning", "at 1 MiB/s"),
        (doctor.judge_folder("runs", Path("r"), 20 * GIB, FAST, -60), "warning", "differs by -60 s"),
        (doctor.judge_folder("runs", Path("r"), 20 * GIB, FAST, 0), "ok", "20.0 GiB free"),
        (doctor.check_temp_folder("/tmp"), "ok", "/tmp"),
        (doctor.check_temp_folder("/home/" + "a" * 50), "problem", "at most 107 fit"),
        (doctor.check_open_files(256), "problem", "256 open files"),
        (doctor.check_open_files(1024), "warning", "1024 open files"),
        (doctor.check_open_files(65536), "ok", "65536"),
        (doctor.check_open_files(-1), "ok", "unlimited"),
        (doctor.check_clock(0.0), "problem", "1970-01-01"),
        (doctor.check_clock(1.8e9), "ok", "2027-01-15"),
        (doctor.check_running_ray([]), "ok", "a study starts its own"),
    ],
)
def test_facts_are_judged(finding: Finding, level: str, words: str) -> None:
    assert finding.level == level and words in finding.what
    assert (finding.advice == "") == (level == "ok")  # whatever is not well has a way out


def test_a_running_ray_must_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert doctor.check_running_ray([address]).level == "ok"
    found = doctor.check_running_ray([address])
    assert found.level == "problem" and address in found.what


def test_a_folder_is_tried_where_it_will_be(tmp_path: Path) -> None:
    found = doctor.check_folder("runs", tmp_path / "a" / "b")
    assert "MiB/s" in found.what and not list(tmp_path.iterdir())


def test_a_folder_that_can_not_be_written_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    monkeypatch.setattr(doctor, "MAX_SOCKET", 999)
    for found in (doctor.check_folder("runs", tmp_path), doctor.check_temp_folder(str(tmp_path))):
        assert found.level == "problem" and "Read-only file system" in found.what


def test_a_file_where_a_folder_must_be_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MAX_SOCKET", 999)
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for name in ("file", "file/runs", "nowhere"):
        found = doctor.check_folder("runs", tmp_path / name)
        assert found.level == "problem" and found.advice == "name another folder: --runs DIR"
        found = doctor.check_temp_folder(str(tmp_path / name))
        assert found.level == "problem" and found.advice == "name another one: export RAY_TMPDIR=/tmp"
    assert doctor.check_temp_folder(str(tmp_path / "new")).level == "ok"  # Ray makes it


def test_without_shared_memory_the_other_checks_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "SHARED_MEMORY", str(tmp_path / "gone"))
    monkeypatch.setattr(doctor, "check_local_ray", lambda: Finding("problem", "Ray does not start here"))
    found = list(doctor.examine(tmp_path / "runs", tmp_path / "cache"))
    assert found[-1].what == "Ray does not start here"
    assert any(each.level == "problem" and "/dev/shm" in each.what for each in found)


def test_a_ray_that_does_not_start_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError("AF_UNIX path length cannot exceed 107 bytes")

    monkeypatch.setattr(ray, "init", refuse)
    found = doctor.check_local_ray()
    assert (found.level, found.what) == (
        "problem",
        "Ray does not start here: AF_UNIX path length cannot exceed 107 bytes",
    )


@pytest.mark.parametrize(("level", "status"), [("ok", 0), ("warning", 0), ("problem", 1)])
def test_the_exit_status_tells_of_problems_alone(
    monkeypatch: pytest.MonkeyPatch, level: doctor.Level, status: int
) -> None:
    found = [Finding("ok", "a"), Finding(level, "b", "do c")]
    monkeypatch.setattr(doctor, "examine", lambda runs, cache: iter(found))
    done = called("doctor")
    assert done.exit_code == status and "-> do c" in done.stdout
    done = called("doctor", "--json")
    assert done.exit_code == status
    assert json.loads(done.stdout)[1] == {"level": level, "what": "b", "advice": "do c"}


def test_this_machine(tmp_path: Path) -> None:
    """In a process of its own: it starts a Ray, and there may be one in this process."""
    folders = ["--runs", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")]
    done = subprocess.run(
        [sys.executable, "-m", "seqsweep", "doctor", "--json", *folders],
        capture_output=True,
        text=True,
        timeout=200,
    )
    found = json.loads(done.stdout)
    assert done.returncode == int(any(each["level"] == "problem" for each in found)), done.stderr
    assert found[-1]["level"] == "ok" and found[-1]["what"].startswith("Ray starts in ")
    assert list(tmp_path.iterdir()) == []
