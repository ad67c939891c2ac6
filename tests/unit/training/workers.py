"""Functions run by gloo workers, each a process of its own."""

from __future__ import annotations

import multiprocessing
import multiprocessing.queues
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_SECONDS = 120

Worker = Callable[..., Any]
"""(rank, number of workers, *arguments) -> its result, which must be picklable."""


def run_workers(worker: Worker, num_workers: int, *arguments: Any, folder: Path) -> list[Any]:
    """What each worker returns, by rank; an error of one of them is raised here."""
    context = multiprocessing.get_context("spawn")
    rendezvous = f"file://{folder}/rendezvous-{num_workers}"
    with context.Pool(num_workers) as pool:
        calls = [
            pool.apply_async(_run, (worker, rank, num_workers, rendezvous, arguments)) for rank in range(num_workers)
        ]
        return [call.get(timeout=_SECONDS) for call in calls]


def _run(worker: Worker, rank: int, num_workers: int, rendezvous: str, arguments: tuple[Any, ...]) -> Any:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=num_workers)
    try:
        return worker(rank, num_workers, *arguments)
    finally:
        dist.destroy_process_group()
