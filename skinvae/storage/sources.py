"""Archives behind URIs: which archive it is, by content, and how any process opens just the part it works on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from skinvae.errors import ArchiveError, InputError, SkinvaeError
from skinvae.images.archives import (
    Archive,
    ObjectEntry,
    ObjectListing,
    ParquetArchive,
    Part,
    ReadObject,
    archive_of_part,
    open_archive,
)
from skinvae.storage.filesystem import Location
from skinvae.storage.versions import ObjectInfo

_NUM_OPENED_AT_ONCE = 16
_NUM_ERRORS_NAMED = 5
_NUM_ERRORS_ENOUGH = 64
"""An endpoint that cannot be reached costs minutes for each archive."""


@dataclass(frozen=True)
class Source:
    """One archive as it was when the job was planned; picklable, so that workers can open it."""

    location: Location
    source_id: str
    version: str | None
    """ETag, or size and mtime, of an archive file; None for a folder, whose parts carry each object's own."""
    num_bytes: int
    """Of a manifest: of the list itself, not of the objects it names."""

    @property
    def uri(self) -> str:
        return self.location.uri


def open_source(location: Location, *, max_bytes: int, images_column: str | None = None) -> tuple[Source, Archive]:
    """Open the archive, folder, image or list of URIs at `location`; a larger member than `max_bytes` is refused.

    `images_column`: which column of a Parquet file holds the images, None to find it.
    Raises InputError if nothing is there, ArchiveError if it is of no known kind or holds nothing.
    """
    info = location.info()
    if info is None:
        entries = location.list_objects()
        if not entries:
            raise InputError(f"'{location}' is empty: give an archive, or a folder or prefix that holds images")
        described = sorted(f"{entry.name}\0{entry.num_bytes}\0{entry.version}" for entry in entries)
        num_bytes = sum(entry.num_bytes for entry in entries)
        source = Source(location, _digest([location.uri, *described]), None, num_bytes)
        return source, open_archive(_listing(location, entries), max_bytes=max_bytes)
    reader = location.open_range_reader(info)
    archive = open_archive(
        reader, max_bytes=max_bytes, images_column=images_column, read_object=_object_reader(location)
    )
    identity = [location.uri, info.version]
    if images_column is not None and isinstance(archive, ParquetArchive):
        identity.append(images_column)  # another column has other images in the same rows
    return Source(location, _digest(identity), info.version, info.num_bytes), archive


def open_sources(
    locations: Sequence[Location], *, max_bytes: int, images_column: str | None = None
) -> list[tuple[Source, Archive]]:
    """Open several archives at once, in order. One error that tells of several: ArchiveError if all of them are."""
    opened: list[tuple[Source, Archive]] = []
    errors: list[SkinvaeError] = []
    with ThreadPoolExecutor(max_workers=_NUM_OPENED_AT_ONCE, thread_name_prefix="open-source") as pool:
        futures = [
            pool.submit(open_source, location, max_bytes=max_bytes, images_column=images_column)
            for location in locations
        ]
        try:
            for future in futures:
                try:
                    opened.append(future.result())
                except SkinvaeError as error:
                    errors.append(error)
                    if len(errors) == _NUM_ERRORS_ENOUGH:
                        break
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    if not errors:
        return opened
    if len(locations) == 1:
        raise errors[0]
    raise _joined(errors, num_archives=len(locations))


def open_part(source: Source, part: Part, *, max_bytes: int) -> Archive:
    """The archive again, in another process, to read one part of it. Raises SourceChanged if it was replaced."""
    if source.version is None:
        return archive_of_part(part, _listing(source.location, []), max_bytes=max_bytes)
    reader = source.location.open_range_reader(ObjectInfo(source.num_bytes, source.version))
    return archive_of_part(part, reader, max_bytes=max_bytes, read_object=_object_reader(source.location))


def _listing(location: Location, entries: list[ObjectEntry]) -> ObjectListing:
    def read_object(entry: ObjectEntry) -> bytes:
        return (location / entry.name).read_version(entry.version)

    return ObjectListing(uri=location.uri, entries=entries, read_object=read_object)


def _object_reader(manifest: Location) -> ReadObject:
    def read_object(uri: str, *, max_bytes: int) -> bytes | None:
        return manifest.resolve(uri).read_head(max_bytes)

    return read_object


def _joined(errors: list[SkinvaeError], *, num_archives: int) -> SkinvaeError:
    if len(errors) == 1:
        return errors[0]
    stopped = len(errors) == _NUM_ERRORS_ENOUGH
    named = "; ".join(str(error).rstrip(".") for error in errors[:_NUM_ERRORS_NAMED])
    more = len(errors) - _NUM_ERRORS_NAMED
    rest = f"; and {more} more" if more > 0 else ""
    kind = ArchiveError if all(isinstance(error, ArchiveError) for error in errors) else InputError
    count = f"at least {len(errors)}" if stopped else len(errors)
    return kind(f"{count} of {num_archives:,} archives cannot be opened: {named}{rest}")


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()
