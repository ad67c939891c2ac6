"""Where the time of a job's workers goes: seconds of wall time by stage, measured in the process that does the work."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from enum import Enum
from typing import TypeVar

T = TypeVar("T")

Clock = Callable[[], float]
"""Seconds from any origin."""


class Stage(str, Enum):
    """What a job spends time on."""

    START = "start"
    """The driver's, from the job's begin until its first image was scored, or prepared."""
    COMMIT = "commit"
    """The driver's, on commits of slices."""
    SWAP = "swap"
    """The driver's, until large files have taken the place of slice files."""
    STREAM = "stream"
    """Reading a tar in a task of its own, which takes no CPU from decoding."""
    READ = "read"
    """Waiting for an archive's bytes in a task that decodes, and inflating them."""
    DECODE = "decode"
    """Encoded bytes -> pixels of one size."""
    SCORE = "score"
    """Pixels -> rows, in a scoring actor."""
    WAIT = "wait"
    """A scoring actor's, between two slices, for the next one to be decoded."""
    HELD = "held"
    """A scoring actor's, between two slices, while as many files are being written as it may write at once."""
    LOAD = "load"
    """A scoring actor's, to load the bundle and build the scorer."""
    WRITE = "write"
    """Writing the files of slices; a scoring actor scores meanwhile."""


def add_seconds(total: dict[Stage, float], more: Mapping[Stage, float]) -> None:
    """Add to `total`, in place."""
    for stage, seconds in more.items():
        total[stage] = total.get(stage, 0.0) + seconds


class StageClock:
    """Seconds by stage of one thread. A stage within another one counts as itself alone."""

    def __init__(self, now: Clock = time.perf_counter) -> None:
        self._now = now
        self._seconds: dict[Stage, float] = {}
        self._open: list[Stage] = []
        self._since = 0.0

    @contextlib.contextmanager
    def measured(self, stage: Stage) -> Iterator[None]:
        """Charge the block to the stage."""
        self._begin(stage)
        try:
            yield
        finally:
            self._end()

    def measured_items(self, stage: Stage, items: Iterable[T]) -> Iterator[T]:
        """The items; what it takes to get each of them is charged to the stage, what is done with it is not."""
        iterator = iter(items)
        while True:
            # Not `with`: this runs for every image, and takes half the time so.
            self._begin(stage)
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._end()
            yield item

    def take(self) -> dict[Stage, float]:
        """The seconds of stages that ended since they were last taken."""
        taken, self._seconds = self._seconds, {}
        return taken

    def _begin(self, stage: Stage) -> None:
        self._charge()
        self._open.append(stage)

    def _end(self) -> None:
        self._charge()
        self._open.pop()

    def _charge(self) -> None:
        now = self._now()
        if self._open:
            stage = self._open[-1]
            self._seconds[stage] = self._seconds.get(stage, 0.0) + now - self._since
        self._since = now


class ActorClock:
    """Seconds by stage of a scoring actor, whose threads score one slice at a time and write others meanwhile.

    From the first slice to the last every second is SCORE or LOAD, or between two slices WAIT or HELD; WRITE lies
    beside them. What comes behind the last slice is nobody's: an actor that has done its share starves for nothing.
    """

    def __init__(self, *, num_writes_at_once: int, now: Clock = time.perf_counter) -> None:
        self._now = now
        self._num_writes_at_once = num_writes_at_once
        self._lock = threading.Lock()
        self._seconds: dict[Stage, float] = {}
        self._gap: dict[Stage, float] = {}
        """Since the last slice was scored."""
        self._open: list[Stage] = []
        self._num_writing = 0
        self._since: float | None = None
        """When the time was last charged to a stage; None before the first slice."""

    def scoring(self) -> AbstractContextManager[None]:
        """Charge the block to SCORE; one thread at a time."""
        return self._charged(Stage.SCORE)

    def loading(self) -> AbstractContextManager[None]:
        """Charge the block, which lies in one of `scoring`, to LOAD instead."""
        return self._charged(Stage.LOAD)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Charge the block to WRITE; any number of threads at a time."""
        started = self._count_writing(1)
        try:
            yield
        finally:
            ended = self._count_writing(-1)
            with self._lock:
                add_seconds(self._seconds, {Stage.WRITE: ended - started})

    def take(self) -> dict[Stage, float]:
        """The seconds since they were last taken."""
        with self._lock:
            taken, self._seconds = self._seconds, {}
        return taken

    @contextlib.contextmanager
    def _charged(self, stage: Stage) -> Iterator[None]:
        with self._lock:
            self._since = self._charge()
            add_seconds(self._seconds, self._gap)
            self._gap.clear()
            self._open.append(stage)
        try:
            yield
        finally:
            with self._lock:
                self._charge()
                self._open.pop()

    def _count_writing(self, change: int) -> float:
        with self._lock:
            now = self._charge()
            self._num_writing += change
        return now

    def _charge(self) -> float:
        now = self._now()
        if self._since is not None:
            passed = now - self._since
            if self._open:
                add_seconds(self._seconds, {self._open[-1]: passed})
            else:
                is_held = self._num_writing >= self._num_writes_at_once
                add_seconds(self._gap, {Stage.HELD if is_held else Stage.WAIT: passed})
            self._since = now
        return now
