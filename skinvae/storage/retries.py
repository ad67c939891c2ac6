"""Trying again what failed for a passing reason: how often, for how long, and how often that happened so far.

One policy for all that goes to storage. s3fs and botocore try once; deltalake's own client is given the same bounds,
and tells nobody how often it made use of them.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

Result = TypeVar("Result")

MAX_ATTEMPTS = 20
"""Where 36 % of all requests fail, one of 10^9 fails this often."""
MAX_SECONDS = 180.0
"""After which no further attempt begins."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 10.0


class _Counter:
    """Counts for all threads of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def add(self) -> None:
        with self._lock:
            self._count += 1

    def take(self) -> int:
        with self._lock:
            count, self._count = self._count, 0
            return count


_retries = _Counter()


def take_retries() -> int:
    """How often this process tried again since it was last asked. What deltalake retries by itself is not in it."""
    return _retries.take()


def count_retry() -> None:
    """For what is tried again in another way than by `retry`."""
    _retries.add()


def retry(attempt: Callable[[], Result], *, is_passing: Callable[[Exception], bool]) -> Result:
    """Call `attempt` until it succeeds or fails for good: its last error is raised as it is."""
    pauses = _pauses()
    while True:
        try:
            return attempt()
        except Exception as error:
            pause = next(pauses, None) if is_passing(error) else None
            if pause is not None:
                count_retry()
                time.sleep(pause)
                continue
            raise


async def retry_async(attempt: Callable[[], Awaitable[Result]], *, is_passing: Callable[[Exception], bool]) -> Result:
    """`retry`, for coroutines."""
    pauses = _pauses()
    while True:
        try:
            return await attempt()
        except Exception as error:
            pause = next(pauses, None) if is_passing(error) else None
            if pause is not None:
                count_retry()
                await asyncio.sleep(pause)
                continue
            raise


def _pauses() -> Iterator[float]:
    """Seconds to wait before each further attempt: up to twice as long each time, anything from 0 to that.

    Clients that failed together so come back apart.
    """
    deadline = time.monotonic() + MAX_SECONDS
    for attempt in range(MAX_ATTEMPTS - 1):
        if time.monotonic() > deadline:
            return
        yield random.uniform(0, min(FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS))
