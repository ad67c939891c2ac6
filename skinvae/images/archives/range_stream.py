"""One object's bytes as a forward stream, in few large reads, the next of them under way."""

from __future__ import annotations

from concurrent.futures import Executor, Future

from skinvae.images.archives.base import RangeReader, read_exactly
from skinvae.images.archives.coalesce import MAX_READ_BYTES


class RangeStream:
    """The bytes of `reader` from `start` on, at most two windows of MAX_READ_BYTES in memory.

    `executor` has one thread, so the reader sees one call at a time. Errors of the reader pass through.
    """

    def __init__(self, reader: RangeReader, *, start: int, executor: Executor) -> None:
        self._reader = reader
        self._executor = executor
        self._position = start
        self._window, self._window_start = b"", start
        self._ahead: tuple[int, Future[bytes]] | None = None  # where its window stops; it starts behind the present one

    @property
    def position(self) -> int:
        """The next byte's offset in the object."""
        return self._position

    @property
    def damage(self) -> None:
        """Plain bytes have an end, but no fault of their own."""
        return

    def read(self, num_bytes: int) -> bytes:
        """The next bytes; fewer only where the object ends."""
        pieces = [self._take(num_bytes)]
        missing = num_bytes - len(pieces[0])
        while missing and self._position < self._reader.size:
            self._enter_window()
            pieces.append(self._take(missing))
            missing -= len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def skip(self, num_bytes: int) -> bool:
        """Passes over bytes, without reading those of whole windows; False where the object ends before."""
        there = self._reader.size - self._position
        self._position += min(num_bytes, there)
        return num_bytes <= there

    def _take(self, num_bytes: int) -> bytes:
        first = self._position - self._window_start
        piece = self._window[first : first + num_bytes]
        self._position += len(piece)
        return piece

    def _enter_window(self) -> None:
        """Makes the window hold `position`, which lies at its end or behind."""
        jumped = self._position - self._window_start - len(self._window) >= MAX_READ_BYTES
        ahead, self._ahead = self._ahead, None
        if ahead is not None and self._position < ahead[0]:
            stop, future = ahead
        else:
            stop, future = self._submit(self._position)
        self._window = b""  # or else three windows would be held for a moment
        self._window = future.result()
        self._window_start = stop - len(self._window)
        # Behind one jump the next is likely: its span would be read in vain.
        if not jumped and stop < self._reader.size:
            self._ahead = self._submit(stop)

    def _submit(self, start: int) -> tuple[int, Future[bytes]]:
        stop = min(start + MAX_READ_BYTES, self._reader.size)
        return stop, self._executor.submit(read_exactly, self._reader, start, stop)
