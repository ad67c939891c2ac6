"""The machines of a Ray cluster: those that are there, and those that a job asks for and waits for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.autoscaler.sdk import request_resources

from skinvae.config import RaySettings
from skinvae.errors import UsageError
from skinvae.logs import say

_LOOK_SECONDS = 1.0
_WORD_SECONDS = 60.0
"""Between two signs of life while nodes are waited for."""


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster offers to Ray; an actor or a task lies on one."""

    num_cpus: float
    num_gpus: float = 0.0
    memory_bytes: float = 0.0
    """For the heaps of workers; 0 where that is not known."""
    object_store_bytes: float = 0.0


def cluster_address(settings: RaySettings) -> str | None:
    """Of the cluster to join; None where a local Ray is to be started."""
    address = settings.address or os.environ.get("RAY_ADDRESS")
    return None if address == "local" else address or None


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def logical_cpus(cores: int) -> int:
    """What a local Ray counts as its CPUs: beside the actors, which fill the cores, tasks need tickets of their own."""
    return cores + max(1, cores // 8)


def this_machine() -> Node:
    """As a local Ray would see it."""
    return Node(logical_cpus(num_cores()), torch.cuda.device_count())


def alive_nodes() -> list[Node]:
    """The machines of the running cluster."""
    alive = [one["Resources"] for one in ray.nodes() if one["Alive"]]  # type: ignore[no-untyped-call]  # Ray's omission
    return [
        Node(
            num_cpus=one.get("CPU", 0.0),
            num_gpus=one.get("GPU", 0.0),
            memory_bytes=one.get("memory", 0.0),
            object_store_bytes=one.get("object_store_memory", 0.0),
        )
        for one in alive
    ]


def off_the_head() -> dict[str, Any]:
    """Options of a task that asks for no CPU, and would else run on a head that is to run none, too."""
    nodes = [one for one in ray.nodes() if one["Alive"]]  # type: ignore[no-untyped-call]  # Ray's omission
    head = next((one for one in nodes if "node:__internal_head__" in one["Resources"]), None)
    others = [one for one in nodes if one is not head and one["Resources"].get("CPU")]
    if head is None or head["Resources"].get("CPU") or not others:
        return {}
    return {"label_selector": {"ray.io/node-id": f"!{head['NodeID']}"}}


def await_nodes(
    settings: RaySettings,
    *,
    look: Callable[[], list[Node]] = alive_nodes,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return once the machines have the CPUs and GPUs that the settings ask for.

    Asks the cluster's autoscaler for them, if it has one. Raises UsageError where they do not come in time, and at once
    where none can: a local Ray does not grow.
    """
    nodes = look()
    if _are_enough(nodes, settings):
        return
    wanted = " and ".join(
        f"{number} {noun}{'s' * (number > 1)}"
        for number, noun in ((settings.min_cpus, "CPU"), (settings.min_gpus, "GPU"))
        if number
    )
    if not cluster_address(settings):
        raise UsageError(f"this machine has no {wanted}, for which ray.min_cpus and ray.min_gpus ask: {_have(nodes)}")
    begun = clock()
    next_word = begun
    try:
        while not _are_enough(nodes, settings):
            # Again and again: Ray Data's coordinator outlives its jobs, and withdraws every 20 s what others asked for.
            request_resources(num_cpus=settings.min_cpus or None, bundles=[{"GPU": 1}] * settings.min_gpus)
            if clock() >= next_word:
                say(f"waiting for {wanted}: the cluster has {_have(nodes)}", event="waiting_for_nodes")
                next_word += _WORD_SECONDS
            if clock() - begun > settings.wait_seconds:
                raise UsageError(
                    f"the Ray cluster did not grow to {wanted} within {settings.wait_seconds:g} s (ray.wait_seconds), "
                    f"it has {_have(nodes)}: see `ray status`, or lower ray.min_cpus and ray.min_gpus"
                )
            sleep(_LOOK_SECONDS)
            nodes = look()
    finally:
        # It would hold for ever: from here on the job's own tasks and actors keep the nodes.
        request_resources(num_cpus=0, bundles=[])


def _are_enough(nodes: list[Node], settings: RaySettings) -> bool:
    num_cpus, num_gpus = sum(one.num_cpus for one in nodes), sum(one.num_gpus for one in nodes)
    return num_cpus >= settings.min_cpus and num_gpus >= settings.min_gpus


def _have(nodes: list[Node]) -> str:
    return f"{sum(one.num_cpus for one in nodes):g} CPUs and {sum(one.num_gpus for one in nodes):g} GPUs"
