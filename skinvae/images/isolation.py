"""Decoding in a process of its own: an image that hangs its decoder, or kills it, costs itself and nothing else.

    caller's process                                     isolation_child.py
    read and inflate -> bytes -> [shared memory] ------> decode (pixels.py)
    resize (torch)  <- pixels <- [shared memory] <------ upright RGB in full size

Up to three images are under way, so the two processes work at the same time. An image at which the child dies is
tried once more in a fresh child before it is given up as `crashed`: the machine may have killed the child by chance.
One at which a timer ends the child is a `timeout`; one that needs more memory than the child may take, even a fresh
one, is `too_large`. A child that cannot be started is an error, never a row.
"""

from __future__ import annotations

import atexit
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, TypeVar

from skinvae.images.decode import Decoded, DecodeSettings, limits_of, recognise, refused, resized
from skinvae.images.isolation_child import TIMER_SIGNALS, WALL_FACTOR
from skinvae.images.isolation_handle import Child, ChildEnded, DecoderError, SharedFile, how_it_ended
from skinvae.images.pixels import Rgb
from skinvae.records import Status

__all__ = ["DecoderError", "DecoderProcess", "decode_isolated"]

T = TypeVar("T")

MEMORY_BYTES = 320 << 20
"""What one image may take of the child's memory beside its shared pixels: 64 megapixels of Pillow are 256 MB.

With the 192 MB of those pixels and a parent that has loaded torch, a task stays below 1 GiB (libraries' files, which
all processes share, not counted). It refuses progressive JPEGs of more than 50 megapixels without chroma subsampling.
"""

_NUM_SLOTS = 3
_MAX_BYTES_UNDER_WAY = 16 << 20
_NUM_STARTS = 3
_NUM_TRIES = 2
_PATIENCE_SECONDS = 10.0
"""Beyond the child's own timers, which do not run while it is stopped."""


class _Lost(Exception):
    """The child gave no answer, for a reason that is `verdict` unless it was chance."""

    def __init__(self, verdict: Decoded, *, may_be_chance: bool) -> None:
        super().__init__(verdict.error)
        self.verdict = verdict
        self.may_be_chance = may_be_chance


@dataclass
class _Job(Generic[T]):
    """One item under way: with an answer from the start, or waiting for the child's in its slot."""

    key: T
    answer: Decoded | None
    slot: int = -1
    request_id: int = -1
    num_bytes: int = 0
    request: dict[str, Any] = field(default_factory=dict)
    num_tries: int = 1


class DecoderProcess:
    """A child process that decodes, started when it is first needed and again whenever it has died.

    For one thread at a time; `close` or a `with` statement ends it, and so does the end of this process, however it
    comes. No setting of the machine is needed: it works in daemonic processes and in any thread.
    """

    def __init__(self, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._data = [SharedFile() for _ in range(_NUM_SLOTS)]
        self._pixels = [SharedFile() for _ in range(_NUM_SLOTS)]
        self._given_back: list[int] = []
        """Buffers of pixels that the child does not yet know to be free."""
        self._child: Child | None = None
        self._num_requests = 0

    def __enter__(self) -> DecoderProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Of the child, where there is one."""
        return None if self._child is None else self._child.pid

    def close(self) -> None:
        """Ends the child and frees the shared memory; the decoder cannot be used again."""
        self._end_child()
        for file in (*self._data, *self._pixels):
            file.close()
        self._data, self._pixels = [], []

    def decode_all(
        self, items: Iterable[tuple[T, bytes | None]], *, size: int, settings: DecodeSettings
    ) -> Iterator[tuple[T, Decoded | None]]:
        """Each key with its decoded image, in order; keys without bytes come back with None, in their place.

        Takes up to three items ahead of what it has given. An error of `items` comes behind the images before it.
        Raises DecoderError where the child cannot be started.
        """
        source, under_way, failure = iter(items), deque[_Job[T]](), None
        is_exhausted, is_done = False, False
        if self._child is not None and not self._child.is_alive():
            self._end_child()
        try:
            while under_way or not is_exhausted:
                while not is_exhausted and _has_room(under_way):
                    try:
                        key, data = next(source)
                    except StopIteration:
                        is_exhausted = True
                    except Exception as error:  # noqa: BLE001 raised below, behind the images that were read before it
                        failure, is_exhausted = error, True
                    else:
                        under_way.append(self._begin(key, data, under_way, settings=settings))
                if under_way:
                    answer = self._finish(under_way, size=size, settings=settings)
                    yield under_way.popleft().key, answer
            is_done = True
        finally:
            if not is_done:  # abandoned or interrupted: answers that are still to come must not meet the next caller
                self._end_child()
            for file in (*self._data, *self._pixels):
                file.shrink()
        if failure is not None:
            raise failure

    def _begin(self, key: T, data: bytes | None, under_way: Iterable[_Job[T]], *, settings: DecodeSettings) -> _Job[T]:
        if data is None:
            return _Job(key, None)
        found = recognise(data, settings=settings)
        if isinstance(found, Decoded):
            return _Job(key, found)
        self._num_requests += 1
        slot = next(iter(set(range(_NUM_SLOTS)) - {job.slot for job in under_way}))
        job = _Job(key, None, slot, self._num_requests, len(data))
        job.request = {
            "id": self._num_requests,
            "slot": slot,
            "num_bytes": len(data),
            "format": found,
            "limits": limits_of(settings),
            "max_seconds": settings.max_seconds,
        }
        self._data[slot].write(data)
        self._send(job.request)
        return job

    def _send(self, message: dict[str, Any]) -> None:
        child = self._started_child()
        child.send({**message, "given_back": self._given_back})
        self._given_back = []

    def _finish(self, under_way: Iterable[_Job[T]], *, size: int, settings: DecodeSettings) -> Decoded | None:
        """The answer to the first job, at which the child is or has been."""
        job = next(iter(under_way))
        while job.request:
            try:
                job.answer = self._answer(job, size=size, settings=settings)
                job.request = {}
            except _Lost as lost:
                self._end_child()
                if lost.may_be_chance and job.num_tries < _NUM_TRIES:
                    job.num_tries += 1
                else:
                    job.answer, job.request = lost.verdict, {}
                for unanswered in under_way:
                    if unanswered.request:
                        self._send(unanswered.request)
        return job.answer

    def _answer(self, job: _Job[T], *, size: int, settings: DecodeSettings) -> Decoded:
        if self._given_back:
            self._send({})
        child, seconds = self._started_child(), settings.max_seconds
        overdue = refused(Status.TIMEOUT, f"decoding takes more than {seconds:g} seconds")
        try:
            request_id, answer = child.receive(seconds=WALL_FACTOR * seconds + _PATIENCE_SECONDS)
        except TimeoutError:
            raise _Lost(overdue, may_be_chance=False) from None
        except ChildEnded:
            code = child.reap()
            if -code in TIMER_SIGNALS:
                raise _Lost(overdue, may_be_chance=False) from None
            crashed = refused(Status.CRASHED, f"its decoder ended with {how_it_ended(code)}, twice")
            raise _Lost(crashed, may_be_chance=True) from None
        assert request_id == job.request_id, "the child answers in order"
        if answer is None:
            reason = f"decoding needs more than {self._memory_bytes >> 20} MiB"
            raise _Lost(refused(Status.TOO_LARGE, reason), may_be_chance=True)
        number, width, height, *rest = answer
        if number is None:
            return resized(Rgb(None, width, height, *rest), size=size)
        self._given_back.append(number)
        return resized(Rgb(self._pixels[number].array(height, width), width, height, *rest), size=size)

    def _started_child(self) -> Child:
        num_failures = 0
        while self._child is None:
            try:
                self._child = Child([*self._data, *self._pixels], memory_bytes=self._memory_bytes)
            except DecoderError:
                num_failures += 1
                if num_failures == _NUM_STARTS:
                    raise
        return self._child

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None
        self._given_back = []


def _has_room(under_way: deque[_Job[T]]) -> bool:
    if len(under_way) == _NUM_SLOTS:
        return False
    return not under_way or sum(job.num_bytes for job in under_way) < _MAX_BYTES_UNDER_WAY


_idle: list[DecoderProcess] = []
"""Kept until this process ends, so that each slice finds a started child."""


def decode_isolated(
    items: Iterable[tuple[T, bytes | None]], *, size: int, settings: DecodeSettings
) -> Iterator[tuple[T, Decoded | None]]:
    """`DecoderProcess.decode_all` by a decoder that stays for the next call; may be called in several threads."""
    try:
        decoder = _idle.pop()
    except IndexError:
        decoder = DecoderProcess()
    try:
        yield from decoder.decode_all(items, size=size, settings=settings)
    finally:
        _idle.append(decoder)


def _close_idle() -> None:
    while _idle:
        _idle.pop().close()


atexit.register(_close_idle)
os.register_at_fork(after_in_child=_idle.clear)  # the children are the parent's
