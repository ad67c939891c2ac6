"""The headers of a tar, one member after the other, in bounded memory; whatever is no header is damage, never the end.

Formats: POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar 1.35 manual, "Basic Tar Format".
Single blocks are parsed by tarfile.TarInfo.frombuf. TarFile itself takes a damaged header for the archive's end, and
holds extension headers of any size in memory.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from skinvae.images.archives.tar.extensions import EXTENSION_TYPES, MAX_MEMBER_BYTES, Extensions

BLOCK_BYTES = 512
_ZEROS = bytes(BLOCK_BYTES)
_MAX_EXTENSION_BYTES = 1 << 20


class ByteStream(Protocol):
    """Bytes that can only be read forward."""

    @property
    def position(self) -> int: ...

    @property
    def damage(self) -> str | None: ...

    def read(self, num_bytes: int) -> bytes: ...

    def skip(self, num_bytes: int) -> bool: ...


_ADVICE = "the members behind it are lost, so get the archive anew"


class TarDamage(Exception):
    """Nothing can be read from `offset` on."""

    def __init__(self, offset: int, reason: str, *, advice: str = _ADVICE) -> None:
        super().__init__(reason)
        self.offset = offset
        self.reason = reason
        self.advice = advice


class TarKind(Enum):
    """What a header stands for."""

    FILE = "file"
    HARD_LINK = "hard link"
    SYMBOLIC_LINK = "symbolic link"
    SPARSE = "sparse file"
    CONTINUATION = "continuation of a file that another volume begins"
    NO_FILE = "directory, device, pipe or label"


_KINDS = {
    tarfile.LNKTYPE: TarKind.HARD_LINK,
    tarfile.SYMTYPE: TarKind.SYMBOLIC_LINK,
    tarfile.CHRTYPE: TarKind.NO_FILE,
    tarfile.BLKTYPE: TarKind.NO_FILE,
    tarfile.DIRTYPE: TarKind.NO_FILE,
    tarfile.FIFOTYPE: TarKind.NO_FILE,
    tarfile.GNUTYPE_SPARSE: TarKind.SPARSE,
    b"D": TarKind.NO_FILE,  # GNU: a directory with the list of its files as data
    b"V": TarKind.NO_FILE,  # GNU: a volume's label
    b"M": TarKind.CONTINUATION,  # GNU
}  # all others are files, known or not, as POSIX says under typeflag
_TYPES_WITHOUT_DATA = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})  # whatever their size says


@dataclass(frozen=True)
class TarEntry:
    """One member; offsets count from the start of the uncompressed tar."""

    start: int  # of its first header, extensions included
    stop: int  # behind its data and their padding
    name: str
    kind: TarKind
    num_bytes: int | None  # None of a sparse file, which stores fewer than it has


def is_tar(head: bytes) -> bool:
    """Whether an uncompressed object that begins with `head` (512 bytes or more) begins as a tar does."""
    try:
        tarfile.TarInfo.frombuf(head[:BLOCK_BYTES], "utf-8", "replace")
    except tarfile.HeaderError:
        return False
    return True


def walk_entries(stream: ByteStream) -> Iterator[TarEntry]:
    """Each member, the stream at its data, of which the caller may read what it likes. Raises TarDamage.

    Ends with the stream: behind blocks of zeros, which mark the end, members of a tar that was appended may follow.
    """
    while (entry := _next_entry(stream)) is not None:
        yield entry
        if not stream.skip(entry.stop - stream.position):
            raise _cut_off(stream, stream.position)


def _next_entry(stream: ByteStream) -> TarEntry | None:
    start, extensions, at_zeros = stream.position, Extensions(), False
    while True:
        block = stream.read(BLOCK_BYTES)
        at_end = len(block) < BLOCK_BYTES and stream.damage is None
        if at_end and extensions.are_void and at_zeros and not any(block):
            return None
        if at_end and extensions.are_void and not block:
            # Cut off at a member's border it would look just so, and nobody would miss what is missing.
            reason = "it ends without an end mark, so that members may be missing"
            raise TarDamage(start, reason, advice="get it anew, or write it again with its end")
        if len(block) < BLOCK_BYTES:
            raise _cut_off(stream, start)
        if block == _ZEROS:
            if not extensions.are_void:
                raise TarDamage(start, "an extension header has no member behind it")
            start, at_zeros = stream.position, True
            continue
        header = _parse_header(block, start)
        if header.type not in EXTENSION_TYPES:
            return _entry(stream, header, block=block, start=start, extensions=extensions)
        body = _extension_body(stream, header.size, start)
        try:
            extensions.add(header.type, body)
        except ValueError as error:
            raise TarDamage(start, str(error)) from None


def _cut_off(stream: ByteStream, offset: int) -> TarDamage:
    return TarDamage(offset, stream.damage or "it ends inside a member")


def _parse_header(block: bytes, start: int) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except tarfile.HeaderError as error:
        raise TarDamage(start, f"there is no tar header where one must be ({error})") from None
    if not 0 <= header.size < MAX_MEMBER_BYTES:
        raise TarDamage(start, f"a header claims a member of {header.size} bytes")
    return header


def _extension_body(stream: ByteStream, num_bytes: int, start: int) -> bytes:
    if num_bytes > _MAX_EXTENSION_BYTES:
        raise TarDamage(start, f"a member's name and attributes claim {num_bytes} bytes")
    body = stream.read(num_bytes)
    if len(body) < num_bytes or not stream.skip(-num_bytes % BLOCK_BYTES):
        raise _cut_off(stream, start)
    return body


def _entry(
    stream: ByteStream, header: tarfile.TarInfo, *, block: bytes, start: int, extensions: Extensions
) -> TarEntry:
    kind = TarKind.SPARSE if extensions.is_sparse else _KINDS.get(header.type, TarKind.FILE)
    stored_bytes = header.size if extensions.num_bytes is None else extensions.num_bytes
    if header.type in _TYPES_WITHOUT_DATA:
        stored_bytes = 0
    if header.type == tarfile.GNUTYPE_SPARSE:
        _skip_sparse_map(stream, is_extended=block[482] != 0, start=start)
    stop = stream.position + stored_bytes + -stored_bytes % BLOCK_BYTES
    num_bytes = None if kind is TarKind.SPARSE else stored_bytes
    name = extensions.name or header.name
    return TarEntry(start, stop, name.rstrip("/") if header.isdir() else name, kind, num_bytes)


def _skip_sparse_map(stream: ByteStream, *, is_extended: bool, start: int) -> None:
    """Old GNU sparse files put the rest of their map into blocks in front of the data; byte 504 announces the next."""
    while is_extended:
        block = stream.read(BLOCK_BYTES)
        if len(block) < BLOCK_BYTES:
            raise _cut_off(stream, start)
        is_extended = block[504] != 0
