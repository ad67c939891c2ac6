"""skinvae at whatever precision it chooses by itself."""

from __future__ import annotations

from benchmarks.ways import product
from benchmarks.ways.task import Task


def run(task: Task) -> None:
    product.run(task, precision=None)
