"""deploy/rayjob.yaml: against the schemas of Kubernetes and KubeRay, and what they can't say."""

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tests.commands import called
from tests.deploy.kuberay import RAY_JOB

ROOT = Path(__file__).parents[2]
KUBERNETES = "1.30"
SUFFIXES = {"Mi": 2**20, "Gi": 2**30}
MOST_BY_DEFAULT = 0.3  # of a pod's memory: what Ray takes for the object store


@pytest.fixture
def documents() -> dict[str, dict[str, Any]]:
    loaded = yaml.safe_load_all((ROOT / "deploy/rayjob.yaml").read_text())
    return {document["kind"]: document for document in loaded}


@pytest.fixture
def spec(documents: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = documents["RayJob"]["spec"]
    return found


def groups(spec: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = spec["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def container(group: dict[str, Any]) -> dict[str, Any]:
    """Ray's, the first of its pod."""
    found: dict[str, Any] = group["template"]["spec"]["containers"][0]
    return found


def as_pod(group: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}


def num_bytes(quantity: str) -> int:
    number, suffix = re.fullmatch(r"(\d+)(\wi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * SUFFIXES[suffix]


def volume(group: dict[str, Any], path: str) -> dict[str, Any]:
    """What is mounted there."""
    (name,) = (m["name"] for m in container(group)["volumeMounts"] if m["mountPath"] == path)
    (found,) = (v for v in group["template"]["spec"]["volumes"] if v["name"] == name)
    return {key: value for key, value in found.items() if key != "name"}


def test_kuberay_knows_every_field(documents: dict[str, dict[str, Any]]) -> None:
    jsonschema.validate(documents["RayJob"], RAY_JOB)
    misspelt = copy.deepcopy(documents["RayJob"])
    misspelt["spec"]["backofflimit"] = misspelt["spec"].pop("backoffLimit")
    with pytest.raises(jsonschema.ValidationError, match="backofflimit"):
        jsonschema.validate(misspelt, RAY_JOB)


def test_kubernetes_knows_every_field(documents: dict[str, dict[str, Any]], spec: dict[str, Any]) -> None:
    kubernetes_validate.validate(documents["PersistentVolumeClaim"], KUBERNETES, strict=True)
    for group in groups(spec):
        kubernetes_validate.validate(as_pod(group), KUBERNETES, strict=True)
    misspelt = copy.deepcopy(as_pod(groups(spec)[0]))
    misspelt["spec"]["volume"] = misspelt["spec"].pop("volumes")
    with pytest.raises(kubernetes_validate.ValidationError, match="volume"):
        kubernetes_validate.validate(misspelt, KUBERNETES, strict=True)


def test_the_cluster_asks_for_the_token(spec: dict[str, Any]) -> None:
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert spec["rayClusterSpec"]["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_its_ray_is_the_one_that_is_tested(spec: dict[str, Any]) -> None:
    version = spec["rayClusterSpec"]["rayVersion"]
    assert f"ray=={version}" in (ROOT / "constraints.txt").read_text().split()


def test_a_lost_driver_is_started_again(spec: dict[str, Any]) -> None:
    assert spec["backoffLimit"] >= 1
    assert spec["shutdownAfterJobFinishes"] is True


def test_the_command_is_one_of_ours(spec: dict[str, Any]) -> None:
    words = shlex.split(spec["entrypoint"])
    command, arguments = words[:4], words[4:]
    assert command == ["env", "-u", "OMP_NUM_THREADS", "seqsweep"]
    assert shlex.join(words) == spec["entrypoint"]  # nothing that a shell would change
    asked = called(*arguments[:1], "--nonsense")
    assert "--nonsense" in asked.output
    read = called(*arguments)  # all flags are known: it gets as far as the file
    assert "no such settings file: /study/study.toml" in read.output


def test_all_that_a_study_writes_lies_on_the_shared_volume(
    documents: dict[str, dict[str, Any]], spec: dict[str, Any]
) -> None:
    words = shlex.split(spec["entrypoint"])
    for flag in ("--runs", "--cache"):
        assert words[words.index(flag) + 1].startswith("/shared/")
    claim = documents["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for group in groups(spec):
        assert volume(group, "/shared") == {"persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}


def test_memory_is_bounded_and_the_object_store_fits(spec: dict[str, Any]) -> None:
    for group in groups(spec):
        resources = container(group)["resources"]
        assert resources["requests"] == resources["limits"]
        shm = volume(group, "/dev/shm")["emptyDir"]
        assert shm["medium"] == "Memory"
        memory = num_bytes(resources["limits"]["memory"])
        assert MOST_BY_DEFAULT * memory <= num_bytes(shm["sizeLimit"]) < memory


def test_workers_have_gpus_and_the_head_runs_no_trials(spec: dict[str, Any]) -> None:
    head, *workers = groups(spec)
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in container(head)["resources"]["limits"]
    assert workers
    for worker in workers:
        assert int(container(worker)["resources"]["limits"]["nvidia.com/gpu"]) >= 1
        assert worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"]


def test_nothing_runs_as_root(spec: dict[str, Any]) -> None:
    for group in groups(spec):
        context = group["template"]["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert f"USER {context['runAsUser']}\n" in (ROOT / "Dockerfile").read_text()
