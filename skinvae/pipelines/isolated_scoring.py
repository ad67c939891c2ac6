"""Score images in fresh processes, so that those which kill or hang theirs are found out and the others are scored.

A process proves itself on a blank image first. One that dies before has met an error of the machine or the model,
which says nothing about any image.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import cloudpickle

from skinvae.errors import JobError
from skinvae.images.isolation_handle import how_it_ended
from skinvae.pipelines import deadline
from skinvae.pipelines.bisection import Death, find_killers
from skinvae.pipelines.image_scorer import Columns, ScorerRecipe

_START_SECONDS = 600.0
_END_SECONDS = 10.0
_PATIENCE_SECONDS = 30.0
"""Beyond the process's own timer, which does not run while it is stopped."""

NUM_STARTS = 5
"""In a row without a process that proves itself."""

_PROGRAM = """\
import sys
sys.path[:] = {search_path}
from skinvae.pipelines.scoring_child import main
main({fd})
"""


def score_isolated(
    pixels: NDArray[np.uint8],
    *,
    recipe: ScorerRecipe,
    max_seconds: float,
    on_scored: Callable[[NDArray[np.intp], Columns], None],
) -> dict[int, Death]:
    """Hands the scores of uint8 images (B, H, W, 3) to `on_scored`, batch by batch, with the images' positions.

    Returns the images that have none, because scoring them killed their process or took more than `max_seconds`.
    Raises JobError if no process can be started that scores a blank image, and what the scorer itself raises.
    """
    if not len(pixels):
        return {}
    processes = _Processes(recipe, image_size=pixels.shape[1], max_seconds=max_seconds)

    def attempt(group: Sequence[int]) -> Death | None:
        images = np.array(group, np.intp)
        answer = processes.score(pixels[images])
        if isinstance(answer, Death):
            return answer
        on_scored(images, answer)
        return None

    with contextlib.closing(processes):
        step = processes.batch_size
        groups: Iterator[Sequence[int]] = (
            range(start, min(start + step, len(pixels))) for start in range(0, len(pixels), step)
        )
        return find_killers(groups, attempt=attempt)


class _ProcessDied(Exception):
    """Before it had proved itself."""


class _Processes:
    """One process at a time, replaced by a fresh one behind each death."""

    def __init__(self, recipe: ScorerRecipe, *, image_size: int, max_seconds: float) -> None:
        # What the driver's own script defines can be pickled by value only.
        self._description: bytes = cloudpickle.dumps((recipe, image_size, max_seconds))  # type: ignore[no-untyped-call]  # Ray's omission
        self._max_seconds = max_seconds
        self._process: _Process | None = None

    @property
    def batch_size(self) -> int:
        return self._started().batch_size

    def score(self, pixels: NDArray[np.uint8]) -> Columns | Death:
        answer = self._started().score(pixels, max_seconds=self._max_seconds)
        if isinstance(answer, Death):
            self._process = None
        return answer

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _started(self) -> _Process:
        reasons: list[str] = []
        while self._process is None:
            try:
                self._process = _Process(self._description)
            except _ProcessDied as died:
                reasons.append(str(died))
                if len(reasons) == NUM_STARTS:
                    raise JobError(
                        f"no process could be started that scores a blank image, {NUM_STARTS} times: {reasons[-1]}; "
                        "this is the machine's fault or the model's, not an image's"
                    ) from None
        return self._process


class _Process:
    """A running scoring_child.py that has proved itself, and the line to it."""

    def __init__(self, description: bytes) -> None:
        own_end, childs_end = socket.socketpair()
        self._line: Connection[Any, Any] = Connection(own_end.detach())
        with childs_end:
            # All that this process finds, it must find too: what builds the scorer is pickled by name.
            search_path = [os.path.abspath(entry) for entry in sys.path]
            program = _PROGRAM.format(search_path=ascii(search_path), fd=childs_end.fileno())
            self._popen = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[childs_end.fileno()],
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        answer = self._exchange(description, seconds=_START_SECONDS)
        if isinstance(answer, Death):
            raise _ProcessDied(answer.reason)
        self.batch_size: int = answer

    def score(self, pixels: NDArray[np.uint8], *, max_seconds: float) -> Columns | Death:
        answer: Columns | Death = self._exchange(pixels, seconds=max_seconds + _PATIENCE_SECONDS)
        if isinstance(answer, Death) and answer.is_overdue:
            return Death(f"scoring takes more than {max_seconds:g} seconds", is_overdue=True)
        return answer

    def kill(self) -> None:
        self._line.close()
        self._popen.kill()
        self._popen.wait()

    def _exchange(self, message: Any, *, seconds: float) -> Any:
        try:
            self._line.send(message)
            if not self._line.poll(seconds):
                self.kill()
                return Death(f"it gave no answer within {seconds:g} seconds", is_overdue=True)
            kind, content = self._line.recv()
        except (EOFError, ConnectionError):
            return self._death()
        if kind == "failed":
            self.kill()
            raise content
        if kind == "died":
            self.kill()
            return Death(content)
        return content

    def _death(self) -> Death:
        """Of a process that closed its line."""
        self._line.close()
        try:
            code = self._popen.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            code = self._popen.wait()
        return Death(how_it_ended(code), is_overdue=-code == deadline.SIGNAL)
