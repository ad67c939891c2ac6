"""Archives in memory for tests: a reader that counts, and short ways to cut and read."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from skinvae.images.archives import Archive, Member, Missing, Part, RawMember, SliceEnd


class BytesReader:
    """Random access to bytes in memory, counting what it was asked for."""

    def __init__(self, data: bytes, uri: str = "memory.zip") -> None:
        self.uri = uri
        self.data = data
        self.size = len(data)
        self.reads: list[tuple[int, int]] = []

    def read(self, start: int, stop: int) -> bytes:
        assert 0 <= start < stop <= self.size
        self.reads.append((start, stop))
        return self.data[start:stop]

    @property
    def num_bytes(self) -> int:
        return sum(stop - start for start, stop in self.reads)


def parts_of(
    archive: Archive, ranges: Iterable[tuple[int, int | None]] | None = None, *, slice_size: int = 1000
) -> list[Part]:
    """The parts of some ranges of members; without any, of all members."""
    if ranges is None:
        ranges = [(0, archive.num_members)] if archive.num_members else []
    return archive.parts(Missing(tuple(ranges)), slice_size=slice_size)


def members_of(archive: Archive, part: Part, *, wanted: Callable[[Member], bool] | None = None) -> list[RawMember]:
    """What the part holds, without the ends of its slices."""
    return [item for item in archive.read(part, wanted=wanted) if isinstance(item, RawMember)]


def slices_of(archive: Archive, part: Part) -> list[tuple[int, int]]:
    """The slices that reading the part reports."""
    return [(item.start, item.stop) for item in archive.read(part) if isinstance(item, SliceEnd)]


def read_all(archive: Archive, *, size: int = 1000) -> list[RawMember]:
    """Every image candidate, read in slices of `size` members."""
    return [raw for part in parts_of(archive, slice_size=size) for raw in members_of(archive, part)]
