"""Plan: archives -> the slices of members that are still to be done, each with what a worker needs to read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from skinvae.errors import UsageError
from skinvae.images.archives import Archive, Part
from skinvae.storage.filesystem import Location
from skinvae.storage.ranges import Ranges
from skinvae.storage.sources import Source, open_source


@dataclass(frozen=True)
class OpenedArchive:
    """One archive of the job, its directory located."""

    source: Source
    archive: Archive


@dataclass(frozen=True)
class Slice:
    """A part of one archive, ready to be shipped to a worker."""

    source: Source
    part: Part

    @property
    def num_members(self) -> int:
        return self.part.stop - self.part.start


def open_archives(locations: Sequence[Location], *, max_bytes: int) -> list[OpenedArchive]:
    """Open every archive of a command. Raises UsageError if one is named twice."""
    opened = [OpenedArchive(*open_source(location, max_bytes=max_bytes)) for location in locations]
    seen: dict[str, str] = {}
    for one in opened:
        if one.source.source_id in seen:
            raise UsageError(f"'{one.source.uri}' is given twice: name every archive once")
        seen[one.source.source_id] = one.source.uri
    return opened


def plan_slices(
    opened: Iterable[OpenedArchive], *, slice_size: int, covered: Callable[[Source], Ranges] = lambda _: Ranges()
) -> list[Slice]:
    """Cut what `covered` leaves of each archive into slices of at most `slice_size` members, in archive order."""
    return [
        Slice(one.source, part)
        for one in opened
        for part in one.archive.parts(covered(one.source).gaps(0, one.archive.num_members).cut(slice_size))
    ]
