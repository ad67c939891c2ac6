"""Each rule for RayJobs fires on a copy that breaks it, and none on the files as they are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.rayjob_rules import mistakes
from tests.unit.deploy.test_cluster_rules import paths
from tests.unit.test_repository import check_command, skinvae_words

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "deploy").glob("rayjob-*.yaml"))
Job = dict[str, Any]


def load(path: Path) -> Job:
    loaded: Job = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


@pytest.fixture
def job() -> Job:
    # A copy through text, since anchors make one object of what stands in two places.
    return Job(yaml.safe_load(yaml.dump(load(ROOT / "deploy/rayjob-score.yaml"), Dumper=_WithoutAliases)))


class _WithoutAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_as_it_is_has_no_mistake_and_its_command_parses(path: Path) -> None:
    job = load(path)
    assert list(mistakes(job)) == []
    in_the_image = "/home/ray/skinvae/"
    assert f"WORKDIR {in_the_image.rstrip('/')}" in (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    words = skinvae_words(job["spec"]["entrypoint"].replace(in_the_image, "").split())
    assert words
    check_command(words)


def test_the_jobs_differ_in_what_they_run_and_how_many_nodes_they_ask_for_only() -> None:
    score, train = load(FILES[0]), load(FILES[1])
    for job in (score, train):
        del job["spec"]["entrypoint"], job["metadata"]
        for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
            for key in ("replicas", "minReplicas", "maxReplicas"):
                del group[key]
    assert score == train


def _set(value: Any, *path: str | int) -> Callable[[Any], None]:
    def broken(job: Any) -> None:
        *parents, last = path
        for key in parents:
            job = job[key]
        job[last] = copy.deepcopy(value)

    return broken


def _drop(*path: str | int) -> Callable[[Any], None]:
    def broken(job: Any) -> None:
        *parents, last = path
        for key in parents:
            job = job[key]
        del job[last]

    return broken


CLUSTER = ("spec", "rayClusterSpec")
HEAD, CPU, GPU = (*CLUSTER, "headGroupSpec"), (*CLUSTER, "workerGroupSpecs", 0), (*CLUSTER, "workerGroupSpecs", 1)
POD, CONTAINER = ("template", "spec"), ("template", "spec", "containers", 0)
LIMITS = (*CONTAINER, "resources", "limits")
BROKEN: list[tuple[Callable[[Any], None], str]] = [
    (_set("ray.io/v1alpha1", "apiVersion"), "apiVersion must be ray.io/v1"),
    (_set({}, "metadata"), "metadata needs a name"),
    (_drop("spec", "rayClusterSpec"), "spec.rayClusterSpec is missing"),
    (_set(3, "spec", "backofLimit"), "KubeRay knows no field 'backofLimit' and would drop it; did you mean 'backoffLi"),
    (_set("3", "spec", "backoffLimit"), "spec: 'backoffLimit' is of the wrong type (str)"),
    (_set(True, "spec", "backoffLimit"), "spec: 'backoffLimit' is of the wrong type (bool)"),
    (_set("token", *CLUSTER, "authMode"), "KubeRay knows no field 'authMode'"),
    (_set(9, *CLUSTER, "autoscalerOptions", "idleTimeout"), "did you mean 'idleTimeoutSeconds'"),
    (_drop(*CLUSTER, "workerGroupSpecs"), "rayClusterSpec needs headGroupSpec and workerGroupSpecs"),
    (_set(4, *GPU, "maxReplica"), "gpu: KubeRay knows no field 'maxReplica'"),
    (_set(0, *HEAD, "rayStartParams", "num-cpus"), "head: rayStartParams.num-cpus must be text"),
    (_drop(*CPU, "template"), "cpu: template is missing"),
    (_set(1, *CPU, *POD, "terminationGracePeriod"), "cpu: Kubernetes refuses template.spec: Additional properties"),
    (_set(8, *CPU, *CONTAINER, "image"), "cpu: Kubernetes refuses template.spec.containers.0.image"),
    (_drop("spec", "entrypoint"), "spec.entrypoint is missing"),
    (_set("HttpMode", "spec", "submissionMode"), "spec.submissionMode must be one of"),
    (_drop("spec", "shutdownAfterJobFinishes"), "spec.shutdownAfterJobFinishes must be true"),
    (_drop("spec", "ttlSecondsAfterFinished"), "spec.ttlSecondsAfterFinished is missing"),
    (_drop("spec", "backoffLimit"), "spec.backoffLimit is missing"),
    (_drop("spec", "activeDeadlineSeconds"), "spec.activeDeadlineSeconds is missing"),
    (_set({"mode": "disabled"}, *CLUSTER, "authOptions"), "rayClusterSpec.authOptions must say mode: token"),
    (_drop(*CLUSTER, "rayVersion"), "rayClusterSpec.rayVersion must be the version in the image"),
    (_drop(*CLUSTER, "enableInTreeAutoscaling"), "rayClusterSpec.enableInTreeAutoscaling must be true"),
    (_set(f"x@sha256:{'0' * 64}", *GPU, *CONTAINER, "image"), "all pods must run one image"),
    (_set({}, *HEAD, "rayStartParams"), 'head: rayStartParams must say num-cpus: "0"'),
    (_drop(*HEAD, *CONTAINER, "env"), "head: RAY_JOB_STOP_WAIT_TIME_S must be 30 or more"),
    (_drop(*HEAD, *CONTAINER, "env", 1), "head: RAY_USAGE_STATS_ENABLED must be 0"),
    (_set(30, *HEAD, *POD, "terminationGracePeriodSeconds"), "head: terminationGracePeriodSeconds must be above 30"),
    (_set("skinvae:latest", *CPU, *CONTAINER, "image"), "cpu: the image must be named by digest"),
    (_set("64Gi", *CPU, *LIMITS, "memory"), "cpu: resources.requests and limits must be equal"),
    (_drop(*CPU, *CONTAINER, "resources"), "cpu: resources.requests and limits must be equal"),
    (_drop(*CPU, *CONTAINER, "volumeMounts"), "cpu: /dev/shm needs an emptyDir of medium Memory"),
    (
        _set("9000000000", *CPU, "rayStartParams", "object-store-memory"),
        "cpu: object-store-memory must be set, and not",
    ),
    (
        _set({"medium": "Memory", "sizeLimit": "20Gi"}, *CPU, *POD, "volumes", 0, "emptyDir"),
        "cpu: /dev/shm may take 20",
    ),
    (_drop(*CPU, *POD, "serviceAccountName"), "cpu: serviceAccountName is missing"),
    (_drop(*CPU, *POD, "securityContext"), "cpu: securityContext must say runAsNonRoot: true"),
    (_set([{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}], *CPU, *CONTAINER, "env"), "must come from a Secret"),
    (_set(0, *CPU, "minReplicas"), "cpu: minReplicas must be 1 or more"),
    (_drop(*CPU, "maxReplicas"), "cpu: minReplicas <= replicas <= maxReplicas"),
    (_drop(*GPU, *POD, "tolerations"), "gpu: tolerations are missing"),
    (_drop(*GPU, *LIMITS, "nvidia.com/gpu"), "there must be a worker group with nvidia.com/gpu"),
]


@pytest.mark.parametrize(("broken", "sentence"), BROKEN, ids=[sentence[:60] for _, sentence in BROKEN])
def test_a_rule_fires_on_a_broken_copy(job: Job, broken: Callable[[Any], None], sentence: str) -> None:
    broken(job)
    found = list(mistakes(job))
    assert any(sentence in one for one in found), found


def test_whatever_is_missing_the_check_goes_on_to_its_end(job: Job) -> None:
    # Pods are checked alike, and Kubernetes' schema takes its time: the head stands for all of them.
    for path in (path for path in paths(job) if "workerGroupSpecs" not in path[:-1]):
        broken = copy.deepcopy(job)
        _drop(*path)(broken)
        assert all(isinstance(one, str) for one in mistakes(broken)), path
