"""Rows of a Parquet file in order, of few columns, read in large pieces one ahead, row group by row group.

Arrow's own read-ahead is switched off: its I/O threads outlive a read, and one that drops a Python object while the
interpreter exits aborts the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq

from skinvae.errors import ArchiveError
from skinvae.images.archives.base import Missing, RangeReader, cut_ranges
from skinvae.images.archives.parquet.footer import parse_footer, read_tail
from skinvae.images.archives.parquet.windows import ChunkSpan, WindowedFile, plan_windows

_ARROW_BUFFER_BYTES = 1 << 20  # makes Arrow stream a column chunk page by page instead of asking for all of it
_BATCH_BYTES = 8 << 20
_MAX_BATCH_ROWS = 1024
_FREE_CHUNK_BYTES = 256 << 20
_MAX_RATIO = 50
"""Images hardly compress, and names not as much for more than _FREE_CHUNK_BYTES: Arrow would inflate a page at once."""

_MAX_ROWS_PER_BYTE = 64  # sorted names take less than a byte each; an absurd count must not reach a planner


@dataclass(frozen=True)
class RowRange:
    """Rows to be read together: `slices` [start, stop) of the row groups `groups` [first, stop)."""

    groups: tuple[int, int]
    first_row: int  # of the first row group
    slices: tuple[tuple[int, int], ...]


class ParquetRows:
    """A Parquet file behind a RangeReader. The constructor reads its footer; ArchiveError where that is damaged."""

    def __init__(self, reader: RangeReader) -> None:
        self._reader = reader
        tail = read_tail(reader)
        self._file = WindowedFile(reader, tail)
        with self._damage("its footer"):
            self._parquet = pq.ParquetFile(self._file, pre_buffer=False, buffer_size=_ARROW_BUFFER_BYTES)
            self.schema: pa.Schema = self._parquet.schema_arrow
            self.names: list[str] = self.schema.names
            self.metadata: dict[bytes, bytes] = self._parquet.metadata.metadata or {}
        self.num_rows, self._groups = parse_footer(tail.footer, uri=reader.uri)
        self.group_rows = [group.num_rows for group in self._groups]
        if min(self.group_rows, default=0) < 0 or sum(self.group_rows) != self.num_rows:
            raise ArchiveError(f"{reader.uri} has row groups of other sizes than its footer says: it is damaged.")
        if self.num_rows > reader.size * _MAX_ROWS_PER_BYTE:
            raise ArchiveError(f"{reader.uri} claims {self.num_rows} rows in {reader.size} bytes: it is damaged.")

    @cached_property
    def all_rows(self) -> RowRange:
        return RowRange((0, len(self.group_rows)), 0, ((0, self.num_rows),) if self.num_rows else ())

    def cut(self, missing: Missing, *, slice_size: int) -> list[RowRange]:
        """One range per row group with missing rows, small ones in a row joined up to `slice_size` rows."""
        missing_rows = cut_ranges(missing, slice_size=max(1, self.num_rows), num_members=self.num_rows)
        found, remaining = [], 0  # missing_rows[remaining:] end behind the rows walked so far
        bounds = [0, *accumulate(self.group_rows)]
        for first, stop in _joined(bounds, missing_rows, slice_size=slice_size):
            slices: list[tuple[int, int]] = []
            while remaining < len(missing_rows) and missing_rows[remaining][0] < bounds[stop]:
                start, end = missing_rows[remaining]
                start, end_here = max(start, bounds[first]), min(end, bounds[stop])
                slices += [(row, min(row + slice_size, end_here)) for row in range(start, end_here, slice_size)]
                if end > bounds[stop]:
                    break
                remaining += 1
            found.append(RowRange((first, stop), bounds[first], tuple(slices)))
        return found

    def chunk_bytes(self, column: str, group: int) -> int:
        """Compressed bytes of a column in one row group."""
        return sum(chunk.stop - chunk.start for chunk in self._chunks((group, group + 1), [column]))

    def check_chunks(self, columns: Sequence[str]) -> None:
        """Raises ArchiveError if chunks of these columns lie outside the file or share bytes, to be read again."""
        self._chunks((0, len(self.group_rows)), columns)

    def refuse_bombs(self, columns: Sequence[str]) -> None:
        """Raises ArchiveError if a chunk of these columns claims to hold far more bytes than images or names would."""
        for group, row_group in enumerate(self._groups):
            for column in columns:
                chunk = row_group.chunks.get(column)
                num_bytes = 0 if chunk is None else chunk.num_uncompressed_bytes
                if chunk and num_bytes > max(_FREE_CHUNK_BYTES, _MAX_RATIO * (chunk.stop - chunk.start)):
                    raise ArchiveError(
                        f"{self._reader.uri} claims {num_bytes} bytes of {column} in row group {group}, more than"
                        f" {_MAX_RATIO} times their compressed size, as only a bomb does."
                    )

    def batches(self, rows: RowRange, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """(index of its first row, batch), in order; no batch crosses the border of a slice.

        The first of `columns` is the one read ahead. 'a.b' names the field b of the column a. Raises ArchiveError
        where a row group is damaged, after the batches before.
        """
        windows = plan_windows(self._chunks(rows.groups, columns))
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="parquet-read") as executor:
            self._file.plan(windows, executor)
            first, slices = rows.first_row, list(rows.slices)
            for group in range(*rows.groups):
                index = first
                for batch in self._group_batches(group, columns):
                    yield from _cut_batch(batch, index, slices)
                    index += batch.num_rows
                    if not slices:
                        return
                first += self.group_rows[group]
                if index != first:
                    raise ArchiveError(f"{self._reader.uri} lacks rows of its row group {group}: it is damaged.")

    def _group_batches(self, group: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        num_rows, remaining = self.group_rows[group], self.group_rows[group]
        if not num_rows:
            return
        chunks = self._groups[group].chunks
        num_bytes = sum(chunks[column].num_uncompressed_bytes for column in columns)
        batch_rows = max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES * num_rows // max(1, num_bytes)))
        with self._damage(f"row group {group}"):
            batches = self._parquet.iter_batches(
                batch_size=batch_rows, row_groups=[group], columns=list(columns), use_threads=False
            )
        while remaining:
            with self._damage(f"row group {group}"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch.slice(0, remaining)
            remaining -= min(remaining, batch.num_rows)

    def _chunks(self, groups: tuple[int, int], columns: Sequence[str]) -> list[ChunkSpan]:
        """In the order of the file. Raises ArchiveError where chunks lie outside it or share bytes."""
        chunks = []
        for group in range(*groups):
            if not self.group_rows[group]:
                continue
            for number, column in enumerate(columns):
                chunk = self._groups[group].chunks.get(column)
                if chunk is None:
                    raise ArchiveError(f"{self._reader.uri} lacks {column} in row group {group}: it is damaged.")
                chunks.append(ChunkSpan(chunk.start, chunk.stop, number, group))
        chunks.sort()
        previous = 0
        for found in chunks:
            if not previous <= found.start < found.stop <= self._reader.size:
                raise ArchiveError(f"{self._reader.uri} has a footer that points to wrong bytes: it is damaged.")
            previous = found.stop
        return chunks

    @contextmanager
    def _damage(self, what: str) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, MemoryError, ValueError, LookupError, TypeError) as error:
            if self._file.failure is not None:  # the reader's own, which says more
                raise self._file.failure from None
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise ArchiveError(f"{self._reader.uri} is a damaged Parquet file: {what}: {reason}.") from error


def _joined(bounds: list[int], missing_rows: list[tuple[int, int]], *, slice_size: int) -> Iterator[tuple[int, int]]:
    """Row groups [first, stop) to be read together; group g holds the rows [bounds[g], bounds[g + 1])."""
    current: tuple[int, int] | None = None
    at = 0
    for group in range(len(bounds) - 1):
        start, stop = bounds[group], bounds[group + 1]
        while at < len(missing_rows) and missing_rows[at][1] <= start:
            at += 1
        is_missing = start < stop and at < len(missing_rows) and missing_rows[at][0] < stop
        if current is not None and is_missing and current[1] == group and stop - bounds[current[0]] <= slice_size:
            current = current[0], group + 1
            continue
        if current is not None and (is_missing or start < stop):
            yield current
            current = None
        if is_missing:
            current = group, group + 1
    if current is not None:
        yield current


def _cut_batch(
    batch: pa.RecordBatch, index: int, slices: list[tuple[int, int]]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The pieces of the batch, whose first row is `index`, inside the slices; drops the slices that end in it."""
    end = index + batch.num_rows
    while slices and slices[0][0] < end:
        start, stop = max(slices[0][0], index), min(slices[0][1], end)
        yield start, batch.slice(start - index, stop - start)
        if slices[0][1] > end:
            return
        slices.pop(0)


def column_of(batch: pa.RecordBatch, path: str) -> pa.Array:
    """The column, or the field 'b' of the column 'a' for 'a.b': null too where the whole struct is."""
    if path in batch.schema.names:
        column = batch.column(path)
    else:
        parent, _, child = path.rpartition(".")
        struct = batch.column(parent)
        column = struct.flatten()[struct.type.get_field_index(child)]
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def plain_type(type_: pa.DataType) -> pa.DataType:
    """The type of the values that a dictionary encodes, which is no more than a way to store them."""
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def texts_of(column: pa.Array) -> list[str | None]:
    """The cells as text: integers in digits, bytes that are no UTF-8 replaced; None where there is nothing."""
    if pa.types.is_integer(column.type):
        return [None if value is None else str(value) for value in column.to_pylist()]
    if pa.types.is_string_view(column.type):
        values = [cell.as_buffer().to_pybytes() if cell.is_valid else None for cell in column]
    else:
        values = column.cast(pa.large_binary()).to_pylist()  # to Python strings it would fail for other bytes
    return [value.decode("utf-8", "replace") if value else None for value in values]
