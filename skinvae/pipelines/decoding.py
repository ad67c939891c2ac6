"""The decode stage that train and score share: a slice of an archive -> uint8 images and what is known of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skinvae.images.archives import Member
from skinvae.images.decode import Decoded, DecodeSettings, decode
from skinvae.pipelines.slicing import Slice
from skinvae.records import Status
from skinvae.storage.sources import open_part


@dataclass(frozen=True)
class DecodedMember:
    """One image of an archive, decoded or refused with a reason."""

    name: str
    index: int
    num_bytes: int | None
    image: Decoded


@dataclass(frozen=True)
class DecodedSlice:
    """The images of one slice."""

    members: list[DecodedMember]

    def stacked_pixels(self, *, size: int) -> NDArray[np.uint8]:
        """The images with status ok, in order: uint8 (B, size, size, 3)."""
        pixels = [one.image.pixels for one in self.members if one.image.pixels is not None]
        return np.stack(pixels) if pixels else np.empty((0, size, size, 3), np.uint8)


def decode_slice(
    slice_: Slice, *, size: int, settings: DecodeSettings, wanted: Callable[[Member], bool] | None = None
) -> DecodedSlice:
    """Read and decode the slice's images, or only the `wanted` ones; what cannot be decoded carries its reason."""
    return DecodedSlice(list(_decode_members(slice_, size=size, settings=settings, wanted=wanted)))


def _decode_members(
    slice_: Slice, *, size: int, settings: DecodeSettings, wanted: Callable[[Member], bool] | None
) -> Iterator[DecodedMember]:
    archive = open_part(slice_.source, slice_.part, max_bytes=settings.max_bytes)
    for raw in archive.read(slice_.part, wanted=wanted):
        if raw.data is None:
            image = Decoded(pixels=None, width=None, height=None, status=raw.status, error=raw.error)
        else:
            image = decode(raw.data, size=size, settings=settings)
        assert (image.status is Status.OK) == (image.pixels is not None)
        yield DecodedMember(raw.name, raw.index, raw.num_bytes, image)
