"""Archives of images: their members in a fixed order, located once and read in few large pieces.

One kind of archive is one class, in a module or folder of its own. `open_archive` chooses it by content; only a list of
URIs that is plain text has to be named as one.
Nothing here opens a path or URI: bytes come in through `RangeReader` and `ObjectListing`, which storage/ provides.
"""

from __future__ import annotations

from functools import singledispatch

from skinvae.errors import ArchiveError
from skinvae.images.archives.base import (
    Archive,
    Member,
    Missing,
    ObjectEntry,
    ObjectListing,
    Part,
    RangeReader,
    RawMember,
    SliceEnd,
    read_exactly,
)
from skinvae.images.archives.candidates import Candidacy, candidacy, image_format, image_id
from skinvae.images.archives.folder import FolderArchive, FolderPart
from skinvae.images.archives.manifest.archive import ManifestArchive, ManifestPart, ReadObject
from skinvae.images.archives.manifest.text import SUFFIXES, is_text_manifest
from skinvae.images.archives.parquet.archive import ParquetArchive, ParquetPart, find_image_columns
from skinvae.images.archives.parquet.footer import MAGIC
from skinvae.images.archives.single import ImageArchive, ImagePart
from skinvae.images.archives.tar.archive import TarArchive, TarPart, open_tar
from skinvae.images.archives.zip.archive import ZipArchive, ZipPart
from skinvae.images.archives.zip.directory import is_zip

__all__ = [
    "Archive",
    "Candidacy",
    "FolderArchive",
    "FolderPart",
    "ImageArchive",
    "ImagePart",
    "ManifestArchive",
    "ManifestPart",
    "Member",
    "Missing",
    "ObjectEntry",
    "ObjectListing",
    "ParquetArchive",
    "ParquetPart",
    "Part",
    "RangeReader",
    "RawMember",
    "ReadObject",
    "SliceEnd",
    "TarArchive",
    "TarPart",
    "ZipArchive",
    "ZipPart",
    "archive_of_part",
    "candidacy",
    "image_id",
    "open_archive",
    "read_exactly",
]

_HEAD_BYTES = 64 << 10


def open_archive(
    source: RangeReader | ObjectListing,
    *,
    max_bytes: int,
    images_column: str | None = None,
    read_object: ReadObject | None = None,
) -> Archive:
    """The archive that `source` holds, its directory located but not yet read.

    Members of more than `max_bytes` bytes will be refused as `too_large`. `images_column`: which column of a Parquet
    file holds the images, None to find it. `read_object`: what a manifest reads its objects by.
    Raises ArchiveError where the content is of no kind that skinvae reads.
    """
    if isinstance(source, ObjectListing):
        return FolderArchive(source, max_bytes=max_bytes)
    if source.size == 0:
        raise ArchiveError(f"{source.uri} is empty: it has 0 bytes.")
    looked_at = _ReaderWithHead(source)
    head = looked_at.head
    # A zip may have anything in front, even an image: where it is named as one, that decides.
    is_named_zip = source.uri.lower().endswith(".zip") and is_zip(looked_at)
    if image_format(head) is not None and not is_named_zip:
        return ImageArchive(source, max_bytes=max_bytes)
    if head.startswith(MAGIC) and not is_named_zip:
        return _open_parquet(source, max_bytes=max_bytes, images_column=images_column, read_object=read_object)
    # Before the zip, which is told by its end too: a tar may end with a stored zip.
    tar = None if is_named_zip else open_tar(source, max_bytes=max_bytes, looked_at=looked_at)
    if tar is not None:
        return tar
    if is_named_zip or is_zip(looked_at):
        archive = ZipArchive(source, max_bytes=max_bytes)
        archive.locate()
        return archive
    if is_text_manifest(source.uri, head):
        manifest = ManifestArchive(source, max_bytes=max_bytes, read_object=read_object)
        manifest.locate()
        return manifest
    raise ArchiveError(
        f"{source.uri} is no archive that skinvae reads; give a zip or tar archive, a Parquet file with images, a"
        f" folder or prefix of images, an image, or a list of URIs ({' '.join(SUFFIXES)} or Parquet)."
    )


@singledispatch
def archive_of_part(
    part: Part, source: RangeReader | ObjectListing, *, max_bytes: int, read_object: ReadObject | None = None
) -> Archive:
    """The archive that `part` was cut from, to read that part; needs no look at the archive's directory.

    `source`: for a FolderPart the folder's listing, else the archive's bytes. `read_object`: for a ManifestPart.
    """
    raise AssertionError(f"a part of no known kind: {type(part).__name__}")


@archive_of_part.register
def _(part: FolderPart, source: ObjectListing, *, max_bytes: int, read_object: ReadObject | None = None) -> Archive:
    return FolderArchive(source, max_bytes=max_bytes)


@archive_of_part.register
def _(part: ImagePart, source: RangeReader, *, max_bytes: int, read_object: ReadObject | None = None) -> Archive:
    return ImageArchive(source, max_bytes=max_bytes)


@archive_of_part.register
def _(part: ManifestPart, source: RangeReader, *, max_bytes: int, read_object: ReadObject | None = None) -> Archive:
    return ManifestArchive(source, max_bytes=max_bytes, read_object=read_object)


@archive_of_part.register
def _(part: ParquetPart, source: RangeReader, *, max_bytes: int, read_object: ReadObject | None = None) -> Archive:
    return ParquetArchive(source, max_bytes=max_bytes)


@archive_of_part.register
def _(part: TarPart, source: RangeReader, *, max_bytes: int, read_object: ReadObject | None = None) -> Archive:
    return TarArchive(source, max_bytes=max_bytes, compression=part.compression)


@archive_of_part.register
def _(part: ZipPart, source: RangeReader, *, max_bytes: int, read_object: ReadObject | None = None) -> Archive:
    return ZipArchive(source, max_bytes=max_bytes)


def _open_parquet(
    source: RangeReader, *, max_bytes: int, images_column: str | None, read_object: ReadObject | None
) -> Archive:
    """Images if a column holds bytes, else a list of them."""
    archive = ParquetArchive(source, max_bytes=max_bytes, column=images_column)
    if find_image_columns(archive.rows, uri=source.uri, column=images_column) is not None:
        return archive
    manifest = ManifestArchive(source, max_bytes=max_bytes, read_object=read_object, rows=archive.rows)
    manifest.locate()
    return manifest


class _ReaderWithHead:
    """Gives the object's first bytes, read once for all that look at them.

    No archive may keep it: a driver that plans thousands of them would hold as many heads.
    """

    def __init__(self, reader: RangeReader) -> None:
        self._reader = reader
        self.uri, self.size = reader.uri, reader.size
        self.head = read_exactly(reader, 0, min(_HEAD_BYTES, reader.size))

    def read(self, start: int, stop: int) -> bytes:
        return self.head[start:stop] if stop <= len(self.head) else self._reader.read(start, stop)
