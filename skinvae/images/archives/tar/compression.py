"""Compressed streams: told by their first bytes, inflated a little at a time, damage and bombs found on the way."""

from __future__ import annotations

import bz2
import zlib

import pyarrow as pa

from skinvae.images.archives.range_stream import RangeStream

_CHUNK_BYTES = 1 << 20
_FREE_BYTES = 1 << 30
_MAX_RATIO = 200
"""Images hardly shrink and empty space in a tar is small: only bombs inflate this much for more than _FREE_BYTES."""


def compression_of(head: bytes) -> str | None:
    """The compression, in pyarrow's spelling, that an object's first bytes claim; None for none of those read here."""
    if head.startswith(b"\x1f\x8b\x08"):  # RFC 1952, 2.3.1
        return "gzip"
    # RFC 8878, 3.1: a frame, or a skippable one in front as parallel compressors write it.
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        return "zstd"
    if head.startswith(b"BZh") and head[4:10] == b"\x31\x41\x59\x26\x53\x59":
        return "bz2"
    return None


def inflate_head(head: bytes, *, compression: str, num_bytes: int) -> bytes:
    """The first inflated bytes of a stream that begins with `head`; none where there are fewer or `head` is damaged."""
    try:
        # zlib and bz2 stop where they are told to: a fault behind that, in a wrong checksum, shows itself in reading.
        if compression == "gzip":
            return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(head, num_bytes)
        if compression == "bz2":
            return bz2.BZ2Decompressor().decompress(head, num_bytes)
        with pa.CompressedInputStream(pa.BufferReader(head), compression) as stream:
            inflated: bytes = stream.read(num_bytes)
    except (OSError, EOFError, zlib.error, pa.ArrowException):
        return b""
    return inflated


class InflatedStream:
    """The inflated bytes of a stream, all its gzip members or zstd frames in a row; memory is a few megabytes.

    What is damaged never raises: reading ends there, and `damage` tells why. Of a stream that is cut off all is read
    that can be inflated; corrupt bytes take up to 64 KB of compressed ones in front of them along, which no checksum
    vouches for. Errors of the reader pass through.
    """

    def __init__(self, compressed: RangeStream, *, compression: str) -> None:
        self._source = _Source(compressed)
        self._compressed = compressed
        self._compression = compression
        self._inflated = pa.CompressedInputStream(pa.PythonFile(self._source, mode="r"), compression)
        self._position = 0
        self._damage: str | None = None

    @property
    def position(self) -> int:
        """The next byte's offset in the inflated stream."""
        return self._position

    @property
    def compressed_position(self) -> int:
        """How many bytes of the compressed object were taken so far."""
        return self._compressed.position

    @property
    def damage(self) -> str | None:
        """Why there is nothing more to read; None while there is, and at a sound end."""
        return self._damage

    def read(self, num_bytes: int) -> bytes:
        """The next bytes; fewer only at the end or at damage."""
        pieces, missing = [], num_bytes
        # Never more than is asked for: pyarrow drops what it inflated in the call that meets the damage.
        while missing and (piece := self._inflate(min(missing, _CHUNK_BYTES))):
            pieces.append(piece)
            missing -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def skip(self, num_bytes: int) -> bool:
        """Passes over bytes; False where the stream ends before."""
        while num_bytes and (piece := self._inflate(min(num_bytes, _CHUNK_BYTES))):
            num_bytes -= len(piece)
        return num_bytes == 0

    def _inflate(self, num_bytes: int) -> bytes:
        if self._damage is not None:
            return b""
        try:
            piece: bytes = self._inflated.read(num_bytes)
        except (OSError, pa.ArrowException) as error:
            if self._source.failed:
                raise
            self._damage = f"its {self._compression} stream is cut off or corrupt ({error})"
            return b""
        self._position += len(piece)
        if self._position > max(_FREE_BYTES, _MAX_RATIO * self._compressed.position):
            self._damage = f"it inflates to more than {_MAX_RATIO} times its compressed size, as only a bomb does"
            return b""
        return piece


class _Source:
    """The file interface that pyarrow reads from; remembers whether an error came from the reader below."""

    closed = False

    def __init__(self, stream: RangeStream) -> None:
        self._stream = stream
        self.failed = False

    def read(self, num_bytes: int) -> bytes:
        self.failed = True
        data = self._stream.read(num_bytes)
        self.failed = False
        return data

    def close(self) -> None:
        """The reader below belongs to whoever made it."""
