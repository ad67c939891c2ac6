"""Zip archives: the directory is scanned once for the slices' boundaries; slices are read in few large reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from skinvae.errors import ArchiveError
from skinvae.images.archives.base import (
    Member,
    Missing,
    Part,
    RangeReader,
    RawMember,
    SliceEnd,
    cut_ranges,
    read_exactly,
)
from skinvae.images.archives.candidates import Candidacy, candidacy, image_format
from skinvae.images.archives.coalesce import coalesce, read_ahead
from skinvae.images.archives.zip.directory import (
    MIN_RECORD_BYTES,
    DirectoryLocation,
    ZipEntry,
    locate_directory,
    parse_entry,
    walk_directory,
)
from skinvae.images.archives.zip.member import MemberError, check_entry, extract, minimal_stop
from skinvae.records import Status

_SLACK_BYTES = 256
"""Local headers carry longer extra fields than the directory shows (Unix times, zip64): 36 bytes are common."""


@dataclass(frozen=True)
class ZipPart(Part):
    """The piece of the central directory that holds exactly these members; all in bytes from the object's start."""

    directory_start: int
    directory_stop: int
    bias: int  # to be added to stored offsets
    data_stop: int  # where members end and the whole directory begins
    next_offset: int  # of the local header of the member behind the part; data_stop where there is none


class _Planned(NamedTuple):
    entry: ZipEntry
    limit: int
    refused: MemberError | None


class ZipArchive:
    """A zip archive, zip64 or not. The constructor reads nothing."""

    def __init__(self, reader: RangeReader, *, max_bytes: int) -> None:
        self._reader = reader
        self._max_bytes = max_bytes

    def locate(self) -> DirectoryLocation:
        """Finds the directory, once; raises ArchiveError where it is missing."""
        return self._location

    @cached_property
    def _location(self) -> DirectoryLocation:
        return locate_directory(self._reader)

    @cached_property
    def num_members(self) -> int:
        location = self._location
        at_most = (location.stop - location.start) // MIN_RECORD_BYTES
        if location.is_zip64 or location.declared_members + (1 << 16) > at_most:
            return location.declared_members
        # Writers that know no zip64 store the count modulo 65,536: where more would fit, it has to be counted.
        return sum(1 for _ in walk_directory(self._reader, start=location.start, stop=location.stop))

    def members(self) -> Iterator[Member]:
        for index, (buffer, position, _) in enumerate(self._walk()):
            entry = parse_entry(buffer, position, ordinal=index, bias=0)
            yield Member(index, entry.name, entry.num_bytes)

    def parts(self, missing: Missing, *, slice_size: int) -> list[Part]:
        ranges = cut_ranges(missing, slice_size=slice_size, num_members=self.num_members)
        location = self._location
        marks = {ordinal: (location.stop, location.start) for bounds in ranges for ordinal in bounds}
        for index, (buffer, position, offset) in enumerate(self._walk()):
            if index in marks:
                marks[index] = offset, parse_entry(buffer, position, ordinal=index, bias=location.bias).header_offset
        return [
            ZipPart(
                start=start,
                stop=stop,
                directory_start=marks[start][0],
                directory_stop=marks[stop][0],
                bias=location.bias,
                data_stop=location.start,
                next_offset=marks[stop][1],
            )
            for start, stop in ranges
        ]

    def read(self, part: Part, *, wanted: Callable[[Member], bool] | None = None) -> Iterator[RawMember | SliceEnd]:
        assert isinstance(part, ZipPart)
        entries = self._entries(part)
        planned = self._plan(entries, part, wanted)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="zip-read") as executor:

            def fetch(start: int, stop: int) -> bytes:  # in the executor too: the reader sees one call at a time
                return executor.submit(read_exactly, self._reader, start, stop).result()

            batches = coalesce((item, _span(item)) for item in planned)
            for batch, window in read_ahead(batches, reader=self._reader, executor=executor):
                for item in batch.items:
                    raw = _raw_member(item, part=part, window=window, window_start=batch.start, fetch=fetch)
                    if raw is not None:
                        yield raw
        yield SliceEnd(part.start, part.start + len(entries))

    def _walk(self) -> Iterator[tuple[bytes, int, int]]:
        location, num_walked = self._location, 0
        for header in walk_directory(self._reader, start=location.start, stop=location.stop):
            num_walked += 1
            yield header
        if num_walked != self.num_members:
            raise ArchiveError(
                f"{self._reader.uri} has {num_walked} members in its zip directory, but its end record says"
                f" {self.num_members}: it is damaged."
            )

    def _entries(self, part: ZipPart) -> list[ZipEntry]:
        records = walk_directory(self._reader, start=part.directory_start, stop=part.directory_stop)
        entries = [
            parse_entry(buffer, position, ordinal=index, bias=part.bias)
            for index, (buffer, position, _) in enumerate(records, start=part.start)
        ]
        if len(entries) != part.num_members:
            raise ArchiveError(f"{self._reader.uri} has {len(entries)} members where its plan says {part.num_members}.")
        return entries

    def _plan(
        self, entries: list[ZipEntry], part: ZipPart, wanted: Callable[[Member], bool] | None
    ) -> Iterator[_Planned]:
        limits = _limits(entries, next_offset=part.next_offset, data_stop=part.data_stop)
        for entry, limit in zip(entries, limits, strict=True):
            if candidacy(entry.name) is Candidacy.SKIPPED:
                continue
            if wanted is not None and not wanted(Member(entry.ordinal, entry.name, entry.num_bytes)):
                continue
            try:
                check_entry(entry, limit=limit, data_stop=part.data_stop, max_bytes=self._max_bytes)
            except MemberError as refused:
                yield _Planned(entry, limit, refused)
            else:
                yield _Planned(entry, limit, None)


def _limits(entries: list[ZipEntry], *, next_offset: int, data_stop: int) -> list[int]:
    """Per entry, where the next local header begins, whatever the order of the directory.

    Zip bombs make members overlap (Fifield 2019, "A better zip bomb"): each would be read and inflated again.
    """
    order = sorted(range(len(entries)), key=lambda i: (entries[i].header_offset, i))
    limits = [data_stop] * len(entries)
    for here, behind in pairwise(order):
        limits[here] = entries[behind].header_offset
    if order and next_offset > entries[order[-1]].header_offset:
        limits[order[-1]] = next_offset
    return [min(limit, data_stop) for limit in limits]  # offsets may lie anywhere in 64 bits


def _span(item: _Planned) -> tuple[int, int] | None:
    """The bytes to fetch: up to the next member, or a little more than the directory's sizes tell."""
    if item.refused is not None:
        return None
    return item.entry.header_offset, min(item.limit, minimal_stop(item.entry) + _SLACK_BYTES)


def _raw_member(
    item: _Planned, *, part: ZipPart, window: bytes, window_start: int, fetch: Callable[[int, int], bytes]
) -> RawMember | None:
    entry, limit, refused = item
    data = b""
    if refused is None:
        try:
            data = extract(
                entry, window=window, window_start=window_start, limit=limit, data_stop=part.data_stop, fetch=fetch
            )
        except MemberError as error:
            refused = error
    if refused is not None:
        return RawMember(entry.ordinal, entry.name, entry.num_bytes, None, refused.status, refused.reason)
    if candidacy(entry.name) is Candidacy.BY_CONTENT and image_format(data) is None:
        return None
    return RawMember(entry.ordinal, entry.name, entry.num_bytes, data, Status.OK, None)
