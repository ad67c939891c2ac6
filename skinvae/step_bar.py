"""Progress of a command that works in this process: a bar in a terminal, a line now and then elsewhere, on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from skinvae.logs import is_json, say

_LOG_SECONDS = 10.0


@contextmanager
def shown_steps() -> Iterator[Callable[[str, int, int], None]]:
    """What to call, from any one thread at a time, with a title, how much of it is done, and of how much."""
    console = Console(stderr=True)
    if is_json() or not console.is_terminal:
        yield _Lines().report
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def report(title: str, done: int, total: int) -> None:
            if title not in tasks:
                tasks[title] = bar.add_task(title, total=total)
            bar.update(tasks[title], completed=done, total=total)

        yield report


class _Lines:
    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._next = time.monotonic() + _LOG_SECONDS

    def report(self, title: str, done: int, total: int) -> None:
        now = time.monotonic()
        started = self._started.setdefault(title, now)
        if now < self._next:
            return
        self._next = now + _LOG_SECONDS
        left = (total - done) * (now - started) / done if 0 < done < total else 0.0
        eta = f", {left:.0f} s left" if left else ""
        say(
            f"{time.strftime('%H:%M:%S')} {title}: {done:,} of {total:,}{eta}",
            event="progress",
            num_done=done,
            num_planned=total,
        )
