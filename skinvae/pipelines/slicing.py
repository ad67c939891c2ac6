"""Plan: archives -> the parts of them that are still to be read, each with what a worker needs to read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import compress
from pathlib import PurePosixPath

from skinvae.config import Config
from skinvae.errors import InputError, UsageError
from skinvae.images.archives import Archive, Candidacy, FolderArchive, Member, Missing, Part, SliceEnd, candidacy
from skinvae.images.archives.candidates import names_an_archive
from skinvae.logs import note
from skinvae.storage.done import Done
from skinvae.storage.expand import expand
from skinvae.storage.pixel_table import Preparation, is_prepared, open_prepared, require_same_preparation
from skinvae.storage.ranges import Ranges
from skinvae.storage.sources import Source, open_sources

_NUM_LOOKUPS_AT_ONCE = 16


@dataclass(frozen=True)
class OpenedArchive:
    """One archive of the job, its directory located."""

    source: Source
    archive: Archive
    lack: InputError | None = None
    """Of a prepared archive that is not complete: what is to be said when the rest is done."""
    only: Ranges | None = None
    """The members that the job is about, where those are not all."""
    wanted: Ranges | None = None
    """Of these, the ones whose images are read, where those are not all: the slices cover the others, without a row."""

    def num_members(self, done: Done) -> int | None:
        """All members; of a stream they are known once its last slice is done, and None before."""
        return done.num_members(self.archive.num_members, num_bytes=self.source.num_bytes)

    def missing(self, done: Done) -> Missing:
        """What is still to be read."""
        if self.only is not None:
            return Missing(tuple(self.only.minus(done.members)), done.offsets)
        num_members = self.num_members(done)
        if num_members is not None:
            return Missing(tuple(done.members.gaps(0, num_members)), done.offsets)
        return Missing((*done.members.gaps(0, done.members.stop), (done.members.stop, None)), done.offsets)

    def num_bytes_unread(self, done: Done) -> int:
        """Of a stream whose end is not known: the bytes behind what is done; 0 for all else."""
        if self.only is not None:
            return 0
        return done.num_bytes_unread(self.archive.num_members, num_bytes=self.source.num_bytes)


@dataclass(frozen=True)
class ArchivePart:
    """A part of one archive, ready to be shipped to a worker."""

    source: Source
    part: Part
    chosen: Ranges | None = None
    """The members whose images are read, where those are not all."""

    @property
    def wanted(self) -> Callable[[Member], bool] | None:
        """What `Archive.read` asks of each member."""
        chosen = self.chosen
        return None if chosen is None else lambda member: chosen.intersects(member.index, member.index + 1)


@dataclass(frozen=True)
class Slice:
    """The members [start, stop) of one archive, read."""

    source: Source
    end: SliceEnd

    @property
    def num_members(self) -> int:
        return self.end.stop - self.end.start


def open_archives(patterns: Sequence[str], *, config: Config, preparation: Preparation) -> list[OpenedArchive]:
    """Open every archive that a command names.

    Raises InputError, and UsageError if one is named twice, or prepared in another way than `preparation` says.
    """
    locations = [location for pattern in patterns for location in expand(pattern, config.storage)]
    with ThreadPoolExecutor(max_workers=_NUM_LOOKUPS_AT_ONCE) as pool:
        prepared = list(compress(locations, pool.map(is_prepared, locations)))
    others = [location for location in locations if location not in prepared]
    max_bytes, images_column = preparation.decode.max_bytes, config.archives.images_column
    opened = [OpenedArchive(*one) for one in open_sources(others, max_bytes=max_bytes, images_column=images_column)]
    for location in prepared:
        require_same_preparation(location, preparation)
        opened += [OpenedArchive(one.source, one.archive, one.lack) for one in open_prepared(location)]
    seen: set[str] = set()
    for one in opened:
        if one.source.source_id in seen:
            raise UsageError(f"'{one.source.uri}' is given twice: name every archive once")
        seen.add(one.source.source_id)
    for one in opened:
        if isinstance(one.archive, FolderArchive):
            _check_for_archives(one.source.uri, one.archive)
    return opened


def _check_for_archives(uri: str, folder: FolderArchive) -> None:
    """Archives in a folder are passed over, which hardly is what was meant by naming it."""
    passed_over = [member.name for member in folder.members() if names_an_archive(member.name)]
    if not passed_over:
        return
    found = f"'{uri}' holds {len(passed_over):,} archives, such as '{passed_over[0]}', which are not looked into"
    advice = f"name them too, as in '{uri}/*{PurePosixPath(passed_over[0]).suffix}'"
    if all(candidacy(member.name) is Candidacy.SKIPPED for member in folder.members()):
        raise InputError(f"{found}, and no image: {advice}")
    note(f"{found}: {advice}")


def missing_parts(
    opened: Iterable[OpenedArchive], *, slice_size: int, done: Mapping[str, Done] | None = None
) -> list[ArchivePart]:
    """What is to be read of each archive, in slices of at most `slice_size` members; `done` is by source_id."""
    parts = []
    for one in opened:
        missing = one.missing((done or {}).get(one.source.source_id, Done()))
        if missing.ranges:
            cut = one.archive.parts(missing, slice_size=slice_size)
            parts += [ArchivePart(one.source, part, _chosen(one.wanted, part)) for part in cut]
    return parts


def _chosen(wanted: Ranges | None, part: Part) -> Ranges | None:
    if wanted is None:
        return None
    return Ranges(wanted.within(part.start, wanted.stop if part.stop is None else part.stop))
