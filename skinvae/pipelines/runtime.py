"""Join or start Ray, and divide its CPUs and GPUs among the stages of a job."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import DataContext

from skinvae.config import Device, RaySettings
from skinvae.errors import UsageError
from skinvae.logs import take_over
from skinvae.pipelines.nodes import Node, alive_nodes, await_nodes, cluster_address, logical_cpus, num_cores

MAX_THREADS_PER_ACTOR = 4
"""Convolutions of one batch gain little from more CPU threads; more actors do."""


TASK_BYTES = 1 << 30
"""Of memory for a task that reads and decodes: the largest tars take 0.7 GB (`python -m benchmarks.memory tar`)."""

PART_BYTES = 2 << 30
"""Of a task that makes a large file of a table: 1.8 GB were measured (docs/scale.md)."""


@dataclass(frozen=True)
class Resources:
    """What the stages of one job ask Ray for."""

    num_actors: int
    cpus_per_actor: float
    gpus_per_actor: float
    threads_per_actor: int
    cpus_per_task: float
    """Of a task that decodes or writes."""
    memory_per_task: float = 0.0
    """Bytes that Ray sets aside for it; 0 where Ray does not know what the nodes have."""

    @property
    def device(self) -> str:
        return "cuda" if self.gpus_per_actor else "cpu"

    @property
    def of_task(self) -> dict[str, Any]:
        """Ray's options for a task that decodes or writes."""
        return {"num_cpus": self.cpus_per_task, "memory": self.memory_per_task or None}

    def __str__(self) -> str:
        each = f"{self.gpus_per_actor:g} GPU" if self.gpus_per_actor else f"{self.threads_per_actor} CPU threads"
        return f"{self.num_actors} scoring actor{'s' if self.num_actors > 1 else ''} with {each} each"


@contextmanager
def ray_session(settings: RaySettings) -> Iterator[None]:
    """Join the cluster that the settings or RAY_ADDRESS name, or run a local Ray for as long as the block runs.

    The block begins once the nodes are there that the settings ask for. That holds for the outermost session only:
    where nodes are lost later, the job goes on with those that are left.
    """
    address = cluster_address(settings)
    # A job's own progress and summary are what its user reads; Ray's go to its log files.
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Its C++ side logs to the driver's terminal what Ray itself then handles.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if ray.is_initialized():
        started = False
    elif address:
        started = True
        try:
            with _hushed():
                ray.init(address=address, **quiet)
        except (ConnectionError, ValueError) as error:
            raise UsageError(
                f"no Ray cluster answers at '{address}': RAY_ADDRESS or ray.address takes 'auto', HOST:6379 or "
                "ray://HOST:10001; a job server's http:// address is for `ray job submit --address`"
            ) from error
    else:
        started = True
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Threads that spin while they wait steal the cores from decoding: with one core taken, training a 64-pixel
        # model on two threads ran 2.1 times as fast without (158 against 75 images/s), and 0.9 times on idle cores.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        with _hushed():
            ray.init(address="local", num_cpus=logical_cpus(num_cores()), include_dashboard=False, **quiet)
    if started and threading.current_thread() is threading.main_thread():
        # Ray's own handler, installed by init, exits at once; a job commits what is done first.
        signal.signal(signal.SIGTERM, on_sigterm)
    take_over("ray")
    for name in ("ray.data", "ray.train"):
        # What they log as an error also reaches the driver as an exception.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    # What Ray Data would raise in its place has lost the error of ours on its way from the worker.
    context.raise_original_map_exception = True
    try:
        if started:
            await_nodes(settings)
        yield
    finally:
        if started:
            ray.shutdown()


@contextmanager
def _hushed() -> Iterator[None]:
    """Of what any code writes to stderr: Ray's C++ side says there at which level it logs, before it does so."""
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def available_resources(settings: RaySettings, *, num_actors: int = 0) -> Resources:
    """Divide the running cluster. Raises UsageError where it lacks what the settings ask for."""
    return divided(alive_nodes(), settings, num_actors=num_actors)


def divided(nodes: Sequence[Node], settings: RaySettings, *, num_actors: int, num_actors_on_cpus: int = 0) -> Resources:
    """As `divide_resources`, and memory for the tasks. Raises UsageError where no node has as much as asked for."""
    resources = divide_resources(
        nodes, device=settings.device, num_actors=num_actors, num_actors_on_cpus=num_actors_on_cpus
    )
    largest = max(one.memory_bytes for one in nodes if one.num_cpus)
    asked = settings.task_memory_gib * 2**30
    if largest and asked > largest:
        raise UsageError(
            f"ray.task_memory_gib = {settings.task_memory_gib:g}, but the largest node of the Ray cluster has "
            f"{largest / 2**30:.3g} GiB for tasks: lower it, or start larger nodes"
        )
    # Half of a small node, so that one task always finds room.
    return dataclasses.replace(resources, memory_per_task=int(asked or min(TASK_BYTES, largest / 2)))


def options_of_part_task() -> dict[str, Any]:
    """Of a task that makes a large file of a table: memory, at most half of what the largest node has."""
    largest = max((one.memory_bytes for one in alive_nodes() if one.num_cpus), default=0)
    return {"memory": int(min(PART_BYTES, largest / 2))} if largest else {}


def training_resources(settings: RaySettings, *, num_workers: int = 0, min_workers: int = 0) -> Resources:
    """Divide the running cluster among training workers; `num_workers` = 0 is one per GPU, or one on the CPU.

    No two share a GPU: NCCL refuses that. With fewer GPUs than workers, `min_workers` of them must have one each, and
    training begins with as many as there are. Raises UsageError otherwise.
    """
    nodes = alive_nodes()
    num_gpus = sum(int(one.num_gpus) for one in nodes) if settings.device != "cpu" else 0
    at_once = num_workers
    if num_gpus and num_workers > num_gpus:
        if not 0 < min_workers <= num_gpus:
            raise UsageError(
                f"{min_workers or num_workers} training workers need a GPU each, and the Ray cluster has {num_gpus}: "
                "lower train.num_workers, or set train.min_workers"
            )
        at_once = num_gpus
    resources = divided(nodes, settings, num_actors=at_once, num_actors_on_cpus=1)
    return dataclasses.replace(resources, num_actors=max(resources.num_actors, num_workers))


def divide_resources(
    nodes: Sequence[Node], *, device: Device = "auto", num_actors: int = 0, num_actors_on_cpus: int = 0
) -> Resources:
    """One actor per GPU; without GPUs the actors share the CPUs, less a share that decodes and writes.

    All actors find a place at once, each on one node, and wherever Ray puts them a task still finds one.
    `num_actors` = 0 chooses, without GPUs `num_actors_on_cpus`, which 0 leaves to the CPUs' number. Raises UsageError
    where that cannot be, or where there is no GPU though `device` says cuda.
    """
    if sum(one.num_cpus for one in nodes) <= 0:
        raise UsageError(
            "the Ray cluster has no CPU to run on: ask an autoscaler for some with ray.min_cpus, or start a node with "
            "--num-cpus"
        )
    has_gpus = any(one.num_gpus >= 1 for one in nodes)
    if device == "cuda" and not has_gpus:
        raise UsageError(
            "ray.device = cuda, but the Ray cluster has no GPU: ask an autoscaler for some with ray.min_gpus, or use "
            "auto or cpu"
        )
    if has_gpus and device != "cpu":
        return _divide_gpus(nodes, num_actors)
    return _divide_cpus([one.num_cpus for one in nodes if one.num_cpus], num_actors or num_actors_on_cpus)


def has_room(resources: Resources, nodes: Sequence[Node]) -> bool:
    """Whether all actors find a place on the nodes at once."""
    return sum(_num_that_fit(resources, one) for one in nodes) >= resources.num_actors


def num_tasks_at_once(resources: Resources, nodes: Sequence[Node], *, num_actors: int) -> int:
    """How many decoding tasks the nodes have room for beside so many actors; at least 1."""
    free = sum(one.num_cpus for one in nodes) - num_actors * resources.cpus_per_actor
    by_cpus = int(free / resources.cpus_per_task + 1e-6)
    if resources.memory_per_task:
        by_memory = sum(int(one.memory_bytes / resources.memory_per_task) for one in nodes if one.num_cpus)
        return max(1, min(by_cpus, by_memory))
    return max(1, by_cpus)


def _num_that_fit(resources: Resources, node: Node) -> int:
    by_cpus = int(node.num_cpus / resources.cpus_per_actor + 1e-6)
    if not resources.gpus_per_actor:
        return by_cpus
    return min(by_cpus, int(node.num_gpus) * int(1 / resources.gpus_per_actor + 1e-6))


def _divide_gpus(nodes: Sequence[Node], num_actors: int) -> Resources:
    usable = [one for one in nodes if one.num_gpus >= 1 and one.num_cpus > 0]
    if not usable:
        raise UsageError(
            "no node of the Ray cluster has a CPU beside its GPU for the actor that uses it: start the nodes with "
            "GPUs with --num-cpus, or set ray.device=cpu"
        )
    num_gpus = sum(int(one.num_gpus) for one in usable)
    actors = num_actors or num_gpus
    # Shares that fit: three actors on two GPUs take a half each, for two thirds would leave one without.
    actors_per_gpu = math.ceil(actors / num_gpus)
    cpus_for_each = min(one.num_cpus / (int(one.num_gpus) * actors_per_gpu) for one in usable)
    cpus = [one.num_cpus for one in nodes if one.num_cpus]
    # With fewer CPUs than that the tasks would starve behind the actors.
    enough = cpus_for_each >= 1 and sum(map(int, cpus)) > actors
    cpus_per_actor = 1.0 if enough else _in_ray_s_units(min(1.0, 0.5 * cpus_for_each))
    return Resources(actors, cpus_per_actor, 1 / actors_per_gpu, 1, _cpus_per_task(cpus, actors, cpus_per_actor))


def _divide_cpus(cpus: Sequence[float], num_actors: int) -> Resources:
    for_tasks = max(1.0, sum(cpus) // 8) if sum(cpus) >= 2 else sum(cpus) / 2
    budget = sum(cpus) - for_tasks
    largest = max(cpus)
    actors = num_actors or max(1, math.ceil(int(budget) / max(1, min(MAX_THREADS_PER_ACTOR, int(largest)))))
    cpus_per_actor = _largest_share(cpus, actors, at_most=min(budget / actors, largest))
    return Resources(
        actors, cpus_per_actor, 0.0, max(1, int(cpus_per_actor)), _cpus_per_task(cpus, actors, cpus_per_actor)
    )


def _largest_share(cpus: Sequence[float], count: int, *, at_most: float) -> float:
    """The most CPUs that `count` actors can have each. Ray takes whole CPUs, or fractions below one."""
    for whole in range(int(at_most), 0, -1):
        if sum(one // whole for one in cpus) >= count:
            return float(whole)
    # The inverse of a whole number fills a CPU without a rest that is of no use to anyone.
    share = _in_ray_s_units(1 / math.ceil(1 / min(1.0, at_most)))
    if share <= 0 or sum(one // share for one in cpus) < count:
        raise UsageError(
            f"the {sum(cpus):g} CPUs of the Ray cluster's {len(cpus)} node(s) have no room for {count:,} actors: "
            "lower score.num_actors or train.num_workers"
        )
    return share


def _cpus_per_task(cpus: Sequence[float], num_actors: int, cpus_per_actor: float) -> float:
    """What is left on some node, however the actors lie: whole CPUs leave whole ones, fractions at least the mean."""
    if cpus_per_actor >= 1 and sum(map(int, cpus)) - num_actors * cpus_per_actor >= 1:
        return 1.0
    rest = _in_ray_s_units(min(1.0, (sum(cpus) - num_actors * cpus_per_actor) / len(cpus)))
    if rest <= 0:
        raise UsageError(f"the Ray cluster's {sum(cpus):g} CPUs are too few: start more nodes, or more --num-cpus")
    return rest


def _in_ray_s_units(amount: float) -> float:
    """Rounded down to Ray's smallest unit."""
    return math.floor(amount * 10_000 + 1e-6) / 10_000
