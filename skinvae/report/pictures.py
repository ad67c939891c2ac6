"""Pictures of the report as data URIs: images, and maps of the error of each pixel on one colour scale."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOURS = mpl.colormaps["inferno"]
"""Perceptually even, told apart with any colour vision and in grey."""

_CLIPPED_SHARE = 0.005
"""Of all pixels: the worst few would leave all others dark."""
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class ErrorScale:
    """The one colour scale of a report."""

    top: float
    """Squared error, summed over the channels of a pixel in [-1, 1], that has the brightest colour."""

    @property
    def middle(self) -> float:
        """The error that has the colour in the middle: roots are coloured, so that small errors show as well."""
        return self.top / 4

    @classmethod
    def of(cls, errors_BHW: NDArray[np.float32]) -> ErrorScale:
        """Such that a few pixels of all maps lie above it."""
        top = float(np.quantile(errors_BHW, 1 - _CLIPPED_SHARE)) if errors_BHW.size else 0.0
        return cls(top or 1.0)

    def png_uri(self, error_HW: NDArray[np.float32]) -> str:
        """The map as a picture."""
        levels = np.sqrt(np.clip(error_HW / self.top, 0, 1))
        return png_uri(COLOURS(levels, bytes=True)[..., :3])


def error_maps(images_BHWC: NDArray[np.uint8], *, reconstructed_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """(B, H, W): the squared error of each pixel, summed over its channels, images and reconstructions in [-1, 1]."""
    x_BHWC = images_BHWC.astype(np.float32) / 127.5 - 1.0
    difference_BHWC = x_BHWC - reconstructed_BCHW.transpose(0, 2, 3, 1)
    errors_BHW: NDArray[np.float32] = np.square(difference_BHWC).sum(axis=-1)
    return errors_BHW


def legend_uri() -> str:
    """The colours from none to the most, left to right."""
    return png_uri(COLOURS(np.linspace(0, 1, 256)[None], bytes=True)[..., :3])


def png_uri(pixels_HWC: NDArray[np.uint8]) -> str:
    """Without loss, in at most 256 colours."""
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels_HWC)).quantize(256, dither=Image.Dither.NONE)
    image.save(buffer, format="png", optimize=True)
    return _data_uri("image/png", buffer.getvalue())


def jpeg_uri(pixels_HWC: NDArray[np.uint8]) -> str:
    """A photograph; no metadata but the pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, format="jpeg", quality=_JPEG_QUALITY, subsampling=0)
    return _data_uri("image/jpeg", buffer.getvalue())


def _data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
