"""Manifests: a list of URIs as an archive, so that nobody has to list a bucket of 100 million objects."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from skinvae.errors import ArchiveError
from skinvae.images.archives.base import Member, Missing, Part, RangeReader, RawMember, SliceEnd, cut_ranges, storable
from skinvae.images.archives.candidates import Candidacy, candidacy, image_format
from skinvae.images.archives.manifest.entries import check_entry, uri_column
from skinvae.images.archives.manifest.text import Lines, TextManifest, read_lines
from skinvae.images.archives.parquet.archive import is_text
from skinvae.images.archives.parquet.rows import ParquetRows, RowRange, column_of, texts_of
from skinvae.records import Status

_NUM_READS_IN_FLIGHT = 8
"""Hides the tens of milliseconds of one GET; bounds the memory to as many encoded images."""

_COLUMN_BYTES_PER_ROW = 3_200
"""Each part of a row group reads the URIs in front of its own again: this much for each image that it fetches, 5 % of
a small one's 64 KB."""


class ReadObject(Protocol):
    """Storage's way to one object; called from several threads at once."""

    def __call__(self, uri: str, *, max_bytes: int) -> bytes | None:
        """The first `max_bytes` bytes of what `uri` means inside the manifest, by one request; None: nothing there."""


@dataclass(frozen=True)
class ListedRows:
    """Some entries of a Parquet manifest."""

    rows: RowRange
    column: str


@dataclass(frozen=True)
class ManifestPart(Part):
    """Where the URIs of the part's members are: few bytes, however many URIs."""

    where: Lines | ListedRows
    slices: tuple[tuple[int, int], ...]

    @property
    def num_members(self) -> int:
        return sum(stop - start for start, stop in self.slices)


class ManifestArchive:
    """The objects that a text or Parquet file names, in its order; a member's name is its URI as written.

    The constructor reads nothing. `read_object` is needed to read parts only.
    """

    def __init__(
        self, reader: RangeReader, *, max_bytes: int, read_object: ReadObject | None, rows: ParquetRows | None = None
    ) -> None:
        self._reader = reader
        self._max_bytes = max_bytes
        self._read_object = read_object
        self._list = TextManifest(reader) if rows is None else ParquetManifest(rows, uri=reader.uri)

    def locate(self) -> None:
        """Finds the column of URIs, by a look at the header; raises ArchiveError where there is none."""
        self._list.locate()

    @cached_property
    def num_members(self) -> int:
        """Reads all of the manifest, once; raises ArchiveError where an entry can name no image."""
        return self._list.num_entries

    def members(self) -> Iterator[Member]:
        return (_member(index, uri) for index, uri in enumerate(self._list.uris()))

    def parts(self, missing: Missing, *, slice_size: int) -> list[Part]:
        if isinstance(self._list, ParquetManifest):
            return list(self._list.parts(missing, slice_size=slice_size))
        slices = cut_ranges(missing, slice_size=slice_size, num_members=self.num_members)
        return [ManifestPart(*ends, where=self._list.lines(*ends), slices=(ends,)) for ends in slices]

    def read(self, part: Part, *, wanted: Callable[[Member], bool] | None = None) -> Iterator[RawMember | SliceEnd]:
        assert isinstance(part, ManifestPart)
        with ThreadPoolExecutor(max_workers=_NUM_READS_IN_FLIGHT, thread_name_prefix="manifest-fetch") as pool:
            pending: deque[tuple[Member | SliceEnd, Future[bytes | None] | None]] = deque()
            try:
                for item, uri in self._chosen(part, wanted):
                    pending.append((item, None if uri is None else pool.submit(self._fetch, uri)))
                    if len(pending) == _NUM_READS_IN_FLIGHT:
                        yield from self._result(*pending.popleft())
                while pending:
                    yield from self._result(*pending.popleft())
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _chosen(
        self, part: ManifestPart, wanted: Callable[[Member], bool] | None
    ) -> Iterator[tuple[Member | SliceEnd, str | None]]:
        """The members to fetch, each with its URI, and the ends of the slices."""
        uris = self._part_uris(part)
        for start, stop in part.slices:
            for index in range(start, stop):
                uri = next(uris, None)
                if uri is None:
                    raise ArchiveError(f"{self._reader.uri} names fewer objects than its plan says.")
                member = _member(index, uri)
                if candidacy(uri) is not Candidacy.SKIPPED and (wanted is None or wanted(member)):
                    yield member, uri
            yield SliceEnd(start, stop), None

    def _part_uris(self, part: ManifestPart) -> Iterator[str]:
        if isinstance(part.where, Lines):
            return read_lines(self._reader, part.where)
        return _row_uris(ParquetRows(self._reader), part.where.rows, part.where.column)

    def _fetch(self, uri: str) -> bytes | None:
        assert self._read_object is not None, "to read a manifest's objects takes storage's read_object"
        return self._read_object(uri, max_bytes=self._max_bytes + 1)

    def _result(self, item: Member | SliceEnd, future: Future[bytes | None] | None) -> Iterator[RawMember | SliceEnd]:
        if isinstance(item, SliceEnd):
            yield item
            return
        assert future is not None
        data = future.result()
        if data is None:
            reason = "there is no object where the manifest names one"
            yield RawMember(item.index, item.name, None, None, Status.MISSING, reason)
        elif len(data) > self._max_bytes:
            reason = f"more than the {self._max_bytes} bytes allowed"
            yield RawMember(item.index, item.name, None, None, Status.TOO_LARGE, reason)
        elif candidacy(item.name) is Candidacy.IMAGE or image_format(data) is not None:
            yield RawMember(item.index, item.name, len(data), data, Status.OK, None)


class ParquetManifest:
    """The entries of a Parquet manifest."""

    def __init__(self, rows: ParquetRows, *, uri: str) -> None:
        self._rows = rows
        self._uri = uri

    def locate(self) -> str:
        return self.column

    @cached_property
    def column(self) -> str:
        """Raises ArchiveError if there is no column of URIs."""
        name = uri_column([field.name for field in self._rows.schema if is_text(field.type)])
        if name is None or self._rows.names.count(name) > 1:
            raise ArchiveError(
                f"{self._uri} holds neither images nor a list of them: it has no column of image bytes, and none of"
                f" its columns {', '.join(self._rows.names)[:200]} holds URIs under a name that says so (uri, path)."
            )
        return name

    @cached_property
    def num_entries(self) -> int:
        self._rows.check_chunks([self.column])
        for row, uri in enumerate(self.uris()):
            check_entry(uri, manifest=self._uri, place=f"row {row}", column=self.column)
        return self._rows.num_rows

    def uris(self) -> Iterator[str]:
        return _row_uris(self._rows, self._rows.all_rows, self.column)

    def parts(self, missing: Missing, *, slice_size: int) -> Iterator[ManifestPart]:
        for rows in self._rows.cut(missing, slice_size=slice_size):
            num_bytes = sum(self._rows.chunk_bytes(self.column, group) for group in range(*rows.groups))
            step = max(1, num_bytes // (_COLUMN_BYTES_PER_ROW * slice_size))
            for first in range(0, len(rows.slices), step):
                slices = rows.slices[first : first + step]
                where = ListedRows(RowRange(rows.groups, rows.first_row, slices), self.column)
                yield ManifestPart(slices[0][0], slices[-1][1], where=where, slices=slices)


def _row_uris(rows: ParquetRows, chosen: RowRange, column: str) -> Iterator[str]:
    for _, batch in rows.batches(chosen, [column]):
        yield from ((uri or "").strip() for uri in texts_of(column_of(batch, column)))


def _member(index: int, uri: str) -> Member:
    """A URI that is no UTF-8 carries lone surrogates, which no table can store: they become '?'."""
    return Member(index, storable(uri), None)
