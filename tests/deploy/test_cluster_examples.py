"""The examples for Ray's cluster launcher: against Ray's own schema, and what the schema can't say."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
CHECKOUT = "~/seqsweep"  # on every node; submit.py looks there


def prepared(cluster: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` completes it, before it asks a cloud anything."""
    whole: dict[str, Any] = prepare_config(cluster)
    return whole


def ray_starts(cluster: dict[str, Any], role: str) -> list[str]:
    """The commands that start Ray; `role`: head or worker."""
    return [command for command in cluster[f"{role}_start_ray_commands"] if "ray start" in command]


def environment_of(cluster: dict[str, Any], home: Path) -> dict[str, str]:
    """Of a login shell, once the setup commands that write the shell's files have run twice in a new home."""
    (commands,) = (command for command in cluster["setup_commands"] if ".bashrc" in command)
    bare = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    for _ in range(2):
        subprocess.run(["bash", "-c", commands], env=bare, check=True)
    shell = ["bash", "--login", "-c", 'echo "$PATH"; echo "$RAY_AUTH_MODE"; grep -c seqsweep ~/.bashrc']
    printed = subprocess.run(shell, env=bare, check=True, capture_output=True, text=True).stdout.splitlines()
    return dict(zip(["PATH", "RAY_AUTH_MODE", "lines"], printed, strict=True))


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    validate_config(prepared(cluster))


def test_ray_would_refuse_a_key_it_does_not_know(cluster: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="head_setup_command"):
        validate_config(prepared({**cluster, "head_setup_command": []}))


@pytest.mark.parametrize("role", ["head", "worker"])
def test_every_node_starts_ray_with_the_token(cluster: dict[str, Any], role: str) -> None:
    (command,) = ray_starts(prepared(cluster), role)
    before, _, _ = command.partition("ray start")
    assert "export RAY_AUTH_MODE=token;" in before


def test_all_nodes_get_the_token(cluster: dict[str, Any]) -> None:
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_only_the_heads_loopback_serves_the_dashboard(cluster: dict[str, Any]) -> None:
    (command,) = ray_starts(prepared(cluster), "head")
    options = [word for word in shlex.split(command) if word.startswith("--dashboard-host")]
    assert options == ["--dashboard-host=127.0.0.1"]


def test_nothing_is_told_to_listen_everywhere(cluster: dict[str, Any]) -> None:
    assert "0.0.0.0" not in yaml.safe_dump(prepared(cluster))


def test_the_checkout_goes_to_every_node(cluster: dict[str, Any]) -> None:
    assert cluster["file_mounts"][CHECKOUT] == "."  # commands are run at its root
    assert "cluster_synced_files" not in cluster  # mounts go to workers too


def test_what_is_mounted_is_there(cluster: dict[str, Any]) -> None:
    of_this_computer = {path for path in cluster["file_mounts"].values() if not path.startswith("~")}
    assert of_this_computer
    assert all((ROOT / path).exists() for path in of_this_computer)


def test_environments_runs_and_caches_stay_here(cluster: dict[str, Any]) -> None:
    (name,) = cluster["rsync_filter"]
    assert {".venv/", "runs/", ".cache/"} <= set((ROOT / name).read_text().split())


def test_all_nodes_install_the_versions_that_are_tested(cluster: dict[str, Any]) -> None:
    (command,) = (command for command in cluster["setup_commands"] if "pip install" in command)
    assert command.startswith(f"cd {CHECKOUT} && .venv/bin/python -m pip install")
    words = shlex.split(command)
    assert words[words.index("-c") + 1] == "constraints.txt"
    assert words[words.index("-e") + 1] == "."


def test_a_login_shell_finds_our_python_and_the_token(cluster: dict[str, Any], tmp_path: Path) -> None:
    environment = environment_of(cluster, tmp_path)
    assert environment["PATH"].split(":")[0] == f"{tmp_path}/seqsweep/.venv/bin"
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["lines"] == "1"  # the second time changed nothing


def test_commands_are_bash(cluster: dict[str, Any]) -> None:
    whole = prepared(cluster)
    for key in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        for command in whole[key]:
            subprocess.run(["bash", "-n", "-c", command], check=True)


def test_own_machines_all_stay() -> None:
    whole = prepared(yaml.safe_load((ROOT / "examples/cluster-local.yaml").read_text()))
    (node_type,) = whole["available_node_types"].values()
    assert node_type["min_workers"] == node_type["max_workers"] == len(whole["provider"]["worker_ips"])


def test_aws_workers_are_spot_machines_within_bounds(aws: dict[str, Any]) -> None:
    workers = [node for name, node in aws["available_node_types"].items() if name != aws["head_node_type"]]
    assert workers
    for node in workers:
        assert node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert 1 <= node["min_workers"] <= node["max_workers"] <= aws["max_workers"]


def test_the_aws_head_is_kept_and_runs_no_trials(aws: dict[str, Any]) -> None:
    head = aws["available_node_types"][aws["head_node_type"]]
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"] == {"CPU": 0}


def test_aws_nodes_have_one_image_and_so_one_python(aws: dict[str, Any]) -> None:
    images = {node["node_config"]["ImageId"] for node in aws["available_node_types"].values()}
    assert len(images) == 1
    assert re.fullmatch("ami-[0-9a-f]{17}", images.pop())


def test_aws_nodes_share_a_folder(aws: dict[str, Any]) -> None:
    (mount,) = (command for command in aws["setup_commands"] if "mount -t nfs4" in command)
    assert "/mnt/seqsweep" in mount
    assert "--runs /mnt/seqsweep/runs" in (ROOT / "docs/cluster.md").read_text()


def test_submit_runs_the_checkout_and_the_environment_that_nodes_get(tmp_path: Path) -> None:
    submit = ROOT / "submit.py"
    python = tmp_path / CHECKOUT.removeprefix("~/") / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    (tmp_path / CHECKOUT.removeprefix("~/") / "seqsweep").mkdir()
    python.write_text('#!/bin/sh\necho "$PWD"\n')
    python.chmod(0o755)
    run = subprocess.run(
        [sys.executable, submit, "status"], env={"HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert run.stdout.strip() == str(python.parents[2])


def test_the_commands_in_the_docs_name_files_that_are_there() -> None:
    named = set(re.findall(r"\b(?:examples|deploy)/[\w.-]+\.yaml", (ROOT / "docs/cluster.md").read_text()))
    assert named == {f"examples/cluster-{kind}.yaml" for kind in ("local", "aws")} | {"deploy/rayjob.yaml"}
    assert all((ROOT / name).exists() for name in named)
