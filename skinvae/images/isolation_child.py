"""The process that isolation.py starts: decodes one image after another until its parent closes the line or dies.

Imports what pixels.py imports, neither torch nor pyarrow: it starts in 0.2 s and holds 30 MB. It gives itself the
bounds that its parent cannot enforce: timers that kill it wherever it hangs, and a limit on memory.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
import socket
import sys
from collections import deque
from typing import Any

import numpy as np

from skinvae.images.pixels import Limits, Rgb, UInt8Array, decode_rgb

KEPT_BYTES = 8 << 20
"""A buffer for pixels is never smaller: fresh pages cost more than the copy of a small image."""

SHARED_BYTES = 192 << 20
"""All buffers together; a single image may take more."""

WALL_FACTOR = 3
"""Seconds of the clock allowed for each of the processor: a busy machine must not turn good images into timeouts."""

TIMER_SIGNALS = (signal.SIGPROF, signal.SIGALRM)

_ORPHAN_CHECK_SECONDS = 2.0


class Line:
    """JSON messages over a socket, one a line. Raises EOFError or ConnectionError when the other end is gone."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._received = b""

    def send(self, message: bytes) -> None:
        self._end.settimeout(None)
        self._end.sendall(message + b"\n")

    def receive(self, *, seconds: float) -> Any:
        """The next message; raises TimeoutError."""
        self._end.settimeout(seconds)
        while b"\n" not in self._received:
            piece = self._end.recv(1 << 16)
            if not piece:
                raise EOFError
            self._received += piece
        message, _, self._received = self._received.partition(b"\n")
        return json.loads(message)

    def close(self) -> None:
        self._end.close()


class _Buffers:
    """Files of shared memory for decoded pixels. Each is filled here, emptied by the parent and then given back."""

    def __init__(self, fds: list[int]) -> None:
        self._fds = fds
        self._maps = [mmap.mmap(fd, KEPT_BYTES) for fd in fds]
        self._lent: set[int] = set()

    def take(self, num_bytes: int) -> int | None:
        """A free buffer that has grown to at least `num_bytes` bytes; None while that would be too much memory."""
        sizes = [os.fstat(fd).st_size for fd in self._fds]  # the parent shrinks them when it has no more images
        free = sorted(set(range(len(self._fds))) - self._lent, key=sizes.__getitem__)
        for chosen in free:
            if sizes[chosen] >= num_bytes:
                self._lent.add(chosen)
                return chosen
        if not free:
            return None
        chosen = free.pop()
        for other in free:
            if sum(sizes) - sizes[chosen] + num_bytes > SHARED_BYTES:
                os.ftruncate(self._fds[other], KEPT_BYTES)
                sizes[other] = KEPT_BYTES
        if self._lent and sum(sizes) - sizes[chosen] + num_bytes > SHARED_BYTES:
            return None
        os.ftruncate(self._fds[chosen], num_bytes)
        self._lent.add(chosen)
        return chosen

    def give_back(self, number: int) -> None:
        self._lent.discard(number)

    def array(self, number: int, height: int, width: int) -> UInt8Array:
        num_bytes = height * width * 3
        if len(self._maps[number]) < num_bytes:
            self._maps[number] = mmap.mmap(self._fds[number], num_bytes)
        return np.frombuffer(self._maps[number], np.uint8, num_bytes).reshape(height, width, 3)


class _Child:
    def __init__(self, line: Line, *, parent_pid: int, data_fds: list[int], buffers: _Buffers) -> None:
        self._line = line
        self._parent_pid = parent_pid
        self._data_fds = data_fds
        self._buffers = buffers
        self._requests: deque[dict[str, Any]] = deque()

    def serve(self) -> None:
        self._line.send(b'"ready"')
        while True:
            while not self._requests:
                self._receive()
            request = self._requests.popleft()
            taken: list[int] = []
            rgb = self._decode(request, taken)
            if taken and (rgb is None or rgb.pixels is None):
                self._buffers.give_back(taken.pop())
            answer = None if rgb is None else [taken[0] if taken else None, *rgb[1:]]
            self._line.send(json.dumps([request["id"], answer]).encode())

    def _receive(self) -> None:
        message = None
        while message is None:
            try:
                message = self._line.receive(seconds=_ORPHAN_CHECK_SECONDS)
            except TimeoutError:
                # The end of the line tells of the parent's death, unless another process inherited the parent's end.
                if os.getppid() != self._parent_pid:
                    os._exit(0)
        for number in message["given_back"]:
            self._buffers.give_back(number)
        if "id" in message:
            self._requests.append(message)

    def _decode(self, request: dict[str, Any], taken: list[int]) -> Rgb | None:
        """None where memory ran out; the buffer that holds the pixels goes into `taken`."""
        data = os.pread(self._data_fds[request["slot"]], request["num_bytes"], 0)
        assert len(data) == request["num_bytes"], "the parent wrote all of it"
        seconds = request["max_seconds"]

        def allocate(height: int, width: int) -> UInt8Array:
            taken.append(self._take_buffer(height * width * 3))
            return self._buffers.array(taken[0], height, width)

        # Their default action ends the process at once, whatever C code it is in.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, WALL_FACTOR * seconds)
        try:
            rgb = decode_rgb(data, found=request["format"], limits=Limits(*request["limits"]), allocate=allocate)
        except MemoryError:
            return None
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
        # libjpeg's 'Insufficient memory', Pillow's 'out of memory error', ...
        return None if rgb.code == "undecodable" and "memory" in (rgb.remark or "").lower() else rgb

    def _take_buffer(self, num_bytes: int) -> int:
        number = self._buffers.take(num_bytes)
        if number is None:
            seconds_left, _ = signal.setitimer(signal.ITIMER_REAL, 0)  # the parent's pace is not the image's fault
            while number is None:
                self._receive()
                number = self._buffers.take(num_bytes)
            signal.setitimer(signal.ITIMER_REAL, seconds_left)
        return number


def _limit_memory(num_bytes: int) -> None:
    """From here on the process may take `num_bytes` more, shared memory not counted. Only Linux says and does so."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file of each crash would fill the disk
    if sys.platform != "linux":
        return
    with open("/proc/self/status", encoding="ascii") as status:
        (in_use_kib,) = (int(line.split()[1]) for line in status if line.startswith("VmData:"))
    limit = (in_use_kib << 10) + num_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _take_signals() -> None:
    """Who interrupts or ends the job talks to the parent; it decides. Timers end this process whatever it inherited."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    for deadly in TIMER_SIGNALS:
        signal.signal(deadly, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def main() -> None:
    """Arguments: the descriptor of the line, the parent, bytes of memory, descriptors of data, as many of pixels."""
    line_fd, parent_pid, memory_bytes, *fds = map(int, sys.argv[1:])
    _take_signals()
    _limit_memory(memory_bytes)
    half = len(fds) // 2
    line = Line(socket.socket(fileno=line_fd))
    child = _Child(line, parent_pid=parent_pid, data_fds=fds[:half], buffers=_Buffers(fds[half:]))
    # Decoders warn on standard error, in words that hostile files choose; what is said up to here is kept.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        child.serve()
    except (EOFError, ConnectionError):
        os._exit(0)
