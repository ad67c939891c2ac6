"""A folder or prefix as an archive: its objects in the bytewise order of their names."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from skinvae.errors import SourceChanged
from skinvae.images.archives.base import (
    Member,
    Missing,
    ObjectEntry,
    ObjectListing,
    Part,
    RawMember,
    SliceEnd,
    cut_ranges,
    storable,
)
from skinvae.images.archives.candidates import Candidacy, candidacy, image_format
from skinvae.records import Status

_NUM_READS_IN_FLIGHT = 8
"""Hides the tens of milliseconds of one GET; bounds the memory to as many encoded images."""


@dataclass(frozen=True)
class FolderPart(Part):
    """Carries the entries of its members, in order: the reader needs no listing."""

    entries: tuple[ObjectEntry, ...]


class FolderArchive:
    """The objects below one prefix."""

    def __init__(self, listing: ObjectListing, *, max_bytes: int) -> None:
        self._listing = listing
        self._max_bytes = max_bytes
        # By code units UTF-8 keeps: the same order on every machine, locale or not, and S3's own.
        self._entries = sorted(listing.entries, key=lambda entry: entry.name.encode("utf-8", "surrogatepass"))

    @property
    def num_members(self) -> int:
        return len(self._entries)

    def members(self) -> Iterator[Member]:
        return (_member(index, entry) for index, entry in enumerate(self._entries))

    def parts(self, missing: Missing, *, slice_size: int) -> list[Part]:
        slices = cut_ranges(missing, slice_size=slice_size, num_members=self.num_members)
        return [FolderPart(start=start, stop=stop, entries=tuple(self._entries[start:stop])) for start, stop in slices]

    def read(self, part: Part, *, wanted: Callable[[Member], bool] | None = None) -> Iterator[RawMember | SliceEnd]:
        assert isinstance(part, FolderPart)
        chosen = []
        for index, entry in enumerate(part.entries, start=part.start):
            member = _member(index, entry)
            if candidacy(entry.name) is not Candidacy.SKIPPED and (wanted is None or wanted(member)):
                chosen.append((member, entry))
        yield from self._fetch(chosen)
        yield SliceEnd(part.start, part.start + len(part.entries))

    def _fetch(self, chosen: list[tuple[Member, ObjectEntry]]) -> Iterator[RawMember]:
        remaining = iter(chosen)
        pending: deque[tuple[Member, Future[bytes] | None]] = deque()
        with ThreadPoolExecutor(max_workers=_NUM_READS_IN_FLIGHT, thread_name_prefix="folder-read") as pool:
            try:
                while True:
                    for member, entry in remaining:
                        small_enough = entry.num_bytes <= self._max_bytes
                        pending.append((member, pool.submit(self._read_object, entry) if small_enough else None))
                        if len(pending) == _NUM_READS_IN_FLIGHT:
                            break
                    if not pending:
                        return
                    member, future = pending.popleft()
                    raw = self._raw_member(member, None if future is None else future.result())
                    if raw is not None:
                        yield raw
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _read_object(self, entry: ObjectEntry) -> bytes:
        data = self._listing.read_object(entry)
        if len(data) != entry.num_bytes:
            raise SourceChanged(
                f"{self._listing.uri}: {entry.name!r} now has {len(data)} bytes where {entry.num_bytes} were listed;"
                " run the command again to list it anew."
            )
        return data

    def _raw_member(self, member: Member, data: bytes | None) -> RawMember | None:
        if data is None:
            reason = f"{member.num_bytes} bytes, more than the {self._max_bytes} allowed"
            return RawMember(member.index, member.name, member.num_bytes, None, Status.TOO_LARGE, reason)
        if candidacy(member.name) is Candidacy.BY_CONTENT and image_format(data) is None:
            return None
        return RawMember(member.index, member.name, member.num_bytes, data, Status.OK, None)


def _member(index: int, entry: ObjectEntry) -> Member:
    return Member(index, storable(entry.name), entry.num_bytes)
