"""What a RayJob of KubeRay must say so that skinvae runs on it safely."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from deploy.cluster_rules import STOP_SECONDS
from deploy.rayjob_form import Spec, groups_of, mistakes_of_form

_SUBMISSION_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def mistakes(document: Spec) -> Iterator[str]:
    """A sentence for each mistake; only those of fields and pods, where these are not of the form that is demanded."""
    form = list(mistakes_of_form(document))
    yield from form
    if form:
        return
    spec = document["spec"]
    cluster = spec["rayClusterSpec"]
    yield from _job(spec)
    yield from _cluster(cluster)
    yield from _head(cluster["headGroupSpec"])
    for name, group in groups_of(cluster).items():
        yield from _pod(name, group)
    yield from _workers(cluster)


def _job(spec: Spec) -> Iterator[str]:
    if not spec.get("entrypoint"):
        yield "spec.entrypoint is missing: there is nothing to run"
    if spec.get("submissionMode", _SUBMISSION_MODES[0]) not in _SUBMISSION_MODES:
        yield f"spec.submissionMode must be one of {', '.join(_SUBMISSION_MODES)}"
    if not spec.get("shutdownAfterJobFinishes"):
        yield "spec.shutdownAfterJobFinishes must be true, or the cluster costs on when the job has ended"
    elif not spec.get("ttlSecondsAfterFinished"):
        yield "spec.ttlSecondsAfterFinished is missing: the cluster goes at once, before anybody can look at it"
    if not spec.get("backoffLimit"):
        yield "spec.backoffLimit is missing: a lost head ends the night; the same command would go on"
    if not spec.get("activeDeadlineSeconds"):
        yield "spec.activeDeadlineSeconds is missing: a job that hangs would cost for ever"


def _cluster(cluster: Spec) -> Iterator[str]:
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield "rayClusterSpec.authOptions must say mode: token: whoever reaches Ray's ports runs code"
    if not re.fullmatch(r"\d+\.\d+\.\d+", cluster.get("rayVersion", "")):
        yield "rayClusterSpec.rayVersion must be the version in the image, X.Y.Z: token authentication asks for it"
    if not cluster.get("enableInTreeAutoscaling"):
        yield "rayClusterSpec.enableInTreeAutoscaling must be true, or the CPU workers never become more"
    images = {_container(group)["image"] for group in groups_of(cluster).values()}
    if len(images) > 1:
        yield f"all pods must run one image, since Ray demands one Python and one Ray, not {', '.join(sorted(images))}"


def _head(head: Spec) -> Iterator[str]:
    parameters = head.get("rayStartParams", {})
    if parameters.get("num-cpus") != "0" or parameters.get("num-gpus") != "0":
        yield 'head: rayStartParams must say num-cpus: "0" and num-gpus: "0", or tasks can end the cluster'
    variables = {one["name"]: one.get("value") for one in _container(head).get("env", ())}
    seconds = variables.get("RAY_JOB_STOP_WAIT_TIME_S") or "3"
    if not seconds.isdigit() or int(seconds) < STOP_SECONDS:
        yield (
            f"head: RAY_JOB_STOP_WAIT_TIME_S must be {STOP_SECONDS} or more: it kills a stopped job after {seconds} s, "
            "before it has committed what is done"
        )
    if head["template"]["spec"].get("terminationGracePeriodSeconds", 30) <= STOP_SECONDS:
        yield f"head: terminationGracePeriodSeconds must be above {STOP_SECONDS}, for a job stopped with its pod"
    if variables.get("RAY_USAGE_STATS_ENABLED") != "0":
        yield "head: RAY_USAGE_STATS_ENABLED must be 0, or Ray reports its use to its makers"


def _pod(name: str, group: Spec) -> Iterator[str]:
    pod, container = group["template"]["spec"], _container(group)
    if not re.search(r"@sha256:([0-9a-f]{64}|YOUR-DIGEST)$", container.get("image", "")):
        yield f"{name}: the image must be named by digest, NAME@sha256:..., since a tag may be another image tomorrow"
    resources = container.get("resources", {})
    if resources.get("requests") != resources.get("limits") or not {"cpu", "memory"} <= set(
        resources.get("limits", {})
    ):
        yield f"{name}: resources.requests and limits must be equal, with cpu and memory: Ray counts on the limits"
    yield from _shared_memory(name, group)
    if not pod.get("serviceAccountName"):
        yield f"{name}: serviceAccountName is missing: storage is reached by its role, not by keys"
    contexts = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
    if not contexts.get("runAsNonRoot") or contexts.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: securityContext must say runAsNonRoot: true and allowPrivilegeEscalation: false"
    for variable in container.get("env", ()):
        if re.search(r"SECRET|PASSWORD|TOKEN|ACCESS_KEY", variable["name"]) and "value" in variable:
            yield f"{name}: {variable['name']} must come from a Secret (valueFrom.secretKeyRef), not stand in this file"


def _shared_memory(name: str, group: Spec) -> Iterator[str]:
    volumes = {one["name"]: one.get("emptyDir", {}) for one in group["template"]["spec"].get("volumes", ())}
    mounted = [one["name"] for one in _container(group).get("volumeMounts", ()) if one["mountPath"] == "/dev/shm"]
    shared = volumes.get(mounted[0], {}) if mounted else {}
    if shared.get("medium") != "Memory" or "sizeLimit" not in shared:
        yield f"{name}: /dev/shm needs an emptyDir of medium Memory with a sizeLimit: Ray's objects lie there"
        return
    asked = group.get("rayStartParams", {}).get("object-store-memory", "")
    if not asked.isdigit() or int(asked) > _bytes(shared["sizeLimit"]):
        yield f"{name}: object-store-memory must be set, and not above the {shared['sizeLimit']} of /dev/shm"
    memory = _container(group).get("resources", {}).get("limits", {}).get("memory", "0")
    if _bytes(shared["sizeLimit"]) > 0.5 * _bytes(memory):
        yield f"{name}: /dev/shm may take {shared['sizeLimit']} of {memory} of memory; leave half to the processes"


def _workers(cluster: Spec) -> Iterator[str]:
    has_gpus = {}
    for group in cluster["workerGroupSpecs"]:
        name = group.get("groupName")
        has_gpus[name] = "nvidia.com/gpu" in _container(group).get("resources", {}).get("limits", {})
        smallest, most = group.get("minReplicas", 0), group.get("maxReplicas")
        if not smallest:
            yield f"{name}: minReplicas must be 1 or more: without a node, a job that sets no ray.min_cpus ends at once"
        if most is None or not smallest <= group.get("replicas", 0) <= most:
            yield f"{name}: minReplicas <= replicas <= maxReplicas must all be given; the last one bounds the bill"
        if not group["template"]["spec"].get("tolerations"):
            yield f"{name}: tolerations are missing: the pods cannot run on spot nodes"
    if all(has_gpus.values()) or not any(has_gpus.values()):
        yield "there must be a worker group with nvidia.com/gpu, and one without, which decodes"


def _container(group: Spec) -> dict[str, Any]:
    """Ray's own, which KubeRay takes to be the first."""
    container: dict[str, Any] = group["template"]["spec"]["containers"][0]
    return container


def _bytes(quantity: str) -> float:
    match = re.fullmatch(r"([\d.]+)([KMGT]i|[kMGT]|)", str(quantity))
    return float(match[1]) * _UNITS[match[2]] if match else 0.0
