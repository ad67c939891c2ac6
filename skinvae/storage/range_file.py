"""Ranged reads of one object as long as it is the one that was planned."""

from __future__ import annotations

import os
import stat
from io import FileIO
from typing import TYPE_CHECKING

from skinvae.storage.storage_errors import source_changed, storage_errors
from skinvae.storage.versions import ObjectInfo, stat_version

if TYPE_CHECKING:
    from skinvae.storage.filesystem import Location


class RangeFile:
    """Ranged reads of one object, pinned to a version: a RangeReader for archives.

    Every read of an S3 object is one request that carries If-Match with its ETag, and a local file is looked at again
    after every read, so bytes of two versions never mix. Raises SourceChanged for any other version, or none.
    Holds nothing open: a driver that plans thousands of archives has one of these for each.
    """

    def __init__(self, location: Location, info: ObjectInfo) -> None:
        self.uri = location.uri
        self.size = info.num_bytes
        self._location, self._version = location, info.version
        if location.is_local:
            with storage_errors(location, "open", pinned=True):
                found = os.stat(self.uri)
                if stat.S_ISDIR(found.st_mode):
                    raise IsADirectoryError(self.uri)
                self._require_version(found)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop). Raises SourceChanged if they are no longer those of the pinned version."""
        with storage_errors(self._location, "read", pinned=True):
            data = self._read_file(start, stop) if self._location.is_local else self._read_object(start, stop)
        if len(data) != stop - start:
            raise source_changed(self.uri)
        return data

    def _read_object(self, start: int, stop: int) -> bytes:
        byte_range = f"{start}-{stop - 1}"
        filesystem = self._location.filesystem
        data: bytes = filesystem.get_object(self.uri, byte_range=byte_range, version=self._version)
        return data

    def _read_file(self, start: int, stop: int) -> bytes:
        with open_at_once(self.uri) as file:
            before, data = os.fstat(file.fileno()), read_span(file, start, stop)
            # Both: the open file may be overwritten in place, and another may take its path.
            self._require_version(before, os.fstat(file.fileno()), os.stat(self.uri))
        return data

    def _require_version(self, *found: os.stat_result) -> None:
        if {stat_version(one) for one in found} != {self._version}:
            raise source_changed(self.uri)


def open_at_once(path: str) -> FileIO:
    """A local file to read from. Of a FIFO it does not wait for a writer, who may never come."""
    return open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def read_span(file: FileIO, start: int, stop: int) -> bytes:
    """The bytes [start, stop), fewer where the file ends; none of a FIFO or device, which has no bytes of its own."""
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return b""
    pieces, position = [], start
    # One call reads 2 GB at most, and may read less.
    while position < stop and (piece := os.pread(file.fileno(), stop - position, position)):
        pieces.append(piece)
        position += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
