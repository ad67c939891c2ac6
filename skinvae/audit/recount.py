"""Count again which members of an archive are images, by the code that a job reads archives with.

A job's own reading decides: it is asked for the members that it would fetch, and gets only those whose bytes have to
tell whether they are images at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from skinvae.errors import ArchiveError, InputError
from skinvae.images.archives import (
    Archive,
    Candidacy,
    ImageArchive,
    Member,
    Missing,
    ParquetArchive,
    RawMember,
    candidacy,
)
from skinvae.storage.filesystem import Location
from skinvae.storage.member_bits import MemberBits
from skinvae.storage.pixel_table import PreparedArchive, open_prepared
from skinvae.storage.ranges import Ranges
from skinvae.storage.sources import Source, open_part, open_source

_SLICE_SIZE = 8192
_CHUNK = 65_536
"""Ordinals that are gathered before they become bits."""


@dataclass(frozen=True)
class ArchiveToCount:
    """An archive as a plan, or a row, names it."""

    location: Location
    source_id: str
    prepared: str | None
    images_column: str | None
    max_bytes: int


@dataclass(frozen=True)
class Recount:
    """What an archive holds by now."""

    is_same: bool
    """Whether it still is the one that was scored; if not, nothing was counted."""
    images: MemberBits
    damage: str = ""
    """What is wrong with it, if it cannot be read to its end."""


class Recounter:
    """Opens archives and counts their images."""

    def __init__(self, archive: ArchiveToCount, *, on_members: Callable[[int], None]) -> None:
        self._asked = archive
        self._on_members = on_members
        self._images = MemberBits()
        self._waiting: list[int] = []
        self._position = 0

    def count(self) -> Recount:
        """Raises InputError if the archive cannot be opened, or storage refuses."""
        source, archive = self._opened
        if source.source_id != self._asked.source_id:
            return Recount(is_same=False, images=self._images)
        damage = ""
        try:
            self._walk(source, archive)
        except ArchiveError as error:
            damage = str(error)
        self._flush()
        return Recount(is_same=True, images=self._images, damage=damage)

    @cached_property
    def _opened(self) -> tuple[Source, Archive]:
        asked = self._asked
        if asked.prepared is None:
            return open_source(asked.location, max_bytes=asked.max_bytes, images_column=asked.images_column)
        for one in open_prepared(Location(asked.prepared, asked.location.settings)):
            if one.source.source_id == asked.source_id:
                return one.source, one.archive
        raise InputError(f"'{asked.prepared}' no longer holds '{asked.location}': it cannot be counted again")

    def _walk(self, source: Source, archive: Archive) -> None:
        if isinstance(archive, ParquetArchive | ImageArchive):
            # Every row is an image, good or bad.
            self._images = MemberBits.of(Ranges([(0, archive.num_members)]))
            self._move_to(archive.num_members)
        elif isinstance(archive, PreparedArchive):
            for member in archive.members():
                self._note(member.index)
        else:
            stop = archive.num_members
            if stop == 0:
                return
            for part in archive.parts(Missing(((0, stop),)), slice_size=_SLICE_SIZE):
                # Opened anew, as by a job's task: an archive that lists its parts may hold all of its directory.
                of_part = open_part(source, part, max_bytes=self._asked.max_bytes)
                for read in of_part.read(part, wanted=self._is_to_be_read):
                    if isinstance(read, RawMember):
                        self._note(read.index)
                if part.stop is not None:
                    self._move_to(part.stop)

    def _is_to_be_read(self, member: Member) -> bool:
        """Note what is an image by its name; only the bytes tell of the rest."""
        if candidacy(member.name) is not Candidacy.IMAGE:
            return True
        self._note(member.index)
        return False

    def _note(self, index: int) -> None:
        self._waiting.append(index)
        if len(self._waiting) == _CHUNK:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._move_to(max(self._waiting) + 1)
            self._images.add(np.array(self._waiting, np.int64))
            self._waiting = []

    def _move_to(self, position: int) -> None:
        if position > self._position:
            self._on_members(position - self._position)
            self._position = position
