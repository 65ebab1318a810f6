"""The part of KubeRay's schema that a RayJob of ours can touch.

Written by hand from the field reference of KubeRay 1.6 (ray.io/v1), as no package carries the schema itself.
Pod templates are checked by kubernetes-validate, which has those of Kubernetes.
"""

from typing import Any

INT = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
STRING = {"type": "string"}
BOOL = {"type": "boolean"}
NUMBER = {"type": "number"}
STRINGS = {"type": "object", "additionalProperties": STRING}
ANY_OBJECT = {"type": "object"}


def only(properties: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": list(required),
    }


HEAD_GROUP = only(
    {
        "enableIngress": BOOL,
        "headService": ANY_OBJECT,
        "labels": STRINGS,
        "rayStartParams": STRINGS,
        "resources": STRINGS,
        "serviceType": {"enum": ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]},
        "template": ANY_OBJECT,
    },
    required=("template",),
)
WORKER_GROUP = only(
    {
        "groupName": STRING,
        "idleTimeoutSeconds": COUNT,
        "labels": STRINGS,
        "maxReplicas": COUNT,
        "minReplicas": COUNT,
        "numOfHosts": COUNT,
        "rayStartParams": STRINGS,
        "replicas": COUNT,
        "resources": STRINGS,
        "scaleStrategy": ANY_OBJECT,
        "suspend": BOOL,
        "template": ANY_OBJECT,
    },
    required=("groupName", "maxReplicas", "minReplicas", "template"),
)
RAY_CLUSTER = only(
    {
        "authOptions": only({"mode": {"enum": ["disabled", "token"]}, "secretName": STRING}),
        "autoscalerOptions": ANY_OBJECT,
        "enableInTreeAutoscaling": BOOL,
        "gcsFaultToleranceOptions": ANY_OBJECT,
        "headGroupSpec": HEAD_GROUP,
        "headServiceAnnotations": STRINGS,
        "managedBy": STRING,
        "rayVersion": STRING,
        "suspend": BOOL,
        "workerGroupSpecs": {"type": "array", "items": WORKER_GROUP},
    },
    required=("headGroupSpec",),
)
RAY_JOB = only(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": ANY_OBJECT,
        "spec": only(
            {
                "activeDeadlineSeconds": INT,
                "backoffLimit": COUNT,
                "clusterSelector": STRINGS,
                "deletionStrategy": ANY_OBJECT,
                "entrypoint": STRING,
                "entrypointNumCpus": NUMBER,
                "entrypointNumGpus": NUMBER,
                "entrypointResources": STRING,
                "jobId": STRING,
                "managedBy": STRING,
                "metadata": STRINGS,
                "rayClusterSpec": RAY_CLUSTER,
                "runtimeEnvYAML": STRING,
                "shutdownAfterJobFinishes": BOOL,
                "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
                "submitterConfig": only({"backoffLimit": COUNT}),
                "submitterPodTemplate": ANY_OBJECT,
                "suspend": BOOL,
                "ttlSecondsAfterFinished": COUNT,
            }
        ),
    },
    required=("apiVersion", "kind", "metadata", "spec"),
)
