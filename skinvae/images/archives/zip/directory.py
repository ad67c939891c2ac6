"""A zip's central directory: where it lies, and its entries one after the other, never all in memory.

Section numbers refer to PKWARE's APPNOTE.TXT 6.3.10. The standard library's zipfile keeps about 1 KB for every
member, hence this reader of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from skinvae.errors import ArchiveError
from skinvae.images.archives.base import RangeReader, read_exactly

_END = struct.Struct("<4s4H2LH")  # 4.3.16, end of central directory record
_END64_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15
_END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14, without its extensible data
_RECORD = struct.Struct("<4s6H3L5H2L")  # 4.3.12, central file header
_LENGTHS = struct.Struct("<3H")  # of name, extra field and comment, at byte 28 of a central file header
_END_SIGNATURE, _END64_LOCATOR_SIGNATURE, _END64_SIGNATURE = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"
_RECORD_SIGNATURE = b"PK\x01\x02"
_HEAD_SIGNATURES = (b"PK\x03\x04", _END_SIGNATURE, b"PK\x07\x08", b"PK00")  # 4.3.7, empty, 8.5.3, 8.5.4
_TAIL_BYTES = _END64.size + _END64_LOCATOR.size + _END.size + 65_535  # with the longest comment (4.4.12)
_CHUNK_BYTES = 4 << 20
MIN_RECORD_BYTES = _RECORD.size
_ESCAPED_32 = 0xFFFFFFFF  # the true value is in the zip64 extra field (4.4.1.4)
_ZIP64_EXTRA_ID = 0x0001  # 4.5.3
_UTF8_FLAG = 1 << 11  # 4.4.4


@dataclass(frozen=True)
class DirectoryLocation:
    """Where the central directory lies, in bytes from the object's start."""

    start: int
    stop: int
    bias: int  # bytes put in front of the archive, such as a self-extractor: to be added to every stored offset
    declared_members: int
    is_zip64: bool


class ZipEntry(NamedTuple):
    """One central file header."""

    ordinal: int
    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    compressed_bytes: int
    num_bytes: int
    header_offset: int  # of the local header, from the object's start


def is_zip(reader: RangeReader) -> bool:
    """Whether the object begins or ends as a zip archive does; it may still be truncated."""
    if read_exactly(reader, 0, min(4, reader.size)) in _HEAD_SIGNATURES:
        return True
    tail = read_exactly(reader, max(0, reader.size - _TAIL_BYTES), reader.size)
    return _END_SIGNATURE in tail


def locate_directory(reader: RangeReader) -> DirectoryLocation:
    """Finds the central directory from the archive's last 66 KB. Raises ArchiveError where there is none."""
    tail_start = max(0, reader.size - _TAIL_BYTES)
    tail = read_exactly(reader, tail_start, reader.size)
    for position in _end_positions(tail):
        location = _directory_before(reader, tail, tail_start, position)
        if location is not None:
            return location
    raise ArchiveError(f"{reader.uri} has no zip directory at its end: it was cut off, or its upload is incomplete.")


def _end_positions(tail: bytes) -> list[int]:
    """Where an end record may lie, the most plausible first: a comment may hold the signature too, by malice."""
    exact, loose = [], []
    position = tail.rfind(_END_SIGNATURE)
    while position >= 0:
        if position + _END.size <= len(tail):
            stop = position + _END.size + int(_END.unpack_from(tail, position)[-1])
            if stop == len(tail):
                exact.append(position)
            elif stop < len(tail):  # bytes were appended to the archive
                loose.append(position)
        position = tail.rfind(_END_SIGNATURE, 0, position)
    # A 64 KB comment made of signatures would cost a request each.
    return (exact + loose)[:16]


def _directory_before(reader: RangeReader, tail: bytes, tail_start: int, position: int) -> DirectoryLocation | None:
    _, disk, directory_disk, _, num_members, num_bytes, offset, _ = _END.unpack_from(tail, position)
    stop = tail_start + position
    end64 = _end64_before(reader, tail, tail_start, position)
    if end64 is not None:
        stop, disk, directory_disk, num_members, num_bytes, offset = end64
    if disk or directory_disk:
        raise ArchiveError(f"{reader.uri} is one volume of a zip split over several files; join them first.")
    # Counted back from its end the directory is found behind prepended bytes too; else trust the stored offset.
    for start, bias in ((stop - num_bytes, stop - num_bytes - offset), (offset, 0)):
        if bias < 0 or start < 0 or start + num_bytes > stop:
            continue
        # Bytes in front that are a zip themselves: the end record found is that of a member, and the archive cut off.
        if bias and read_exactly(reader, 0, 4) == _HEAD_SIGNATURES[0]:
            continue
        if num_bytes == 0 == num_members or read_exactly(reader, start, min(start + 4, stop)) == _RECORD_SIGNATURE:
            location = DirectoryLocation(start, start + num_bytes, bias, num_members, end64 is not None)
            _check_count(reader, location)
            return location
    return None


def _check_count(reader: RangeReader, location: DirectoryLocation) -> None:
    """An absurd count must not reach a planner, which would cut it into slices before any scan."""
    num_bytes, declared = location.stop - location.start, location.declared_members
    if declared * MIN_RECORD_BYTES > num_bytes or (declared == 0 < num_bytes < MIN_RECORD_BYTES << 16):
        raise ArchiveError(
            f"{reader.uri} claims {declared} members in a zip directory of {num_bytes} bytes: it is damaged."
        )


def _end64_before(
    reader: RangeReader, tail: bytes, tail_start: int, position: int
) -> tuple[int, int, int, int, int, int] | None:
    """(its offset, disk, directory's disk, members, directory's bytes, directory's offset) where a record is."""
    locator_position = position - _END64_LOCATOR.size
    if locator_position < 0 or tail[locator_position : locator_position + 4] != _END64_LOCATOR_SIGNATURE:
        return None
    _, _, stored_offset, _ = _END64_LOCATOR.unpack_from(tail, locator_position)
    # The stored offset is wrong behind prepended bytes; then the record lies right before its locator.
    for offset in (stored_offset, tail_start + locator_position - _END64.size):
        if not 0 <= offset <= reader.size - _END64.size:
            continue
        record = read_exactly(reader, offset, offset + _END64.size)
        if record.startswith(_END64_SIGNATURE):
            _, _, _, _, disk, directory_disk, _, num_members, num_bytes, directory_offset = _END64.unpack(record)
            return offset, disk, directory_disk, num_members, num_bytes, directory_offset
    raise ArchiveError(f"{reader.uri} lacks the zip64 record that its end refers to: it is damaged.")


def walk_directory(reader: RangeReader, *, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yields (buffer, position in it, position in the object) of every central file header in [start, stop).

    Holds a few megabytes at a time. Raises ArchiveError at bytes that are no header.
    """
    buffer, position, fetched = b"", 0, start
    while True:
        if len(buffer) - position >= _RECORD.size:
            if not buffer.startswith(_RECORD_SIGNATURE, position):
                raise ArchiveError(
                    f"{reader.uri} has a damaged zip directory at byte {fetched - len(buffer) + position}."
                )
            length = _RECORD.size + sum(_LENGTHS.unpack_from(buffer, position + 28))
            if position + length <= len(buffer):
                yield buffer, position, fetched - len(buffer) + position
                position += length
                continue
        if fetched == stop:
            break
        upto = min(stop, fetched + _CHUNK_BYTES)
        buffer, position, fetched = buffer[position:] + read_exactly(reader, fetched, upto), 0, upto
    if position != len(buffer):
        raise ArchiveError(f"{reader.uri} has a zip directory that ends inside an entry: it is damaged.")


def parse_entry(buffer: bytes, position: int, *, ordinal: int, bias: int) -> ZipEntry:
    """The central file header at `position` of `buffer`."""
    (_, _, _, flags, method, _, _, crc, compressed_bytes, num_bytes, name_bytes, extra_bytes, *_, offset) = (
        _RECORD.unpack_from(buffer, position)
    )
    name_start = position + _RECORD.size
    extra_start = name_start + name_bytes
    raw_name = buffer[name_start:extra_start]
    if _ESCAPED_32 in (num_bytes, compressed_bytes, offset):
        extra = buffer[extra_start : extra_start + extra_bytes]
        num_bytes, compressed_bytes, offset = _unescape((num_bytes, compressed_bytes, offset), extra)
    # Appendix D: UTF-8 if flagged, else IBM code page 437. A wrong flag must not lose the image.
    name = raw_name.decode("utf-8", "replace") if flags & _UTF8_FLAG else raw_name.decode("cp437")
    return ZipEntry(ordinal, name, raw_name, flags, method, crc, compressed_bytes, num_bytes, offset + bias)


def _unescape(values: tuple[int, ...], extra: bytes) -> tuple[int, ...]:
    """Takes the escaped values from the zip64 extra field, which holds only those, in this order (4.5.3).

    A value whose field is missing stays 4 GB: such a member is refused by its size or place.
    """
    position = 0
    while position + 4 <= len(extra):
        field_id, length = struct.unpack_from("<2H", extra, position)
        if field_id == _ZIP64_EXTRA_ID:
            field = extra[position + 4 : position + 4 + length]
            wide = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            return tuple(next(wide, value) if value == _ESCAPED_32 else value for value in values)
        position += 4 + length
    return values
