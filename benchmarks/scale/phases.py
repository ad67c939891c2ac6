"""Seconds and peak memory of what a process does, phase by phase."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

Measured = dict[str, Any]
Result = TypeVar("Result")


class Phases:
    """Seconds and peak memory of this process, phase by phase."""

    def __init__(self) -> None:
        self.found: dict[str, Measured] = {}

    @contextmanager
    def measured(self, name: str) -> Iterator[Measured]:
        """What the block puts into its record is kept with it."""
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        started, more = time.perf_counter(), dict[str, Any]()
        yield more
        seconds = time.perf_counter() - started
        self.found[name] = {
            "seconds": seconds,
            "peak_mb": megabytes("VmHWM"),
            "mb_behind": megabytes("VmRSS"),
            **more,
        }


def megabytes(field: str) -> int:
    """Of this process, by the name that /proc/self/status has for it."""
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) >> 10


def alone(work: Callable[..., Result], *arguments: Any) -> Result:
    """The result of a function, in a process of its own: that of another command."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)
