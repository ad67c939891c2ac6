"""What every kind of archive offers, and what it needs from storage to do so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from skinvae.errors import ArchiveError
from skinvae.records import Status


class RangeReader(Protocol):
    """Random access to one object's bytes. It is never called from two threads at once."""

    @property
    def uri(self) -> str: ...

    @property
    def size(self) -> int:
        """Bytes in the object."""

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop), all of them, or an error; 0 <= start < stop <= size."""


@dataclass(frozen=True)
class ObjectEntry:
    """One object of a folder or prefix, as storage listed it."""

    name: str  # path below the prefix, separated by '/'
    num_bytes: int
    version: str  # ETag, or size and mtime


@dataclass(frozen=True)
class ObjectListing:
    """A folder or prefix. To read parts, only `uri` and `read_object` are needed: a part carries its own entries.

    `read_object` is called from several threads at once. It gets the entry, not only the name,
    so that storage can insist on the version that was listed.
    """

    uri: str
    entries: Sequence[ObjectEntry]
    read_object: Callable[[ObjectEntry], bytes]


@dataclass(frozen=True)
class Member:
    """One entry of an archive, image or not; `index` counts all entries, so it depends on no filter."""

    index: int
    name: str
    num_bytes: int | None


@dataclass(frozen=True)
class RawMember:
    """One image candidate with its bytes, or with the reason why there are none."""

    index: int
    name: str
    num_bytes: int | None  # size of the encoded image, where the archive says it
    data: bytes | None
    status: Status  # OK if and only if `data` is there
    error: str | None


@dataclass(frozen=True)
class Part:
    """The members [start, stop) of an archive. A kind's own subclass adds what locates them: few, picklable bytes."""

    start: int
    stop: int


class Archive(Protocol):
    """Members in a fixed order. Everything raises ArchiveError where the archive itself cannot be read."""

    @property
    def num_members(self) -> int:
        """Entries of all kinds, images or not."""

    def members(self) -> Iterator[Member]:
        """All entries in archive order, streamed: memory does not grow with their number."""

    def parts(self, ranges: Sequence[tuple[int, int]]) -> list[Part]:
        """Locates the slices [start, stop) in one scan of the directory; `ranges` ascend and do not overlap."""

    def read(self, part: Part, *, wanted: Callable[[Member], bool] | None = None) -> Iterator[RawMember]:
        """The part's image candidates in archive order; only those that are `wanted` are fetched.

        Needs no scan before: a part made by another process will do. Errors of the reader pass through.
        """


def read_exactly(reader: RangeReader, start: int, stop: int) -> bytes:
    """The bytes [start, stop), none of them missing; an empty range costs no request."""
    if start == stop:
        return b""
    data = reader.read(start, stop)
    if len(data) != stop - start:
        raise ArchiveError(f"{reader.uri} gave {len(data)} bytes where {stop - start} were asked for at {start}.")
    return data


def check_ranges(ranges: Sequence[tuple[int, int]], *, num_members: int) -> None:
    """Raises ValueError unless the ranges are non-empty, ascending, apart and inside [0, num_members)."""
    previous = 0
    for start, stop in ranges:
        if not previous <= start < stop <= num_members:
            raise ValueError(f"range [{start}, {stop}) must lie in [{previous}, {num_members}) and not be empty")
        previous = stop
