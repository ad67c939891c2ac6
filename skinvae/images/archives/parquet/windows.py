"""What Arrow reads a Parquet file from: planned windows, each fetched by one request, the next one meanwhile."""

from __future__ import annotations

import io
from bisect import bisect_right
from concurrent.futures import Executor, Future
from itertools import groupby, pairwise
from typing import NamedTuple

from skinvae.images.archives.base import RangeReader, read_exactly
from skinvae.images.archives.coalesce import MAX_GAP_BYTES
from skinvae.images.archives.parquet.footer import Tail

MAX_WINDOW_BYTES = 24 << 20
"""A larger column chunk is cut evenly, so that no request for image bytes is below 12 MB; two windows are held."""


class ChunkSpan(NamedTuple):
    """The bytes [start, stop) of one column in one row group; columns are numbered as they were asked for."""

    start: int
    stop: int
    column: int
    group: int


class Window(NamedTuple):
    """What one request fetches. Column 0 is nearly all of the file: its windows are read ahead."""

    start: int
    stop: int
    column: int
    joins: bool  # holds whole row groups, so that the next one may join it


def plan_windows(chunks: list[ChunkSpan]) -> list[Window]:
    """Row groups that fit in one window are joined up to its size; chunks of others are fetched apart, cut evenly.

    Arrow reads a row group's columns by turns: cut otherwise, windows would be fetched twice.
    """
    windows: list[Window] = []
    for _, group_chunks in groupby(chunks, key=lambda chunk: chunk.group):
        group = list(group_chunks)
        start, stop, last = group[0].start, group[-1].stop, windows[-1] if windows else None
        if stop - start <= MAX_WINDOW_BYTES and all(b.start - a.stop <= MAX_GAP_BYTES for a, b in pairwise(group)):
            if (
                last
                and last.joins
                and 0 <= start - last.stop <= MAX_GAP_BYTES
                and stop - last.start <= MAX_WINDOW_BYTES
            ):
                windows[-1] = last._replace(stop=stop)
            else:
                windows.append(Window(start, stop, 0, joins=True))
            continue
        for chunk in group:
            num_bytes = chunk.stop - chunk.start
            count = -(-num_bytes // MAX_WINDOW_BYTES)
            cuts = [chunk.start + num_bytes * i // count for i in range(count + 1)]
            windows += [Window(start, stop, chunk.column, joins=False) for start, stop in pairwise(cuts)]
    return windows


class WindowedFile(io.RawIOBase):
    """What Arrow reads from. Planned windows are fetched whole, the next main one in the background."""

    def __init__(self, reader: RangeReader, tail: Tail) -> None:
        super().__init__()
        self._reader = reader
        self._tail = tail
        self._position = 0
        self._windows: list[Window] = []
        self._executor: Executor | None = None
        self._held: dict[int, tuple[int, bytes]] = {}  # one window per column
        self._pending: tuple[int, Future[bytes]] | None = None
        self.failure: Exception | None = None
        """The first error of the reader, which Arrow may have wrapped."""

    def plan(self, windows: list[Window], executor: Executor) -> None:
        self._windows, self._executor, self._held, self._pending = windows, executor, {}, None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._reader.size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        end = self._reader.size if size is None or size < 0 else min(self._position + size, self._reader.size)
        pieces = []
        try:
            while self._position < end:
                pieces.append(self._piece(self._position, end))
                self._position += len(pieces[-1])
        except Exception as error:
            # The reader of Parquet raises an error of its own in its place; the caller asks for this one.
            self.failure = self.failure or error
            raise
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _piece(self, start: int, end: int) -> bytes:
        at = bisect_right(self._windows, start, key=lambda window: window.start) - 1
        if at >= 0 and start < self._windows[at].stop:
            window = self._windows[at]
            return self._fetched(at)[start - window.start : end - window.start]
        if start >= self._tail.start:
            return self._tail.data[start - self._tail.start : end - self._tail.start]
        if at + 1 < len(self._windows):
            end = min(end, self._windows[at + 1].start)
        return self._submit(start, end).result()

    def _fetched(self, at: int) -> bytes:
        window = self._windows[at]
        held_at, data = self._held.get(window.column, (-1, b""))
        if held_at == at:
            return data
        self._held.pop(window.column, None)  # before the wait, so that no third window is in memory
        del data
        pending = self._pending
        if pending is not None and pending[0] == at:
            data = pending[1].result()
        else:
            data = self._submit(window.start, window.stop).result()
        self._held[window.column] = at, data
        if window.column == 0:
            following = next((i for i in range(at + 1, len(self._windows)) if self._windows[i].column == 0), None)
            self._pending = None
            if following is not None:
                self._pending = following, self._submit(self._windows[following].start, self._windows[following].stop)
        return data

    def _submit(self, start: int, stop: int) -> Future[bytes]:
        if self._executor is not None:
            return self._executor.submit(read_exactly, self._reader, start, stop)
        done: Future[bytes] = Future()
        done.set_result(read_exactly(self._reader, start, stop))
        return done
