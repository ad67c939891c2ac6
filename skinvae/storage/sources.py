"""Archives behind URIs: which archive it is, by content, and how any process opens just the part it works on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from skinvae.errors import InputError
from skinvae.images.archives import Archive, ObjectEntry, ObjectListing, Part, archive_of_part, open_archive
from skinvae.storage.filesystem import Location


@dataclass(frozen=True)
class Source:
    """One archive as it was when the job was planned; picklable, so that workers can open it."""

    location: Location
    source_id: str
    version: str | None
    """ETag, or size and mtime, of an archive file; None for a folder, whose parts carry each object's own."""
    num_bytes: int

    @property
    def uri(self) -> str:
        return self.location.uri


def open_source(location: Location, *, max_bytes: int) -> tuple[Source, Archive]:
    """Open the archive or folder at `location`; a member of more than `max_bytes` will be refused unread.

    Raises InputError if nothing is there, ArchiveError if it is of no known kind or holds nothing.
    """
    info = location.info()
    if info is None:
        entries = location.list_objects()
        if not entries:
            raise InputError(f"'{location}' is empty: give a zip archive, or a folder or prefix that holds images")
        described = sorted(f"{entry.name}\0{entry.num_bytes}\0{entry.version}" for entry in entries)
        num_bytes = sum(entry.num_bytes for entry in entries)
        source = Source(location, _digest([location.uri, *described]), None, num_bytes)
        return source, open_archive(_listing(location, entries), max_bytes=max_bytes)
    source = Source(location, _digest([location.uri, info.version]), info.version, info.num_bytes)
    return source, open_archive(location.open_range_reader(info.version), max_bytes=max_bytes)


def open_part(source: Source, part: Part, *, max_bytes: int) -> Archive:
    """The archive again, in another process, to read one part of it. Raises SourceChanged if it was replaced."""
    if source.version is None:
        return archive_of_part(part, _listing(source.location, []), max_bytes=max_bytes)
    reader = source.location.open_range_reader(source.version)
    return archive_of_part(part, reader, max_bytes=max_bytes)


def _listing(location: Location, entries: list[ObjectEntry]) -> ObjectListing:
    def read_object(entry: ObjectEntry) -> bytes:
        reader = (location / entry.name).open_range_reader(entry.version)
        return reader.read(0, reader.size) if reader.size else b""

    return ObjectListing(uri=location.uri, entries=entries, read_object=read_object)


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()
