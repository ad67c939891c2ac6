"""The form of a RayJob: fields that KubeRay knows, and pods that Kubernetes takes.

Pods are held to Kubernetes' own schema. KubeRay's is in no package that could be had: the fields below are those of its
API reference (ray.io/v1, KubeRay 1.5.1). A field that its API server does not know is dropped without a word.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import kubernetes_validate

KUBERNETES = "1.31"
"""Older than what clusters run: a field that it knows, they know."""

Spec = Mapping[str, Any]
Fields = Mapping[str, type | tuple[type, ...]]

_NUMBER = (int, float)
_JOB: Fields = {
    "activeDeadlineSeconds": int,
    "backoffLimit": int,
    "clusterSelector": dict,
    "deletionStrategy": dict,
    "entrypoint": str,
    "entrypointNumCpus": _NUMBER,
    "entrypointNumGpus": _NUMBER,
    "entrypointResources": str,
    "jobId": str,
    "managedBy": str,
    "metadata": dict,
    "rayClusterSpec": dict,
    "runtimeEnvYAML": str,
    "shutdownAfterJobFinishes": bool,
    "submissionMode": str,
    "submitterConfig": dict,
    "submitterPodTemplate": dict,
    "suspend": bool,
    "ttlSecondsAfterFinished": int,
}
_CLUSTER: Fields = {
    "authOptions": dict,
    "autoscalerOptions": dict,
    "enableInTreeAutoscaling": bool,
    "gcsFaultToleranceOptions": dict,
    "headGroupSpec": dict,
    "headServiceAnnotations": dict,
    "managedBy": str,
    "rayVersion": str,
    "suspend": bool,
    "workerGroupSpecs": list,
}
_AUTOSCALER: Fields = {
    "env": list,
    "envFrom": list,
    "idleTimeoutSeconds": int,
    "image": str,
    "imagePullPolicy": str,
    "resources": dict,
    "securityContext": dict,
    "upscalingMode": str,
    "version": str,
    "volumeMounts": list,
}
_AUTHENTICATION: Fields = {"mode": str}
_GROUP: Fields = {"labels": dict, "rayStartParams": dict, "resources": dict, "template": dict}
_HEAD: Fields = {**_GROUP, "enableIngress": bool, "headService": dict, "serviceType": str}
_WORKERS: Fields = {
    **_GROUP,
    "groupName": str,
    "idleTimeoutSeconds": int,
    "maxReplicas": int,
    "minReplicas": int,
    "numOfHosts": int,
    "replicas": int,
    "scaleStrategy": dict,
    "suspend": bool,
}


def mistakes_of_form(document: Spec) -> Iterator[str]:
    """A sentence for each field or pod that would be refused or dropped."""
    if document.get("apiVersion") != "ray.io/v1":
        yield f"apiVersion must be ray.io/v1, not {document.get('apiVersion')}"
    if not {"name", "generateName"} & set(document.get("metadata", {})):
        yield "metadata needs a name, or a generateName for `kubectl create`"
    spec = document.get("spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("rayClusterSpec"), dict):
        yield "spec.rayClusterSpec is missing: the job has no cluster"
        return
    yield from _fields("spec", spec, _JOB)
    cluster = spec["rayClusterSpec"]
    yield from _fields("rayClusterSpec", cluster, _CLUSTER)
    yield from _fields("autoscalerOptions", cluster.get("autoscalerOptions", {}), _AUTOSCALER)
    yield from _fields("authOptions", cluster.get("authOptions", {}), _AUTHENTICATION)
    if not isinstance(cluster.get("headGroupSpec"), dict) or not cluster.get("workerGroupSpecs"):
        yield "rayClusterSpec needs headGroupSpec and workerGroupSpecs"
        return
    for name, group in groups_of(cluster).items():
        yield from _fields(name, group, _HEAD if name == "head" else _WORKERS)
        for key, value in group.get("rayStartParams", {}).items():
            if not isinstance(value, str):
                yield f"{name}: rayStartParams.{key} must be text, in quotation marks"
        yield from _template(name, group.get("template"))


def _fields(where: str, given: Spec, known: Fields) -> Iterator[str]:
    for key, value in given.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            yield f"{where}: KubeRay knows no field '{key}' and would drop it{hint}"
        elif not isinstance(value, known[key]) or (isinstance(value, bool) and known[key] is not bool):
            yield f"{where}: '{key}' is of the wrong type ({type(value).__name__})"


def _template(name: str, template: Any) -> Iterator[str]:
    if not isinstance(template, dict):
        yield f"{name}: template is missing"
        return
    # What Kubernetes' schema does not ask for.
    containers = (template.get("spec") or {}).get("containers")
    if not containers or not isinstance(containers[0], dict) or not containers[0].get("image"):
        yield f"{name}: template.spec.containers must begin with Ray's own, and name its image"
        return
    pods = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}, "template": template}
    try:
        kubernetes_validate.validate(pods, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{name}: Kubernetes refuses {'.'.join(map(str, error.path))}: {error.message}"


def groups_of(cluster: Spec) -> dict[str, Spec]:
    """The groups of pods by name, 'head' first."""
    workers = {str(group.get("groupName")): group for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"], **workers}
