"""Live progress of a job: workers report to one actor, the driver shows a bar in a terminal and log lines elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
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
from rich.table import Column

from skinvae.logs import is_json, note, say, tell
from skinvae.pipelines.stage_times import Stage, add_seconds
from skinvae.storage.retries import take_retries

LOG_SECONDS = 10.0
"""Where nobody watches a bar, a line this often."""

_REFRESH_SECONDS = 0.5
_ANSWER_SECONDS = 5.0

_T = TypeVar("_T")


class _At(Enum):
    """Where a slice is."""

    UNKNOWN = auto()
    WAITING = auto()
    """Decoded."""
    IN_PROGRESS = auto()
    ENDED = auto()


@dataclass
class _Attempts:
    """At one slice, since it last came to an end."""

    num_begun: int = 0
    done: int = 0
    """What the last of them has done."""
    at: _At = _At.UNKNOWN


@dataclass(frozen=True)
class _Line:
    """Said once, by the driver."""

    message: str
    event: str
    fields: dict[str, Any]
    how: Callable[..., None] = say

    def say(self) -> None:
        self.how(self.message, event=self.event, **self.fields)


@dataclass(frozen=True)
class ProgressSample:
    """What a ProgressActor knows at one moment, all of it since it began."""

    num_done: int
    num_waiting: int
    """Slices that are decoded and that nobody has taken up."""
    num_in_progress: int
    """Slices that are being scored or written."""
    num_bytes: int
    """Of the images that were decoded, encoded."""
    num_retries: int
    seconds: dict[Stage, float]


class ProgressActor:
    """Holds how far the workers are, and how often they began each slice; losing it never costs the job more than that.

    It holds a record for each slice of the run: less than what the driver's view of the table takes.
    """

    def __init__(self) -> None:
        self._done = 0
        self._attempts: dict[str, _Attempts] = {}
        self._num_reattempted = 0
        self._fields: dict[str, Any] = {}
        self._lines: list[_Line] = []
        self._num_retries = 0
        self._num_bytes = 0
        self._num_at = dict.fromkeys(_At, 0)
        self._seconds: dict[Stage, float] = {}
        self._first: float | None = None

    def advance(self, amount: int, *, line: str | None = None, event: str = "info", **fields: Any) -> None:
        """Count `amount` more as done, show `line` once, and remember `fields` for the display."""
        self._note_first(amount)
        self._done += amount
        self._fields |= fields
        if line is not None:
            self._lines.append(_Line(line, event, fields))

    def note(self, message: str) -> None:
        """As that of `logs`, from a process whose stderr nobody sees."""
        self._lines.append(_Line(message, "note", {}, how=note))

    def decoded(self, slice_id: str, num_bytes: int) -> None:
        """A slice, of images that take so many bytes, waits for its scoring; one that went further is further."""
        self._num_bytes += num_bytes
        attempts = self._attempts.setdefault(slice_id, _Attempts())
        if attempts.at is _At.UNKNOWN:
            self._move(attempts, _At.WAITING)

    def begin(self, slice_id: str, num_done: int = 0) -> int:
        """The work on a slice begins, from its start, where `num_done` of it need none.

        Returns how often it did since it last came to an end.
        """
        attempts = self._attempts.setdefault(slice_id, _Attempts())
        if attempts.at in (_At.IN_PROGRESS, _At.ENDED):
            self._num_reattempted += 1
            again = f"slice {slice_id} is begun again: the process that had it, or its node, was lost"
            fields = {"slice_id": slice_id, "num_begun": attempts.num_begun + 1}
            self._lines.append(_Line(again, "slice_begun_again", fields, how=tell))
        self._move(attempts, _At.IN_PROGRESS)
        self._done += num_done - attempts.done
        attempts.num_begun, attempts.done = attempts.num_begun + 1, num_done
        return attempts.num_begun

    def advance_slice(self, slice_id: str, amount: int) -> None:
        """Count `amount` more of the slice as done."""
        self._note_first(amount)
        self._done += amount
        attempts = self._attempts.setdefault(slice_id, _Attempts())
        attempts.done += amount
        if attempts.at is _At.UNKNOWN:
            self._move(attempts, _At.IN_PROGRESS)

    def end(self, slice_id: str) -> None:
        """The work on the slice has come to its end."""
        attempts = self._attempts.setdefault(slice_id, _Attempts())
        attempts.num_begun = 0
        self._move(attempts, _At.ENDED)

    def num_reattempted(self) -> int:
        """How often a slice was begun that had been begun before, ended or not."""
        return self._num_reattempted

    def count_retries(self, count: int) -> None:
        """Add what a worker tried again."""
        self._num_retries += count

    def num_retries(self) -> int:
        """What workers tried again, as far as they said so."""
        return self._num_retries

    def add_seconds(self, seconds: Mapping[Stage, float]) -> None:
        """Add what a worker spent."""
        add_seconds(self._seconds, seconds)

    def times(self) -> tuple[dict[Stage, float], float | None]:
        """Worker-seconds by stage, as far as workers said so, and how many seconds ago the first image was done."""
        return dict(self._seconds), None if self._first is None else time.monotonic() - self._first

    def sample(self) -> ProgressSample:
        """What there is to measure."""
        return ProgressSample(
            num_done=self._done,
            num_waiting=self._num_at[_At.WAITING],
            num_in_progress=self._num_at[_At.IN_PROGRESS],
            num_bytes=self._num_bytes,
            num_retries=self._num_retries,
            seconds=dict(self._seconds),
        )

    def _move(self, attempts: _Attempts, to: _At) -> None:
        self._num_at[attempts.at] -= 1
        self._num_at[to] += 1
        attempts.at = to

    def _note_first(self, amount: int) -> None:
        if self._first is None and amount:
            self._first = time.monotonic()

    def state(self, num_lines_seen: int) -> tuple[int, dict[str, Any], list[_Line]]:
        """How much is done, the latest fields, and the lines behind the first `num_lines_seen`."""
        return self._done, self._fields, self._lines[num_lines_seen:]


@dataclass(frozen=True)
class _Display:
    """What is shown of one ProgressActor."""

    actor: Any
    title: str
    total: Callable[[], int | None]
    unit: str
    describe: Callable[[dict[str, Any]], str]
    console: Console
    stop: threading.Event
    shown: list[_Line] = field(default_factory=list)
    """Lines that were shown already."""

    def run(self) -> None:
        """Show until `stop` is set."""
        if self.console.is_terminal and not is_json():
            self._show_bar()
        else:
            self._log_lines()

    def _show_bar(self) -> None:
        rate = RateMeter()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", table_column=Column(no_wrap=True)),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[words]}", table_column=Column(no_wrap=True)),
        )
        with Progress(*columns, console=self.console) as bar:
            task = bar.add_task(self.title, total=self.total(), rate="", words="")
            stopped = False
            while not stopped:
                stopped = self.stop.wait(_REFRESH_SECONDS)
                done, fields, lines = self._poll()
                for line in lines:
                    line.say()
                if done is not None:
                    speed = f"{rate.update(done):.0f} {self.unit}/s"
                    bar.update(task, total=self.total(), completed=done, rate=speed, words=self.describe(fields))

    def _log_lines(self) -> None:
        rate = RateMeter()
        next_report = time.monotonic() + LOG_SECONDS
        stopped = False
        while not stopped:
            stopped = self.stop.wait(_REFRESH_SECONDS)
            done, fields, lines = self._poll()
            for line in lines:
                line.say()
            if done is None or time.monotonic() < next_report:
                continue
            next_report += LOG_SECONDS
            speed = rate.update(done)
            total = self.total()
            seconds_left = (total - done) / speed if speed > 0 and total is not None and done < total else None
            eta = "" if seconds_left is None else f"ETA {_clock(seconds_left)}"
            count = f"{self.title}: {done:,}{'' if total is None else f' of {total:,}'} {self.unit}"
            words = (count, f"{speed:.0f} {self.unit}/s", eta, self.describe(fields))
            say(
                f"{time.strftime('%H:%M:%S')} {', '.join(word for word in words if word)}",
                event="progress",
                num_done=done,
                num_planned=total,
                images_per_second=round(speed, 1),
                seconds_left=None if seconds_left is None else round(seconds_left),
            )

    def _poll(self) -> tuple[int | None, dict[str, Any], list[_Line]]:
        nothing: tuple[int | None, dict[str, Any], list[_Line]] = (None, {}, [])
        done, fields, lines = answer_of(self.actor.state.remote(len(self.shown)), otherwise=nothing)
        self.shown.extend(lines)
        return done, fields, lines


@contextlib.contextmanager
def shown_progress(
    title: str, *, total: Callable[[], int | None], unit: str, describe: Callable[[dict[str, Any]], str] = lambda _: ""
) -> Iterator[Any]:
    """A ProgressActor whose state is shown on stderr, with rate and ETA, while the block runs.

    `total` says how much there is to do, as far as that is known; `describe` turns the latest fields into a few words
    behind the bar.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    remote: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(ProgressActor)
    actor = remote.options(scheduling_strategy=here).remote()
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


def answer_of(reference: Any, *, otherwise: _T) -> _T:
    """What a ProgressActor's method returned, or `otherwise` where it is lost or slow: no job waits for it."""
    try:
        answer: _T = ray.get(reference, timeout=_ANSWER_SECONDS)
    except (ray.exceptions.RayError, TimeoutError):
        return otherwise
    return answer


def report_retries(progress: Any) -> None:
    """In a worker: tell its ProgressActor what this process tried again since it was last told."""
    if count := take_retries():
        progress.count_retries.remote(count)


def reported_retries(progress: Any) -> int:
    """In the driver: what the workers reported; 0 where the actor is lost."""
    return answer_of(progress.num_retries.remote(), otherwise=0)


def report_seconds(progress: Any, seconds: Mapping[Stage, float]) -> None:
    """In a worker: tell its ProgressActor what the stages took since it was last told."""
    if seconds:
        progress.add_seconds.remote(seconds)


def reported_times(progress: Any) -> tuple[dict[Stage, float], float | None]:
    """In the driver: as `ProgressActor.times`; nothing where the actor is lost."""
    nothing: tuple[dict[Stage, float], float | None] = ({}, None)
    return answer_of(progress.times.remote(), otherwise=nothing)


class RateMeter:
    """Speed over the last `window_seconds` of work, from when the first of it was done.

    What comes before, such as starting workers or taking over what an earlier run did, tells nothing of the speed.
    """

    WINDOW_SECONDS = 30.0

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, window_seconds: float = WINDOW_SECONDS) -> None:
        self._clock = clock
        self._window_seconds = window_seconds
        self._points: list[tuple[float, int]] = []

    def update(self, done: int) -> float:
        """Per second, given how much is done by now; 0 until there is something to tell."""
        if done == 0:
            return 0.0
        now = self._clock()
        self._points.append((now, done))
        while len(self._points) > 2 and now - self._points[1][0] > self._window_seconds:
            self._points.pop(0)
        then, before = self._points[0]
        return (done - before) / (now - then) if now > then else 0.0


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
