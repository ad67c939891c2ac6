"""A thread of the driver that tells, again and again, how far its job is: no job waits for a sign."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from skinvae.errors import Interrupted, SkinvaeError
from skinvae.logs import note
from skinvae.storage.run_records import HEARTBEAT_SECONDS, RunState

_Own = TypeVar("_Own", bound="Recorder")

_LOOK_SECONDS = 1.0
"""How often to look whether there is something to tell."""

_FAREWELL_SECONDS = 5.0
"""The last sign may take so long: a scheduler that stops a job does not wait."""


class Recorder(ABC):
    """While the block runs, its thread writes signs, and a last one that tells how the job ended.

    A sign that cannot be written is tried again at the next beat, and is no reason to end a job.
    """

    def __init__(self) -> None:
        self.message = ""
        """What is to be told of a run that ends well, such as which archives are damaged."""
        self.started_at = _now()
        self._state = RunState.RUNNING
        self._ended = threading.Event()
        self._has_failed = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")

    @abstractmethod
    def look(self) -> tuple[Hashable, Callable[[], object]]:
        """What changes when there is something new to tell, and a function that writes the sign."""

    def about_the_driver(self) -> dict[str, Any]:
        """What every sign says."""
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started_at": self.started_at,
            "heartbeat_at": _now(),
            "state": self._state,
            "message": self.message,
        }

    def __enter__(self: _Own) -> _Own:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._state = RunState.DONE
        else:
            is_stop = isinstance(error, Interrupted | KeyboardInterrupt)
            self._state = RunState.INTERRUPTED if is_stop else RunState.FAILED
            self.message = str(error) if isinstance(error, SkinvaeError) else type(error).__name__
        self._ended.set()
        self._thread.join(timeout=_FAREWELL_SECONDS)

    def _run(self) -> None:
        written: Hashable = None
        next_beat = 0.0
        while not self._ended.is_set():
            with self._attempt():
                mark, write = self.look()
                if mark != written or time.monotonic() >= next_beat:
                    next_beat = time.monotonic() + HEARTBEAT_SECONDS
                    write()
                    written = mark
            self._ended.wait(_LOOK_SECONDS)
        with self._attempt():
            self.look()[1]()

    @contextlib.contextmanager
    def _attempt(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 whatever it is, the job matters and its sign does not
            if not self._has_failed:
                note(f"`skinvae status` will not see this run as it is: {error}")
            self._has_failed = True


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
