"""Whatever is an image in a program (an array, Pillow's image, a file's bytes, path or URI) -> pixels of one size."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skinvae.errors import UsageError
from skinvae.images.decode import Decoded, DecodeSettings, decode_picture, refused
from skinvae.images.isolation import decode_isolated
from skinvae.records import Status
from skinvae.storage.filesystem import Location, StorageSettings

Picture: TypeAlias = "NDArray[np.uint8] | Image.Image | bytes | str | os.PathLike[str]"
"""RGB pixels (height, width, 3), an image of Pillow, the bytes of a file, or the path or s3:// URI of one."""


def decode_pictures(
    pictures: Iterable[Picture], *, size: int, settings: DecodeSettings, storage: StorageSettings | None = None
) -> Iterator[Decoded]:
    """One answer for each picture, in order, as a job would give it: files are decoded in a process of their own.

    Raises UsageError for what is no picture, InputError where storage refuses; a file that is not there is `missing`.
    """

    def item(picture: Picture) -> tuple[Decoded | None, bytes | None]:
        if isinstance(picture, np.ndarray):
            _require_rgb(picture)
            return decode_picture(picture, size=size, settings=settings), None
        if isinstance(picture, Image.Image):
            return decode_picture(picture, size=size, settings=settings), None
        if isinstance(picture, bytes):
            return None, picture
        if not isinstance(picture, str | os.PathLike):
            raise UsageError(
                f"an image is a {type(picture).__name__}: give uint8 arrays (height, width, 3), images of Pillow, "
                "bytes of files, or their paths or s3:// URIs"
            )
        data = Location.parse(os.fspath(picture), storage).read_head(settings.max_bytes + 1)
        return (refused(Status.MISSING, "no file or object is there"), None) if data is None else (None, data)

    for known, decoded in decode_isolated(map(item, pictures), size=size, settings=settings):
        answer = known if decoded is None else decoded
        assert answer is not None
        yield answer


def _require_rgb(array: NDArray[np.uint8]) -> None:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise UsageError(
            f"an image is an array of {array.dtype} with shape {array.shape}: it has to be RGB, uint8 from 0 to 255, "
            "(height, width, 3)"
        )
