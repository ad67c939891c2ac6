"""What every kind of archive offers, and what it needs from storage to do so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

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
class SliceEnd:
    """The members [start, stop) have been read, images or not: one slice, the unit of work, commit and resume."""

    start: int
    stop: int
    byte_range: tuple[int, int] | None = None
    """Of a stream: where the slice's bytes begin and end. That of the last slice ends with the archive."""


@dataclass(frozen=True)
class Part:
    """What one task reads of an archive. A kind's own subclass adds what locates it: few, picklable bytes."""

    start: int
    stop: int | None
    """None: up to the end of a stream, wherever that is."""

    is_stream: ClassVar[bool] = False
    """Whether one task has to read it from its start to its end."""

    @property
    def num_members(self) -> int:
        """How many entries the part has; 0 where only reading it tells."""
        return 0 if self.stop is None else self.stop - self.start


@dataclass(frozen=True)
class Missing:
    """What is still to be read of an archive."""

    ranges: tuple[tuple[int, int | None], ...]
    """Members [start, stop), ascending and apart; the last of a stream is open, stop = None, until its end is known."""
    offsets: Mapping[int, int] = field(default_factory=dict)
    """Of a stream: byte offsets of members, as the slices that were read before say."""


class Archive(Protocol):
    """Members in a fixed order. Everything raises ArchiveError where the archive itself cannot be read."""

    @property
    def num_members(self) -> int | None:
        """Entries of all kinds, images or not; None for a stream, which tells only at its end."""

    def members(self) -> Iterator[Member]:
        """All entries in archive order, streamed: memory does not grow with their number."""

    def parts(self, missing: Missing, *, slice_size: int) -> list[Part]:
        """Cuts what is missing into parts, each to be read by one task, in slices of at most `slice_size` members."""

    def read(self, part: Part, *, wanted: Callable[[Member], bool] | None = None) -> Iterator[RawMember | SliceEnd]:
        """The part's image candidates in archive order, and a SliceEnd behind each slice of it.

        Only members that are `wanted` are fetched. Needs no scan before: a part made by another process will do.
        Errors of the reader pass through; where the archive is damaged on the way, ArchiveError comes after all that
        could be read.
        """


def storable(text: str) -> str:
    """A name or URI as tables can store it: what is no UTF-8, which Python keeps as lone surrogates, becomes '?'."""
    return text.encode("utf-8", "replace").decode("utf-8")


def read_exactly(reader: RangeReader, start: int, stop: int) -> bytes:
    """The bytes [start, stop), none of them missing; an empty range costs no request."""
    if start == stop:
        return b""
    data = reader.read(start, stop)
    if len(data) != stop - start:
        raise ArchiveError(f"{reader.uri} gave {len(data)} bytes where {stop - start} were asked for at {start}.")
    return data


def cut_ranges(missing: Missing, *, slice_size: int, num_members: int) -> list[tuple[int, int]]:
    """Slices [start, stop) of at most `slice_size` members, in order; an open range ends with the archive.

    Raises ValueError unless the ranges are non-empty, ascending, apart and inside [0, num_members).
    """
    slices, previous = [], 0
    for start, given_stop in missing.ranges:
        stop = num_members if given_stop is None else given_stop
        if not previous <= start < stop <= num_members:
            raise ValueError(f"range [{start}, {stop}) must lie in [{previous}, {num_members}) and not be empty")
        slices += [(first, min(first + slice_size, stop)) for first in range(start, stop, slice_size)]
        previous = stop
    return slices
