"""The DataLoader loop around the product's scorer: what the pipeline alone makes of the same arithmetic."""

from __future__ import annotations

from benchmarks.ways.loop import score_all
from benchmarks.ways.task import Task


def run(task: Task) -> None:
    score_all(task, task.scorer())
