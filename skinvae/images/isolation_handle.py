"""What a process holds of its decoding child: the process itself, the line to it, and the memory that both map."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

import skinvae
from skinvae.errors import JobError
from skinvae.images.isolation_child import KEPT_BYTES, Line
from skinvae.images.pixels import UInt8Array

_START_SECONDS = 60.0
_END_SECONDS = 10.0

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR", "LANG", "LC_ALL")
"""Of the environment; credentials are no business of a decoder of hostile bytes."""


_BOOTSTRAP = """\
import sys
sys.path[:] = {search_path}
skinvae = sys.modules["skinvae"] = type(sys)("skinvae")
skinvae.__path__ = {package_path}
from skinvae.images.isolation_child import main
main()
"""
"""The child's program. What `python -m` would do, it must not: look for modules in the current folder, which may be one
of downloaded data. It takes the package from where its parent has it, found by whatever path or hook."""


class DecoderError(JobError):
    """The decoding process cannot be started; says nothing about any image."""


class ChildEnded(Exception):
    """The child has closed its line: it is dying or dead."""


class SharedFile:
    """Memory that both processes map: an anonymous file, so that the system frees it however they end."""

    def __init__(self) -> None:
        self.fd = _anonymous_file()
        os.ftruncate(self.fd, KEPT_BYTES)
        self._map = mmap.mmap(self.fd, KEPT_BYTES)

    def write(self, data: bytes) -> None:
        view, written = memoryview(data), 0
        while written < len(view):
            written += os.pwrite(self.fd, view[written:], written)

    def array(self, height: int, width: int) -> UInt8Array:
        num_bytes = height * width * 3
        if len(self._map) < num_bytes:
            self._map = mmap.mmap(self.fd, num_bytes)
        return np.frombuffer(self._map, np.uint8, num_bytes).reshape(height, width, 3)

    def shrink(self) -> None:
        """Frees what large images took; neither process may look at them any more."""
        if os.fstat(self.fd).st_size > KEPT_BYTES:
            os.ftruncate(self.fd, KEPT_BYTES)

    def close(self) -> None:
        os.close(self.fd)


class Child:
    """A running isolation_child.py and the line to it."""

    def __init__(self, files: Sequence[SharedFile], *, memory_bytes: int) -> None:
        try:
            own_end, childs_end = socket.socketpair()
        except OSError as error:
            raise _not_started(error) from error
        self._line = Line(own_end)
        fds = [file.fd for file in files]
        numbers = [childs_end.fileno(), os.getpid(), memory_bytes, *fds]
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        # One thread is enough for a decoder; more would only take memory for their stacks.
        environment |= {"OPENBLAS_NUM_THREADS": "1"}
        package_path = [os.path.abspath(folder) for folder in skinvae.__path__]
        program = _BOOTSTRAP.format(search_path=ascii(search_path()), package_path=ascii(package_path))
        try:
            with childs_end, tempfile.TemporaryFile() as said:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", program, *map(str, numbers)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    cwd="/",
                    env=environment,
                    pass_fds=[childs_end.fileno(), *fds],
                    start_new_session=True,  # a terminal's Ctrl-C is the parent's to hear
                )
                childs_end.close()
                self._await_ready(said)
        except OSError as error:
            self._line.close()
            raise _not_started(error) from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(ConnectionError):  # receive finds out, and why
            self._line.send(json.dumps(message).encode())

    def receive(self, *, seconds: float) -> Any:
        try:
            return self._line.receive(seconds=seconds)
        except (EOFError, ConnectionError):
            raise ChildEnded from None

    def kill(self) -> None:
        self._process.kill()
        self.reap()

    def reap(self) -> int:
        """Waits for the end of a child whose line is closed. Returns how it ended: negative for a signal."""
        self._line.close()
        try:
            return self._process.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _await_ready(self, said: IO[bytes]) -> None:
        try:
            if self.receive(seconds=_START_SECONDS) == "ready":
                return
        except ChildEnded:
            code = self.reap()
            said.seek(0)
            words = " ".join(said.read().decode(errors="replace").split())[-500:]
            raise DecoderError(f"the decoding process ended with code {code} as it started: {words}") from None
        except TimeoutError:
            self.kill()
            reason = f"the decoding process did not start within {_START_SECONDS:.0f} seconds"
            raise DecoderError(reason) from None
        except BaseException:
            self.kill()
            raise


def search_path() -> list[str]:
    """Where the child looks for modules: where this process does, less the current folder.

    That stays where somebody put it behind the first place, at which Python itself puts it.
    """
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # it was deleted
        return [entry for entry in sys.path if os.path.isabs(entry)]
    is_put_by_python = bool(sys.path) and os.path.realpath(sys.path[0]) == here
    return [os.path.abspath(entry) for entry in sys.path[is_put_by_python:] if entry]


def _not_started(error: OSError) -> DecoderError:
    reason = f"the decoding process cannot be started: {error.strerror or error}"
    return DecoderError(f"{reason}; free memory, processes or open files, then run the same command again")


def how_it_ended(code: int) -> str:
    """The exit code of a process in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # one of the real-time signals
        return f"signal {-code}"


def _anonymous_file() -> int:
    """A file descriptor of a file in memory where the system has such, else of a file without a name."""
    if sys.platform == "linux":
        return os.memfd_create("skinvae-decoder")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
