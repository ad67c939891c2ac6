"""Join or start Ray, and divide its CPUs and GPUs among the stages of a job."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import DataContext

from skinvae.config import Device, RaySettings
from skinvae.errors import UsageError

MAX_THREADS_PER_ACTOR = 4
"""Convolutions of one batch gain little from more CPU threads; more actors do."""


@dataclass(frozen=True)
class Resources:
    """What the stages of one job ask Ray for."""

    num_actors: int
    cpus_per_actor: float
    gpus_per_actor: float
    threads_per_actor: int
    cpus_per_task: float
    """Of a task that decodes or writes."""

    @property
    def device(self) -> str:
        return "cuda" if self.gpus_per_actor else "cpu"

    def __str__(self) -> str:
        each = f"{self.gpus_per_actor:g} GPU" if self.gpus_per_actor else f"{self.threads_per_actor} CPU threads"
        return f"{self.num_actors} scoring actor{'s' if self.num_actors > 1 else ''} with {each} each"


@contextmanager
def ray_session(settings: RaySettings) -> Iterator[None]:
    """Join the cluster that the settings or RAY_ADDRESS name, or run a local Ray for as long as the block runs."""
    address = settings.address or os.environ.get("RAY_ADDRESS")
    # A job's own progress and summary are what its user reads; Ray's go to its log files.
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if ray.is_initialized():
        started = False
    elif address and address != "local":
        started = True
        try:
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
        # Its C++ side logs to the driver's terminal what Ray itself then handles.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # Beside the scoring actors, which fill the cores, decoding and writing need tickets of their own.
        ray.init(address="local", num_cpus=cores + max(1, cores // 8), include_dashboard=False, **quiet)
    if started and threading.current_thread() is threading.main_thread():
        # Ray's own handler, installed by init, exits at once; a job commits what is done first.
        signal.signal(signal.SIGTERM, on_sigterm)
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    DataContext.get_current().enable_progress_bars = False
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def available_resources(settings: RaySettings, *, num_actors: int = 0) -> Resources:
    """Divide the running cluster. Raises UsageError if it lacks the GPU that the settings ask for."""
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray leaves it untyped
    return divide_resources(
        num_cpus=total.get("CPU", 0.0), num_gpus=total.get("GPU", 0.0), device=settings.device, num_actors=num_actors
    )


def divide_resources(*, num_cpus: float, num_gpus: float, device: Device = "auto", num_actors: int = 0) -> Resources:
    """One actor per GPU; without GPUs the actors share the CPUs, less a share that decodes and writes.

    `num_actors` = 0 chooses. Raises UsageError where there is no CPU, or no GPU though `device` says cuda.
    """
    if num_cpus <= 0:
        raise UsageError("the Ray cluster has no CPU to run on: start a node with --num-cpus")
    if device == "cuda" and num_gpus < 1:
        raise UsageError("ray.device = cuda, but the Ray cluster has no GPU: use auto or cpu")
    if num_gpus >= 1 and device != "cpu":
        actors = num_actors or int(num_gpus)
        # With fewer CPUs than that the tasks would starve behind the actors.
        cpus_per_actor = 1.0 if num_cpus >= actors + 1 else 0.5 * num_cpus / actors
        cpus_per_task = min(1.0, num_cpus - actors * cpus_per_actor)
        # Shares that fit: three actors on two GPUs take a half each, for two thirds would leave one without.
        actors_per_gpu = math.ceil(actors / int(num_gpus))
        return Resources(actors, cpus_per_actor, 1 / actors_per_gpu, 1, cpus_per_task)
    for_tasks = max(1.0, num_cpus // 8) if num_cpus >= 2 else num_cpus / 2
    budget = num_cpus - for_tasks
    actors = num_actors or max(1, math.ceil(int(budget) / MAX_THREADS_PER_ACTOR))
    per_actor = budget / actors
    # Ray takes whole CPUs, or fractions below one; rounded down, so that all actors and a task fit.
    cpus_per_actor = float(int(per_actor)) if per_actor >= 1 else math.floor(per_actor * 100) / 100
    return Resources(actors, cpus_per_actor, 0.0, max(1, int(per_actor)), min(1.0, for_tasks))
