"""A limit of time that ends the process, wherever it hangs."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

SIGNAL = signal.SIGALRM
"""What ends a process whose time is up."""


def arm_deadlines() -> None:
    """Once in a process, and in its main thread: let the timer end it, whatever it inherited. Ray uses no SIGALRM."""
    assert threading.current_thread() is threading.main_thread()
    signal.signal(SIGNAL, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGNAL})


@contextlib.contextmanager
def deadline(*, seconds: float) -> Iterator[None]:
    """End this process if the block takes longer, in whatever native code it is: no Python needs to run for that.

    One at a time in a process; in any thread.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
