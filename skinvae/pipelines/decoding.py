"""The stages that train and score share: a part of an archive -> its members' bytes -> uint8 images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skinvae.errors import ArchiveError, InputError, SourceChanged
from skinvae.images.archives import Member, RawMember, SliceEnd
from skinvae.images.decode import Decoded, DecodeSettings
from skinvae.images.isolation import decode_isolated
from skinvae.pipelines.slicing import ArchivePart, Slice
from skinvae.pipelines.stage_times import Stage, StageClock
from skinvae.records import Status
from skinvae.storage.pixel_table import PreparedArchive, PreparedMember, PreparedPart
from skinvae.storage.sources import Source, open_part

Wanted = Callable[[Member], bool]


@dataclass(frozen=True)
class DecodedMember:
    """One image of an archive, decoded or refused with a reason."""

    name: str
    index: int
    num_bytes: int | None
    image: Decoded


@dataclass(frozen=True)
class RawSlice:
    """The image candidates of one slice, with their bytes."""

    slice: Slice
    members: list[RawMember]


@dataclass(frozen=True)
class DecodedSlice:
    """The images of one slice."""

    slice: Slice
    members: list[DecodedMember]

    def stacked_pixels(self, *, size: int) -> NDArray[np.uint8]:
        """The images with status ok, in order: uint8 (B, size, size, 3)."""
        pixels = [one.image.pixels for one in self.members if one.image.pixels is not None]
        return np.stack(pixels) if pixels else np.empty((0, size, size, 3), np.uint8)


@dataclass(frozen=True)
class Unreadable:
    """Why the rest of a part cannot be read. Other archives are none the worse for it."""

    source: Source
    error: InputError


def read_slices(part: ArchivePart, *, settings: DecodeSettings, clock: StageClock) -> Iterator[RawSlice | Unreadable]:
    """The part's slices, not decoded: for streams, whose decoding other tasks share."""
    members: list[RawMember] = []
    try:
        for item in clock.measured_items(Stage.STREAM, _read(part, settings=settings, wanted=part.wanted)):
            if isinstance(item, SliceEnd):
                yield RawSlice(Slice(part.source, item), members)
                members = []
            else:
                members.append(item)
    except (ArchiveError, SourceChanged) as error:
        yield Unreadable(part.source, error)


def decode_slices(
    part: ArchivePart,
    *,
    size: int,
    settings: DecodeSettings,
    wanted: Wanted | None = None,
    clock: StageClock | None = None,
) -> Iterator[DecodedSlice | Unreadable]:
    """Read and decode the part's images, or only the `wanted` ones; what cannot be decoded carries its reason."""
    clock = clock or StageClock()
    members: list[DecodedMember] = []
    try:
        read = clock.measured_items(Stage.READ, _read(part, settings=settings, wanted=wanted))
        for item in clock.measured_items(Stage.DECODE, _decoded(read, size=size, settings=settings)):
            if isinstance(item, SliceEnd):
                yield DecodedSlice(Slice(part.source, item), members)
                members = []
            else:
                members.append(item)
    except (ArchiveError, SourceChanged) as error:
        yield Unreadable(part.source, error)


def decode_slice(raw: RawSlice, *, size: int, settings: DecodeSettings) -> DecodedSlice:
    """Decode what `read_slices` read."""
    decoded = _decoded(raw.members, size=size, settings=settings)
    return DecodedSlice(raw.slice, [one for one in decoded if isinstance(one, DecodedMember)])


def _read(part: ArchivePart, *, settings: DecodeSettings, wanted: Wanted | None) -> Iterator[RawMember | SliceEnd]:
    if isinstance(part.part, PreparedPart):
        yield from PreparedArchive(part.part.table).read(part.part, wanted=wanted)
    else:
        archive = open_part(part.source, part.part, max_bytes=settings.max_bytes)
        yield from archive.read(part.part, wanted=wanted)


def _decoded(
    items: Iterable[RawMember | SliceEnd], *, size: int, settings: DecodeSettings
) -> Iterator[DecodedMember | SliceEnd]:
    for item, decoded in decode_isolated(((item, _encoded(item)) for item in items), size=size, settings=settings):
        if isinstance(item, SliceEnd):
            yield item
            continue
        image = decoded or _known_without_decoding(item, size=size)
        assert (image.status is Status.OK) == (image.pixels is not None)
        yield DecodedMember(item.name, item.index, item.num_bytes, image)


def _encoded(item: RawMember | SliceEnd) -> bytes | None:
    return None if isinstance(item, SliceEnd | PreparedMember) else item.data


def _known_without_decoding(raw: RawMember, *, size: int) -> Decoded:
    if isinstance(raw, PreparedMember):
        pixels = None if raw.data is None else np.frombuffer(raw.data, np.uint8).reshape(size, size, 3)
        return Decoded(pixels, raw.width, raw.height, raw.status, raw.error)
    return Decoded(pixels=None, width=None, height=None, status=raw.status, error=raw.error)
