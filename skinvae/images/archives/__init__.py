"""Archives of images: their members in a fixed order, located once and read in few large pieces.

One kind of archive is one module with one class; `open_archive` chooses it by content, never by the file's name.
Nothing here opens a path or URI: bytes come in through `RangeReader` and `ObjectListing`, which storage/ provides.
"""

from __future__ import annotations

from skinvae.errors import ArchiveError
from skinvae.images.archives.base import (
    Archive,
    Member,
    ObjectEntry,
    ObjectListing,
    Part,
    RangeReader,
    RawMember,
    read_exactly,
)
from skinvae.images.archives.candidates import Candidacy, candidacy, image_id
from skinvae.images.archives.folder import FolderArchive, FolderPart
from skinvae.images.archives.zip import ZipArchive, ZipPart
from skinvae.images.archives.zip_directory import is_zip

__all__ = [
    "Archive",
    "Candidacy",
    "FolderArchive",
    "FolderPart",
    "Member",
    "ObjectEntry",
    "ObjectListing",
    "Part",
    "RangeReader",
    "RawMember",
    "ZipArchive",
    "ZipPart",
    "archive_of_part",
    "candidacy",
    "image_id",
    "open_archive",
    "read_exactly",
]


def open_archive(source: RangeReader | ObjectListing, *, max_bytes: int) -> Archive:
    """The archive that `source` holds, its directory located but not yet read.

    Members of more than `max_bytes` bytes will be refused as `too_large` without being read.
    Raises ArchiveError where the content is of no kind that skinvae reads.
    """
    if isinstance(source, ObjectListing):
        return FolderArchive(source, max_bytes=max_bytes)
    if is_zip(source):
        archive = ZipArchive(source, max_bytes=max_bytes)
        archive.locate()
        return archive
    raise ArchiveError(f"{source.uri} is no archive that skinvae reads; give a zip archive or a folder of images.")


def archive_of_part(part: Part, source: RangeReader | ObjectListing, *, max_bytes: int) -> Archive:
    """The archive that `part` was cut from, to read that part; needs no look at the archive's directory."""
    if isinstance(part, FolderPart):
        assert isinstance(source, ObjectListing), "a folder's part needs the folder's listing"
        return FolderArchive(source, max_bytes=max_bytes)
    assert isinstance(part, ZipPart), f"a part of no known kind: {type(part).__name__}"
    assert not isinstance(source, ObjectListing), "a zip's part needs the zip's bytes"
    return ZipArchive(source, max_bytes=max_bytes)
