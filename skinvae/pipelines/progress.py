"""Live progress of a job: workers report to one actor, the driver shows a bar in a terminal and log lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LOG_SECONDS = 10.0
"""Where nobody watches a bar, a line this often."""

_REFRESH_SECONDS = 0.5


class ProgressActor:
    """Holds how far the workers are; losing it costs the display, never the job."""

    def __init__(self) -> None:
        self._done = 0
        self._fields: dict[str, Any] = {}

    def advance(self, amount: int, **fields: Any) -> None:
        """Count `amount` more as done and remember `fields` for the display."""
        self._done += amount
        self._fields |= fields

    def state(self) -> tuple[int, dict[str, Any]]:
        return self._done, self._fields


@dataclass(frozen=True)
class _Display:
    """What is shown of one ProgressActor."""

    actor: Any
    title: str
    total: int
    unit: str
    describe: Callable[[dict[str, Any]], str]
    console: Console
    stop: threading.Event

    def run(self) -> None:
        """Show until `stop` is set."""
        if self.console.is_terminal:
            self._show_bar()
        else:
            self._log_lines()

    def _show_bar(self) -> None:
        rate = RateMeter()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[words]}"),
        )
        with Progress(*columns, console=self.console) as bar:
            task = bar.add_task(self.title, total=self.total, rate="", words="")
            stopped = False
            while not stopped:
                stopped = self.stop.wait(_REFRESH_SECONDS)
                done, fields = self._poll()
                if done is not None:
                    speed = f"{rate.update(done):.0f} {self.unit}/s"
                    bar.update(task, completed=done, rate=speed, words=self.describe(fields))

    def _log_lines(self) -> None:
        rate = RateMeter()
        while not self.stop.wait(LOG_SECONDS):
            done, fields = self._poll()
            if done is None:
                continue
            speed = rate.update(done)
            eta = f"ETA {_clock((self.total - done) / speed)}" if speed > 0 and done < self.total else ""
            count = f"{self.title}: {done:,} of {self.total:,} {self.unit}"
            words = (count, f"{speed:.0f} {self.unit}/s", eta, self.describe(fields))
            say(f"{time.strftime('%H:%M:%S')} {', '.join(word for word in words if word)}")

    def _poll(self) -> tuple[int | None, dict[str, Any]]:
        try:
            done, fields = ray.get(self.actor.state.remote(), timeout=5)
        except (ray.exceptions.RayError, TimeoutError):
            return None, {}
        return done, fields


@contextlib.contextmanager
def shown_progress(
    title: str, *, total: int, unit: str, describe: Callable[[dict[str, Any]], str] = lambda _: ""
) -> Iterator[Any]:
    """A ProgressActor whose state is shown on stderr, with rate and ETA, while the block runs.

    `describe` turns the latest fields into a few words behind the bar.
    """
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(ProgressActor).remote()
    stop = threading.Event()
    display = _Display(actor, title, total, unit, describe, Console(stderr=True), stop)
    thread = threading.Thread(target=display.run, daemon=True, name="progress")
    thread.start()
    try:
        yield actor
    finally:
        stop.set()
        thread.join()
        ray.kill(actor)


class RateMeter:
    """Speed over the last half minute, so that a slow start does not spoil the ETA."""

    WINDOW_SECONDS = 30.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._points = [(clock(), 0)]

    def update(self, done: int) -> float:
        """Per second, given how much is done by now."""
        now = self._clock()
        self._points.append((now, done))
        while len(self._points) > 2 and now - self._points[1][0] > self.WINDOW_SECONDS:
            self._points.pop(0)
        then, before = self._points[0]
        return (done - before) / (now - then) if now > then else 0.0


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"


def say(message: str) -> None:
    """One line for the user on stderr; stdout is for results."""
    print(message, file=sys.stderr, flush=True)
