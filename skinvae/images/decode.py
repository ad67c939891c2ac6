"""Encoded bytes -> upright RGB pixels of one size, or the reason why not: the one decoding policy of train and score.

Policy, version 1 (`PREPROCESSING_VERSION`):
- JPEG, PNG, BMP, TIFF, WebP and GIF, told by their signature, never by their name.
- Caps on bytes, pixels and sides (`max_bytes`, `max_pixels`, `max_side`) are checked on the header, before anything is
  decoded; a WebP may have 20 megapixels. In isolation (isolation.py) time is capped, by `max_seconds`, and memory too.
- `strict` refuses JPEG streams with damage that libjpeg conceals, stray bytes included, and PNGs whose critical chunks
  do not match their checksums. A JPEG whose end is missing is refused in either mode.
- EXIF orientation is applied, whatever the format. ICC profiles are not; no metadata leaves this module.
- Grey is repeated, palettes are looked up, bilevel is black and white. Transparency, whether an alpha channel, a
  palette's or one see-through colour, is laid on white.
- CMYK as R = (255 - C) (255 - K) / 255, and so on. JPEG stores CMYK and YCCK inverted, as Adobe's programs do.
- Of 16-bit samples the high byte is kept. 32-bit integers, floats and Lab have no agreed black and white: refused.
- Of several frames (GIF, APNG, WebP), pages (TIFF) or pictures (MPO) the first; `Decoded.error` then says of how many.
- Antialiased bilinear resize to a square of uint8; the aspect ratio is not kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from skinvae.images.archives.candidates import image_format
from skinvae.images.pixels import FORMATS, Limits, Rgb, UInt8Array, checked_rgb, decode_rgb, rgb_of_picture
from skinvae.records import Status

PREPROCESSING_VERSION = "1"
"""Names the policy above; part of a score's identity. A change of any pixel needs a new one."""

_PILLOW_MAX_PIXELS = 178_956_970
"""Pillow itself refuses more (twice its MAX_IMAGE_PIXELS); that setting is global to the process, so it stays."""


class DecodeSettings(BaseModel):
    """Limits on one encoded image, and how strictly its JPEG stream is taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_pixels: int = Field(default=64_000_000, ge=1, le=_PILLOW_MAX_PIXELS, description="width times height")
    max_side: int = Field(default=16_384, ge=1, description="pixels of the longer side")
    max_bytes: int = Field(default=64 << 20, ge=1, description="bytes of the encoded image")
    max_seconds: float = Field(
        default=20.0, gt=0, le=3600, description="processor seconds to decode it; thrice as many of the clock"
    )
    strict: bool = Field(default=True, description="refuse JPEGs and PNGs with damage that a decoder could conceal")

    @property
    def policy(self) -> DecodeSettings:
        """What the outcome for an image depends on: how long a slow machine may take for it does not belong to that."""
        return self.model_copy(update={"max_seconds": DecodeSettings.model_fields["max_seconds"].default})


@dataclass(frozen=True)
class Decoded:
    """`pixels` (size, size, 3) RGB, or None and the reason."""

    pixels: UInt8Array | None
    width: int | None  # of the original, after EXIF rotation; as its header says where it was too large
    height: int | None
    status: Status
    error: str | None  # with status ok: None, or a remark such as 'first of 12 frames'


def decode(data: bytes, *, size: int, settings: DecodeSettings) -> Decoded:
    """Decodes one image in this process and resizes it to `size` x `size`; whatever the bytes are, there is an answer.

    For bytes that one trusts to end: `max_seconds` needs isolation.py, and what kills a decoder kills this process.
    Only running out of memory (MemoryError) and interrupts pass through: they say nothing about the image.
    """
    found = recognise(data, settings=settings)
    if isinstance(found, Decoded):
        return found
    return resized(decode_rgb(data, found=found, limits=limits_of(settings), allocate=_allocate), size=size)


def decode_picture(picture: Image.Image | UInt8Array, *, size: int, settings: DecodeSettings) -> Decoded:
    """The same policy for an image of Pillow, or for RGB pixels (height, width, 3), which are only resized."""
    limits = limits_of(settings)
    if isinstance(picture, np.ndarray):
        rgb = checked_rgb(picture, limits=limits)
    else:
        rgb = rgb_of_picture(picture, limits=limits)
    return resized(rgb, size=size)


def recognise(data: bytes, *, settings: DecodeSettings) -> str | Decoded:
    """The image's format, one of FORMATS, or the refusal; looks at the first bytes only and decodes nothing."""
    if len(data) > settings.max_bytes:
        return refused(Status.TOO_LARGE, f"{len(data)} bytes, more than the {settings.max_bytes} allowed")
    if not data:
        return refused(Status.TRUNCATED, "the file is empty")
    found = image_format(data)
    if found not in FORMATS:
        reason = f"{found or 'no known image format'}; decoded are {', '.join(FORMATS)}"
        return refused(Status.UNSUPPORTED_FORMAT, reason)
    return found


def refused(status: Status, reason: str) -> Decoded:
    """The answer for an image of which not even the header was read."""
    return Decoded(None, None, None, status, reason)


def limits_of(settings: DecodeSettings) -> Limits:
    """What the decoder has to know of the settings."""
    return Limits(settings.max_pixels, settings.max_side, settings.strict)


def resized(rgb: Rgb, *, size: int) -> Decoded:
    """The decoder's answer with its pixels resized, in an array of their own."""
    pixels = None if rgb.pixels is None else _resize(rgb.pixels, size=size)
    return Decoded(pixels, rgb.width, rgb.height, Status(rgb.code), rgb.remark)


def _allocate(height: int, width: int) -> UInt8Array:
    return np.empty((height, width, 3), np.uint8)


def _resize(rgb_HWC: UInt8Array, *, size: int) -> UInt8Array:
    """Antialiased bilinear, by torch's fixed-point uint8 kernel.

    It is what torchvision v2 calls on CPUs with AVX2; called directly it gives the same bits without AVX2 too, where
    torchvision turns to floats. At most 1 level from Pillow's BILINEAR, in 0.1 to 1 % of the samples.
    """
    import torch

    image_1CHW = torch.from_numpy(rgb_HWC).permute(2, 0, 1)[None]
    resized_1CHW = torch.nn.functional.interpolate(image_1CHW, size=(size, size), mode="bilinear", antialias=True)
    pixels: UInt8Array = resized_1CHW[0].permute(1, 2, 0).contiguous().numpy()
    return pixels
