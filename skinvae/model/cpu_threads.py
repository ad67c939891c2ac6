"""A processor's threads, each with a batch of its own rather than all of them with a share of every operation.

Threads that share an operation wait for each other at its end, and there are thousands of ends a second: whatever else
runs on one core holds all of them up. The figures are in docs/performance.md.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class CpuThreads:
    """As many threads as torch has when this is made."""

    def __init__(self) -> None:
        self.count = torch.get_num_threads()
        self._pool = concurrent.futures.ThreadPoolExecutor(self.count, thread_name_prefix="batch")

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`work` of every item; where items are fewer than threads, each item has several.

        All items have ended when it returns, or raises what the first one that failed did.
        """
        if self.count == 1 or len(items) <= 1:
            return [work(item) for item in items]
        num_each = self.count // min(self.count, len(items))

        def work_alone(item: Item) -> Result:
            # The first use of torch in a thread sets its number, so that comes before ours.
            torch.get_num_threads()
            torch.set_num_threads(num_each)
            return work(item)

        try:
            futures = [self._pool.submit(work_alone, item) for item in items]
            concurrent.futures.wait(futures)
        finally:
            # What a thread sets for itself is also what threads begin with from then on.
            torch.set_num_threads(self.count)
        return [future.result() for future in futures]
