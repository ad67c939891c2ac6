"""Whole commands as processes of their own: seconds, processor time and memory of all that they start."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
MB = 1 << 20
LOOK_SECONDS = 1.0
"""How often the processes are looked at: what one takes in the last moment before it ends is not seen. Looking at the
twenty of a Ray job four times a second took 4 % of a core."""
_PR_SET_CHILD_SUBREAPER = 36
_FAREWELL_SECONDS = 20.0


@dataclass(frozen=True)
class Usage:
    """Of one command and all processes that it started, daemons included."""

    started: float
    """time.monotonic(), which all processes of a machine share."""
    seconds: float
    cpu_seconds: float
    peak_mb: float
    """Resident memory, added up: pages that processes share, such as Ray's object store, count in each."""
    own_peak_mb: float
    """Of memory that only the command's own process holds: the driver's, where it is a Ray job."""
    output: str


def run_command(arguments: Sequence[str], *, environment: Mapping[str, str] | None = None) -> Usage:
    """`python ARGUMENTS` in the repository's root, measured. Raises RuntimeError, with the end of its stderr."""
    before = set(_descendants())
    errors = Path(f"/proc/self/fd/{os.memfd_create('stderr')}")
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
    started = time.monotonic()
    with _adopted_orphans(before), errors.open("wb") as stderr, _watched(before) as watch:
        process = psutil.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=ROOT,
            env={**os.environ, **paths, **(environment or {})},
        )
        watch.own = process
        output, _ = process.communicate()
        seconds = time.monotonic() - started
    if process.returncode != 0:
        tail = errors.read_text(errors="replace")[-3000:]
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}:\n{tail}")
    return Usage(started, seconds, watch.cpu_seconds, watch.peak_mb, watch.own_peak_mb, output)


@contextmanager
def _adopted_orphans(besides: set[psutil.Process]) -> Iterator[None]:
    """What descendants leave behind becomes this process's children, so that daemons are seen and ended."""
    _be_subreaper(wanted=True)
    try:
        yield
    finally:
        _end_stragglers(besides)
        _be_subreaper(wanted=False)


def _be_subreaper(*, wanted: bool) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)


class _Watch:
    """What was seen of processes, each kept as it was seen last."""

    def __init__(self) -> None:
        self.peak_mb = self.own_peak_mb = 0.0
        self.own: psutil.Process | None = None
        self._cpu_seconds: dict[psutil.Process, float] = {}

    @property
    def cpu_seconds(self) -> float:
        return sum(self._cpu_seconds.values())

    def look(self, besides: set[psutil.Process]) -> None:
        resident = 0.0
        for process in _descendants():
            if process in besides:
                continue
            with contextlib.suppress(psutil.Error), process.oneshot():
                times = process.cpu_times()
                self._cpu_seconds[process] = times.user + times.system
                resident += process.memory_info().rss / MB
        self.peak_mb = max(self.peak_mb, resident)
        if self.own is not None:
            with contextlib.suppress(psutil.Error):
                self.own_peak_mb = max(self.own_peak_mb, self.own.memory_full_info().uss / MB)


@contextmanager
def _watched(besides: set[psutil.Process]) -> Iterator[_Watch]:
    watch = _Watch()
    try:
        with _repeated(lambda: watch.look(besides), seconds=LOOK_SECONDS):
            yield watch
    finally:
        watch.look(besides)


@contextmanager
def _repeated(work: Callable[[], None], *, seconds: float) -> Iterator[None]:
    """Do the work every so many seconds, in a thread, while the block runs."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(seconds):
            work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _descendants() -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process().children(recursive=True)
    return found


def _end_stragglers(besides: set[psutil.Process]) -> None:
    """Wait for what the command left running, then end it: it must not take time from the next one."""
    deadline = time.monotonic() + _FAREWELL_SECONDS
    while left := [one for one in _descendants() if one not in besides]:
        for process in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)
            if time.monotonic() > deadline:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
        time.sleep(0.05)


@contextmanager
def sampled_memory(process: psutil.Process, *, seconds: float = 0.5) -> Iterator[list[tuple[float, float]]]:
    """(seconds, MB) of memory that only this process holds, while the block runs."""
    samples: list[tuple[float, float]] = []
    started = time.monotonic()

    def sample() -> None:
        with contextlib.suppress(psutil.Error):  # it may have ended
            samples.append((time.monotonic() - started, process.memory_full_info().uss / MB))

    with _repeated(sample, seconds=seconds):
        yield samples
