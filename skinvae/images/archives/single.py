"""One image file as an archive of one member, so that `skinvae score photo.jpg` works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from skinvae.images.archives.base import (
    Member,
    Missing,
    Part,
    RangeReader,
    RawMember,
    SliceEnd,
    cut_ranges,
    read_exactly,
    storable,
)
from skinvae.records import Status


@dataclass(frozen=True)
class ImagePart(Part):
    """The image."""


class ImageArchive:
    """One image; its name is the file's."""

    num_members = 1

    def __init__(self, reader: RangeReader, *, max_bytes: int) -> None:
        self._reader = reader
        self._max_bytes = max_bytes

    def members(self) -> Iterator[Member]:
        name = storable(self._reader.uri.rsplit("/", 1)[-1])
        yield Member(0, name, self._reader.size)

    def parts(self, missing: Missing, *, slice_size: int) -> list[Part]:
        return [ImagePart(*ends) for ends in cut_ranges(missing, slice_size=slice_size, num_members=1)]

    def read(self, part: Part, *, wanted: Callable[[Member], bool] | None = None) -> Iterator[RawMember | SliceEnd]:
        assert isinstance(part, ImagePart)
        for member in self.members():
            if wanted is None or wanted(member):
                yield self._raw_member(member)
        yield SliceEnd(0, 1)

    def _raw_member(self, member: Member) -> RawMember:
        if self._reader.size > self._max_bytes:
            reason = f"{self._reader.size} bytes, more than the {self._max_bytes} allowed"
            return RawMember(0, member.name, member.num_bytes, None, Status.TOO_LARGE, reason)
        data = read_exactly(self._reader, 0, self._reader.size)
        return RawMember(0, member.name, member.num_bytes, data, Status.OK, None)
