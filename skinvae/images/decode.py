"""Encoded bytes -> upright RGB pixels of one size, or the reason why not: the one decoding policy of train and score.

Policy, version 1 (`PREPROCESSING_VERSION`):
- JPEG, PNG, BMP, TIFF and WebP, told by their signature; of several frames the first.
- Caps on bytes, pixels and sides are checked on the header, before anything is decoded.
- EXIF orientation is applied, whatever the format. ICC profiles are not; no metadata leaves this module.
- Grey and palette become RGB; transparency is laid on white; of 16-bit samples the high byte is kept.
- Antialiased bilinear resize to a square of uint8; the aspect ratio is not kept.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

from skinvae.images.archives.candidates import image_format
from skinvae.records import Status

PREPROCESSING_VERSION = "1"
"""Names the policy above; part of a score's identity. A change of any pixel needs a new one."""

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
"""The only decoders of Pillow that are ever opened; its other forty are attack surface."""

_PILLOW_MAX_PIXELS = 178_956_970
"""Pillow itself refuses more (twice its MAX_IMAGE_PIXELS); that setting is global to the process, so it stays."""

_EXIF_ORIENTATION = 0x0112

UInt8Array = npt.NDArray[np.uint8]


class DecodeSettings(BaseModel):
    """Limits on one encoded image, and how strictly its JPEG stream is taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_pixels: int = Field(default=64_000_000, ge=1, le=_PILLOW_MAX_PIXELS, description="width times height")
    max_side: int = Field(default=16_384, ge=1, description="pixels of the longer side")
    max_bytes: int = Field(default=64 << 20, ge=1, description="bytes of the encoded image")
    strict: bool = Field(default=True, description="refuse JPEG streams with damage that a decoder could conceal")


@dataclass(frozen=True)
class Decoded:
    """`pixels` (size, size, 3) RGB, or None and the reason."""

    pixels: UInt8Array | None
    width: int | None  # of the original, after EXIF rotation; as its header says where it was too large
    height: int | None
    status: Status
    error: str | None


class _ImageError(Exception):
    """Ends the decoding of one image; becomes its row's status and error."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def decode(data: bytes, *, size: int, settings: DecodeSettings) -> Decoded:
    """Decodes one image and resizes it to `size` x `size`; whatever the bytes are, there is an answer.

    Only running out of memory (MemoryError) and interrupts pass through: they say nothing about the image.
    """
    width = height = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what its own limits allow and of odd metadata
            image = _open(data, settings=settings)
            width, height = image.size
            _check_pixels(width, height, settings=settings)
            if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
                rgb_HWC = _decode_jpeg(data, image=image, settings=settings)
            else:
                image.load()
                rgb_HWC = _to_rgb(image)
            rgb_HWC = _turn(rgb_HWC, orientation=_orientation(image))
            height, width, _ = rgb_HWC.shape
            return Decoded(_resize(rgb_HWC, size=size), width, height, Status.OK, None)
    except MemoryError:
        raise
    except _ImageError as refused:
        return Decoded(None, width, height, refused.status, str(refused))
    except Exception as error:  # noqa: BLE001 decoders raise whatever a hostile file makes them trip over: struct.error,
        # SyntaxError, IndexError, zlib.error ... One bad image must become one row with a reason, never a dead job.
        status = Status.TRUNCATED if _ends_early(data, error) else Status.UNDECODABLE
        return Decoded(None, width, height, status, _one_line(error))


def _open(data: bytes, *, settings: DecodeSettings) -> Image.Image:
    """Reads the header only."""
    if len(data) > settings.max_bytes:
        raise _ImageError(Status.TOO_LARGE, f"{len(data)} bytes, more than the {settings.max_bytes} allowed")
    if not data:
        raise _ImageError(Status.TRUNCATED, "the file is empty")
    found = image_format(data)
    if found not in FORMATS:
        raise _ImageError(
            Status.UNSUPPORTED_FORMAT, f"{found or 'no known image format'}; decoded are {', '.join(FORMATS)}"
        )
    try:
        return Image.open(io.BytesIO(data), formats=[found])
    except Image.DecompressionBombError:
        reason = f"more pixels than Pillow opens at all, {settings.max_pixels} are allowed"
        raise _ImageError(Status.TOO_LARGE, reason) from None


def _check_pixels(width: int, height: int, *, settings: DecodeSettings) -> None:
    if min(width, height) < 1:
        raise _ImageError(Status.UNDECODABLE, f"the header says {width}x{height} pixels")
    if max(width, height) > settings.max_side:
        raise _ImageError(Status.TOO_LARGE, f"{width}x{height} pixels, more than {settings.max_side} a side")
    if width * height > settings.max_pixels:
        raise _ImageError(Status.TOO_LARGE, f"{width}x{height} pixels, more than {settings.max_pixels} in all")


def _decode_jpeg(data: bytes, *, image: Image.Image, settings: DecodeSettings) -> UInt8Array:
    """simplejpeg: 1.5 to 2 times as fast as Pillow, and strict about damage that libjpeg conceals."""
    # A buffer of the probed size: a file that shows two decoders two sizes cannot get past the caps.
    buffer = np.empty((image.height, image.width, 3), np.uint8)
    try:
        return _checked(simplejpeg.decode_jpeg(data, "RGB", buffer=buffer), like=buffer)
    except ValueError as error:
        # An image whose end is missing is refused in both modes: half of it would be flat grey.
        if settings.strict or _ends_early(data, error):
            raise
    return _checked(simplejpeg.decode_jpeg(data, "RGB", buffer=buffer, strict=False), like=buffer)


def _checked(rgb_HWC: UInt8Array, *, like: UInt8Array) -> UInt8Array:
    if rgb_HWC.shape != like.shape:
        raise _ImageError(Status.UNDECODABLE, f"decodes to shape {rgb_HWC.shape}, its header says {like.shape}")
    return rgb_HWC


def _to_rgb(image: Image.Image) -> UInt8Array:
    """(height, width, 3) of a loaded image of any mode."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return _grey16_to_rgb(image)
    if image.mode in ("I", "F", "LAB"):
        raise _ImageError(Status.UNSUPPORTED_FORMAT, f"samples of mode {image.mode!r} have no agreed black and white")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("RGB"))


def _grey16_to_rgb(image: Image.Image) -> UInt8Array:
    """Keeps the high byte, as Pillow does for 16-bit RGB; its own conversion of 16-bit grey clips at 255."""
    samples_HW = np.asarray(image).astype(np.int64)
    tiff_tags: Any = getattr(image, "tag_v2", {})
    num_bits = tiff_tags.get(258, (16,))[0]  # BitsPerSample: Pillow leaves 12-bit samples unscaled
    grey_HW = np.clip(samples_HW >> (num_bits - 8), 0, 255).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # PNG tRNS: one grey level that is see-through
        grey_HW[samples_HW == transparent] = 255
    return np.repeat(grey_HW[:, :, None], 3, axis=2)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8. Pillow turns TIFFs by itself when it loads them, and then says 1."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 damaged metadata raises anything and must not cost a good image
        return 1
    return orientation if isinstance(orientation, int) else 1


def _turn(rgb_HWC: UInt8Array, *, orientation: int) -> UInt8Array:
    """The upright image, for a camera held as EXIF 2.32, table 6, `Orientation` says."""
    if orientation in (5, 6, 7, 8):
        rgb_HWC = rgb_HWC.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        rgb_HWC = rgb_HWC[::-1]
    if orientation in (2, 3, 6, 7):
        rgb_HWC = rgb_HWC[:, ::-1]
    return np.ascontiguousarray(rgb_HWC)


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


def _ends_early(data: bytes, error: Exception) -> bool:
    """Whether a file that failed to decode lacks its end; where a format cannot tell, the answer is no."""
    found = image_format(data)
    if found == "PNG":
        return b"IEND" not in data[-1024:]
    message = str(error).lower()
    if isinstance(error, EOFError) or "truncated" in message or "premature end of jpeg file" in message:
        return True
    if found == "JPEG":
        return b"\xff\xd9" not in data
    return found == "WEBP" and len(data) < 8 + int.from_bytes(data[4:8], "little")


def _one_line(error: Exception) -> str:
    # Pillow's message for an unreadable header names an object's address: no two runs would agree.
    reason = "its header cannot be read" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
    return f"{type(error).__name__}: {reason}"[:200]
