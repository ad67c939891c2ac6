"""Many small spans of bytes as few large reads, the next of them always under way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from skinvae.images.archives.base import RangeReader, read_exactly

T = TypeVar("T")

MAX_READ_BYTES = 16 << 20
"""Large against the tens of milliseconds that a request costs, small against a worker's memory (two are held)."""

MAX_GAP_BYTES = 64 << 10
"""Unwanted bytes read to spare a request: less than 1 ms of a 100 MB/s stream."""


@dataclass
class Batch(Generic[T]):
    """Items in order, and the one span [start, stop) that holds the bytes of all that have any."""

    start: int = 0
    stop: int = 0
    items: list[T] = field(default_factory=list)

    def takes(self, start: int, stop: int) -> bool:
        if self.start == self.stop:
            return True
        return self.start <= start <= self.stop + MAX_GAP_BYTES and stop - self.start <= MAX_READ_BYTES

    def add(self, item: T, span: tuple[int, int] | None) -> None:
        self.items.append(item)
        if span is not None:
            self.start, self.stop = span if self.start == self.stop else (self.start, max(self.stop, span[1]))


def coalesce(items: Iterable[tuple[T, tuple[int, int] | None]]) -> Iterator[Batch[T]]:
    """Groups consecutive items, each with its span of bytes or None where it needs none.

    A span that lies behind the one before it, too far ahead of it, or over the size of one read begins a new batch.
    """
    batch: Batch[T] = Batch()
    for item, span in items:
        if span is not None and not batch.takes(*span):
            yield batch
            batch = Batch()
        batch.add(item, span)
    if batch.items:
        yield batch


def read_ahead(
    batches: Iterable[Batch[T]], *, reader: RangeReader, executor: Executor
) -> Iterator[tuple[Batch[T], bytes]]:
    """Each batch with its bytes; while the caller works on one, `executor` reads the next."""
    pending: tuple[Batch[T], Future[bytes]] | None = None
    for batch in batches:
        following = batch, executor.submit(read_exactly, reader, batch.start, batch.stop)
        if pending is not None:
            yield pending[0], pending[1].result()
        pending = following
    if pending is not None:
        yield pending[0], pending[1].result()
