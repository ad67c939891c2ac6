"""Images to measure with: drawn ones of any size and quality, and the real archive where it lies."""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import simplejpeg

from benchmarks.harness import Scale
from skinvae.images.synthetic import draw_lesion
from skinvae.records import CLASSES

SMALL_ARCHIVE = "ISIC2018_small.zip"
"""1,371 real images, 200x150."""


@functools.lru_cache
def drawn_jpegs(
    count: int, *, width: int, height: int, quality: int = 90, subsampling: str = "420"
) -> tuple[bytes, ...]:
    """Synthetic lesions as JPEGs; `subsampling` is of the chroma, as in '444'."""
    found = []
    for index in range(count):
        pixels = draw_lesion(
            CLASSES[index % len(CLASSES)], rng=np.random.default_rng(index), width=width, height=height
        )
        found.append(simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling=subsampling))
    return tuple(found)


def real_jpegs(scale: Scale, count: int) -> list[tuple[str, bytes]]:
    """The first `count` images of the small archive with their names, in its order; none where it is not there."""
    path = scale.isic(SMALL_ARCHIVE)
    if path is None:
        return []
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][:count]
        return [(Path(name).name, archive.read(name)) for name in names]


def named_jpegs(scale: Scale, count: int) -> tuple[list[tuple[str, bytes]], str]:
    """`count` images of 200x150 under names of their own, and what they are: real ones as far as there are any."""
    real = real_jpegs(scale, count)
    what = "real ISIC 2018 images" if real else "synthetic images"
    few = [data for _, data in real] or drawn_jpegs(min(count, 64), width=200, height=150)
    return [(f"{index:07}.jpg", few[index % len(few)]) for index in range(count)], f"{what} of 200x150"


def zip_of(members: Sequence[tuple[str, bytes]]) -> bytes:
    """The members in a zip, stored as ISIC's are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()
