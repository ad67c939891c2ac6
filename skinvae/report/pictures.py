"""Pictures of the report as data URIs: images, and maps of the nats of each pixel on one colour scale."""

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
    """Nats of a pixel that has the brightest colour."""

    @property
    def middle(self) -> float:
        """The nats that have the colour in the middle: roots are coloured, so that small errors show as well."""
        return self.top / 4

    @classmethod
    def of(cls, nats_BHW: NDArray[np.float64]) -> ErrorScale:
        """Such that a few pixels of all maps lie above it."""
        top = float(np.quantile(nats_BHW, 1 - _CLIPPED_SHARE)) if nats_BHW.size else 0.0
        return cls(top or 1.0)

    def png_uri(self, nats_HW: NDArray[np.float64]) -> str:
        """The map as a picture."""
        levels = np.sqrt(np.clip(nats_HW / self.top, 0, 1))
        return png_uri(COLOURS(levels, bytes=True)[..., :3])


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
