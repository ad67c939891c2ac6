"""The cluster and what a job takes of it, in words."""

from __future__ import annotations

from collections.abc import Sequence

from skinvae.pipelines.nodes import Node
from skinvae.pipelines.runtime import Resources, num_tasks_at_once


def describe(
    nodes: Sequence[Node], resources: Resources, *, num_actors: int | None = None, noun: str = "scoring actor"
) -> str:
    """'3 nodes, 48 CPUs, 4 GPUs, 180 GiB; 4 scoring actors (1 GPU, 2 CPUs each), up to 40 decoding tasks (1 CPU, 1 GiB
    each); object store 54 GiB'. `num_actors` = 0 is a job without actors."""
    number = resources.num_actors if num_actors is None else num_actors
    num_tasks = num_tasks_at_once(resources, nodes, num_actors=number)
    actors = f"{_count(number, noun)} ({_of_actor(resources)}{_each(number)})"
    tasks = f"up to {_count(num_tasks, 'decoding task')} ({_of_task(resources)}{_each(num_tasks)})"
    workers = [actors, tasks] if number else [tasks]
    store = sum(one.object_store_bytes for one in nodes)
    parts = [_of_nodes(nodes), ", ".join(workers), f"object store {_gib(store)}" if store else ""]
    return "; ".join(part for part in parts if part)


def _of_nodes(nodes: Sequence[Node]) -> str:
    num_gpus, memory = sum(one.num_gpus for one in nodes), sum(one.memory_bytes for one in nodes)
    words = [_count(len(nodes), "node"), _count(sum(one.num_cpus for one in nodes), "CPU")]
    words += [_count(num_gpus, "GPU")] if num_gpus else []
    return ", ".join([*words, *([_gib(memory)] if memory else [])])


def _of_actor(resources: Resources) -> str:
    gpu = f"{_count(resources.gpus_per_actor, 'GPU')}, " if resources.gpus_per_actor else ""
    return f"{gpu}{_count(resources.cpus_per_actor, 'CPU')}"


def _of_task(resources: Resources) -> str:
    memory = f", {_gib(resources.memory_per_task)}" if resources.memory_per_task else ""
    return f"{_count(resources.cpus_per_task, 'CPU')}{memory}"


def _each(number: int) -> str:
    return " each" if number > 1 else ""


def _count(number: float, noun: str) -> str:
    return f"{number:,g} {noun}{'' if number <= 1 else 's'}" if number < 1_000_000 else f"{number:,.0f} {noun}s"


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:,.3g} GiB"
