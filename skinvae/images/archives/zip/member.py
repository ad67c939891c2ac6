"""One member of a zip: whether it may be read at all, and its bytes, inflated within bounds and checked.

Section numbers refer to PKWARE's APPNOTE.TXT 6.3.10. Sizes and checksums come from the central directory only;
the local header is read for its own length and compared by name.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

from skinvae.images.archives.zip.directory import ZipEntry
from skinvae.records import Status

_LOCAL = struct.Struct("<4s5H3L2H")  # 4.3.7, local file header
_LOCAL_SIGNATURE = b"PK\x03\x04"
_ENCRYPTED_FLAGS = 1 << 0 | 1 << 6 | 1 << 13  # 4.4.4: traditional, strong, masked headers
_PATCH_FLAG = 1 << 5  # 4.4.4: compressed patched data
_STORED, _DEFLATED = 0, 8  # 4.4.5


class MemberError(Exception):
    """Ends the reading of one member; becomes its row's status and error."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def minimal_stop(entry: ZipEntry) -> int:
    """Where the member ends if its local header has no extra field: it cannot end before."""
    return entry.header_offset + _LOCAL.size + len(entry.raw_name) + entry.compressed_bytes


def check_entry(entry: ZipEntry, *, limit: int, data_stop: int, max_bytes: int) -> None:
    """Refuses what the directory alone shows to be unreadable, before any of its bytes are fetched.

    `limit`: where the next member or, after the last, the directory begins; `data_stop`: where the directory begins.
    """
    if entry.flags & _ENCRYPTED_FLAGS:
        raise MemberError(Status.ENCRYPTED, "the member is encrypted")
    if entry.method not in (_STORED, _DEFLATED) or entry.flags & _PATCH_FLAG:
        raise MemberError(Status.UNSUPPORTED_FORMAT, f"zip compression method {entry.method} is not supported")
    if max(entry.num_bytes, entry.compressed_bytes) > max_bytes:
        largest = max(entry.num_bytes, entry.compressed_bytes)
        raise MemberError(Status.TOO_LARGE, f"{largest} bytes, more than the {max_bytes} allowed")
    if entry.method == _STORED and entry.num_bytes != entry.compressed_bytes:
        status = Status.TRUNCATED if entry.compressed_bytes < entry.num_bytes else Status.CORRUPT_CRC
        raise MemberError(status, f"{entry.compressed_bytes} bytes stored where {entry.num_bytes} are declared")
    _check_stop(minimal_stop(entry), limit=limit, data_stop=data_stop)


def extract(
    entry: ZipEntry, *, window: bytes, window_start: int, limit: int, data_stop: int, fetch: Callable[[int, int], bytes]
) -> bytes:
    """The member's bytes, their checksum right. Raises MemberError.

    `window` holds the object's bytes from `window_start` on; `fetch(start, stop)` gets what a long local extra field
    has pushed out of it. `check_entry` has passed the entry.
    """
    header = entry.header_offset - window_start
    signature, *_, name_bytes, extra_bytes = _LOCAL.unpack_from(window, header)
    if signature != _LOCAL_SIGNATURE:
        raise MemberError(Status.UNDECODABLE, "the zip directory points to bytes that are no member")
    name_start = header + _LOCAL.size
    if window[name_start : name_start + name_bytes] != entry.raw_name:
        raise MemberError(Status.UNDECODABLE, "the zip directory points to a member of another name")
    data_start = window_start + name_start + name_bytes + extra_bytes
    stop = data_start + entry.compressed_bytes
    _check_stop(stop, limit=limit, data_stop=data_stop)
    if stop <= window_start + len(window):
        compressed = memoryview(window)[data_start - window_start : stop - window_start]
    else:
        compressed = memoryview(fetch(data_start, stop))
    data = bytes(compressed) if entry.method == _STORED else _inflate(compressed, num_bytes=entry.num_bytes)
    if zlib.crc32(data) != entry.crc:
        raise MemberError(Status.CORRUPT_CRC, "the bytes do not match their CRC-32 in the zip directory")
    return data


def _check_stop(stop: int, *, limit: int, data_stop: int) -> None:
    if stop > data_stop:
        raise MemberError(Status.TRUNCATED, "the member reaches beyond the archive's data")
    if stop > limit:
        raise MemberError(Status.UNDECODABLE, "the member overlaps the one behind it")


def _inflate(compressed: memoryview, *, num_bytes: int) -> bytes:
    """Inflates to exactly `num_bytes` bytes, holding one byte more at most: a zip bomb stops there."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(compressed, num_bytes + 1)
    except zlib.error as error:
        raise MemberError(Status.CORRUPT_CRC, f"the compressed bytes are damaged: {error}") from None
    # All compressed bytes that the directory declares were there, so a wrong length means damage, not truncation.
    if len(data) > num_bytes:
        raise MemberError(Status.CORRUPT_CRC, f"inflates to more than the declared {num_bytes} bytes")
    if len(data) < num_bytes or not inflater.eof:
        raise MemberError(Status.CORRUPT_CRC, f"inflates to {len(data)} of {num_bytes} declared bytes")
    return data
