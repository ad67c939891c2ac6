"""Encoded bytes -> upright RGB pixels in full size: the half of decoding that meets hostile bytes.

decode.py states the policy. This module imports numpy, simplejpeg and Pillow only, because it also runs in a
process of its own (isolation.py), which has to start quickly and stay small.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
"""The only decoders of Pillow that are ever opened; its other forty are attack surface."""

UInt8Array = npt.NDArray[np.uint8]
Code = Literal["ok", "undecodable", "truncated", "too_large", "unsupported_format"]
"""Values of records.Status, which is not imported: it would bring pyarrow along."""

_EXIF_ORIENTATION = 0x0112
_MAX_COUNTED_FRAMES = 1000
_MAX_WEBP_PIXELS = 20_000_000
"""Pillow's decoder of WebP holds four canvases of 4 bytes a pixel."""

_STRIP_PIXELS = 1 << 20
"""Pillow converts by making whole copies of 4 bytes a pixel; of a strip they are 4 MB."""


class Limits(NamedTuple):
    """The part of DecodeSettings that needs the image's header."""

    max_pixels: int
    max_side: int
    strict: bool


class Rgb(NamedTuple):
    """`pixels` (height, width, 3), upright, or None and the reason in `remark`."""

    pixels: UInt8Array | None
    width: int | None  # of the upright image; as its header says where nothing was decoded
    height: int | None
    code: Code
    remark: str | None


class _ImageError(Exception):
    """Ends the decoding of one image; becomes its row's status and error."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def decode_rgb(data: bytes, *, found: str, limits: Limits, allocate: Callable[[int, int], UInt8Array]) -> Rgb:
    """Decodes one image of the format `found` into the array (height, width, 3) that `allocate(height, width)` gives.

    `allocate` is called once at most, when the header has passed the limits. Only running out of memory (MemoryError)
    and interrupts pass through: they say nothing about the image.
    """
    width = height = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what its own limits allow and of odd metadata
            if found == "WEBP":  # Pillow allocates the canvas as it opens the image
                width, height = _webp_canvas(data)
                _check_pixels(
                    width, height, limits=limits._replace(max_pixels=min(limits.max_pixels, _MAX_WEBP_PIXELS))
                )
            image = _open(data, found=found, limits=limits)
            width, height = _stored_size(image)
            _check_pixels(width, height, limits=limits)
            if found == "PNG" and limits.strict:
                _check_png(data)
            by_simplejpeg = image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L")
            early = _take_orientation(image) if by_simplejpeg or image.format == "TIFF" else None
            if not by_simplejpeg:
                image.load()
            # Only now of a PNG: Pillow loads it to find EXIF behind the picture, and damage must not pass for metadata.
            orientation = _take_orientation(image) if early is None else early
            if orientation >= 5:
                width, height = height, width
            out_HWC = allocate(height, width)
            stored_HWC = _as_stored(out_HWC, orientation=orientation)
            if by_simplejpeg:
                _decode_jpeg(data, into=stored_HWC, limits=limits)
            else:
                _write_rgb(image, into=stored_HWC)
            return Rgb(out_HWC, width, height, "ok", _frames_remark(image, data))
    except MemoryError:
        raise
    except _ImageError as refused:
        return Rgb(None, width, height, refused.code, str(refused))
    except Exception as error:  # noqa: BLE001 decoders raise whatever a hostile file makes them trip over: struct.error,
        # SyntaxError, IndexError, zlib.error ... One bad image must become one row with a reason, never a dead job.
        code: Code = "truncated" if _ends_early(data, found, error) else "undecodable"
        return Rgb(None, width, height, code, _one_line(error))


def rgb_of_picture(image: Image.Image, *, limits: Limits) -> Rgb:
    """`decode_rgb` for an image that a caller has opened with Pillow, or made with it; it is loaded by that.

    Trusted to come to an end. A JPEG has Pillow's pixels, not simplejpeg's.
    """
    width, height = image.size
    try:
        _check_pixels(width, height, limits=limits)
        image.load()
        orientation = _take_orientation(image)
        width, height = image.size if orientation < 5 else image.size[::-1]
        out_HWC = np.empty((height, width, 3), np.uint8)
        _write_rgb(image, into=_as_stored(out_HWC, orientation=orientation))
        return Rgb(out_HWC, width, height, "ok", None)
    except _ImageError as refused:
        return Rgb(None, width, height, refused.code, str(refused))
    except OSError as error:  # a file that Pillow opened and cannot load
        return Rgb(None, width, height, "undecodable", _one_line(error))


def checked_rgb(rgb_HWC: UInt8Array, *, limits: Limits) -> Rgb:
    """Upright RGB pixels that are there already, within the limits or refused."""
    height, width = rgb_HWC.shape[:2]
    try:
        _check_pixels(width, height, limits=limits)
    except _ImageError as refused:
        return Rgb(None, width, height, refused.code, str(refused))
    # torch warns of arrays that cannot be written to, as those of Pillow's images are.
    return Rgb(np.require(rgb_HWC, requirements=["C", "W"]), width, height, "ok", None)


def _open(data: bytes, *, found: str, limits: Limits) -> Image.Image:
    """Reads the header only."""
    try:
        return Image.open(io.BytesIO(data), formats=[found])
    except Image.DecompressionBombError:
        reason = f"more pixels than Pillow opens at all, {limits.max_pixels} are allowed"
        raise _ImageError("too_large", reason) from None


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height before any turn; of a TIFF, Pillow's `size` is the upright one, in some versions."""
    if image.format == "TIFF":
        tags: Any = getattr(image, "tag_v2")  # noqa: B009 only a TiffImageFile has it
        return int(tags[256]), int(tags[257])  # ImageWidth, ImageLength
    return image.size


def _webp_canvas(data: bytes) -> tuple[int, int]:
    """Width and height by the first chunk (RFC 9649, sections 2.5 to 2.7)."""
    header = data[12:30].ljust(18, b"\0")
    if header.startswith(b"VP8X"):
        return int.from_bytes(header[12:15], "little") + 1, int.from_bytes(header[15:18], "little") + 1
    if header.startswith(b"VP8L"):
        bits = int.from_bytes(header[9:13], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    # Key frame of VP8 (RFC 6386, section 9.1); of anything else Pillow says what is wrong.
    sides = int.from_bytes(header[14:16], "little") & 0x3FFF, int.from_bytes(header[16:18], "little") & 0x3FFF
    return sides if header.startswith(b"VP8 ") else (1, 1)


def _check_pixels(width: int, height: int, *, limits: Limits) -> None:
    if min(width, height) < 1:
        raise _ImageError("undecodable", f"the header says {width}x{height} pixels")
    if max(width, height) > limits.max_side:
        raise _ImageError("too_large", f"{width}x{height} pixels, more than {limits.max_side} a side")
    if width * height > limits.max_pixels:
        raise _ImageError("too_large", f"{width}x{height} pixels, more than {limits.max_pixels} in all")


def _check_png(data: bytes) -> None:
    """Checksums of the critical chunks (PNG specification, sections 5.3 to 5.6), of which Pillow ignores IDAT's."""
    position, view = 8, memoryview(data)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">L4s", data, position)
        stop = position + 12 + length
        if stop > len(data):
            break
        is_critical = not kind[0] & 0x20
        if is_critical and zlib.crc32(view[position + 4 : stop - 4]) != int.from_bytes(data[stop - 4 : stop], "big"):
            raise _ImageError("undecodable", f"the checksum of its chunk {kind.decode('latin-1')!a} is wrong")
        if kind == b"IEND":
            return
        position = stop
    raise _ImageError("truncated", "the PNG ends inside a chunk or without its last one")


def _take_orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8, taken out of a TIFF: Pillow would turn it as it loads, in a second copy of the image."""
    try:
        exif = image.getexif()
        orientation = exif.get(_EXIF_ORIENTATION, 1)
        if image.format == "TIFF" and _EXIF_ORIENTATION in exif:
            del exif[_EXIF_ORIENTATION]
    except Exception:  # noqa: BLE001 damaged metadata raises anything and must not cost a good image
        return 1
    return orientation if orientation in range(1, 9) else 1


def _as_stored(upright_HWC: UInt8Array, *, orientation: int) -> UInt8Array:
    """The view of the upright array that has the stored image's rows and columns.

    For a camera held as EXIF 2.32, table 6, `Orientation` says.
    """
    if orientation in (2, 3, 6, 7):
        upright_HWC = upright_HWC[:, ::-1]
    if orientation in (3, 4, 7, 8):
        upright_HWC = upright_HWC[::-1]
    if orientation in (5, 6, 7, 8):
        upright_HWC = upright_HWC.swapaxes(0, 1)
    return upright_HWC


def _decode_jpeg(data: bytes, *, into: UInt8Array, limits: Limits) -> None:
    """simplejpeg: 1.5 to 2 times as fast as Pillow, and strict about damage that libjpeg conceals."""
    # A buffer of the probed size: a file that shows two decoders two sizes cannot get past the caps.
    in_place = into.flags.c_contiguous
    buffer = into if in_place else np.empty(into.shape, np.uint8)
    try:
        _check_shape(simplejpeg.decode_jpeg(data, "RGB", buffer=buffer), like=buffer)
    except ValueError as error:
        # An image whose end is missing is refused in both modes: half of it would be flat grey.
        if limits.strict or _ends_early(data, "JPEG", error):
            raise
        _check_shape(simplejpeg.decode_jpeg(data, "RGB", buffer=buffer, strict=False), like=buffer)
    if not in_place:
        into[:] = buffer


def _check_shape(rgb_HWC: UInt8Array, *, like: UInt8Array) -> None:
    if rgb_HWC.shape != like.shape:
        raise _ImageError("undecodable", f"decodes to shape {rgb_HWC.shape}, its header says {like.shape}")


def _write_rgb(image: Image.Image, *, into: UInt8Array) -> None:
    """A loaded image of any mode, strip by strip."""
    is_grey16 = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if image.mode in ("I", "F", "LAB") and not is_grey16:
        raise _ImageError("unsupported_format", f"samples of mode {image.mode!r} have no agreed black and white")
    if image.mode in ("P", "PA") and image.palette is None:
        raise _ImageError("undecodable", "it has no palette")
    height, width, _ = into.shape
    if image.im.size != (width, height):
        raise _ImageError("undecodable", f"decodes to {image.im.size} pixels, its header says {width}x{height}")
    num_rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, num_rows):
        bottom = min(top + num_rows, height)
        strip = image.crop((0, top, width, bottom))
        into[top:bottom] = _grey16_to_rgb(strip, of=image) if is_grey16 else _to_rgb(strip)


def _to_rgb(image: Image.Image) -> UInt8Array:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(image.convert("RGB"))


def _grey16_to_rgb(strip: Image.Image, *, of: Image.Image) -> UInt8Array:
    """Keeps the high byte, as Pillow does for 16-bit RGB; its own conversion of 16-bit grey clips at 255."""
    samples_HW = np.asarray(strip).astype(np.int64)
    tiff_tags: Any = getattr(of, "tag_v2", {})
    num_bits = tiff_tags.get(258, (16,))[0]  # BitsPerSample: Pillow leaves 12-bit samples unscaled
    grey_HW = np.clip(samples_HW >> (num_bits - 8), 0, 255).astype(np.uint8)
    transparent = of.info.get("transparency")
    if isinstance(transparent, int):  # PNG tRNS: one grey level that is see-through
        grey_HW[samples_HW == transparent] = 255
    return np.repeat(grey_HW[:, :, None], 3, axis=2)


def _frames_remark(image: Image.Image, data: bytes) -> str | None:
    """Says that the image was the first of several."""
    try:
        num_frames = _count_frames(image, data)
    except Exception:  # noqa: BLE001 what is wrong behind the first frame does not concern it
        return "first of several frames"
    if num_frames > _MAX_COUNTED_FRAMES:
        return f"first of more than {_MAX_COUNTED_FRAMES} frames"
    return f"first of {num_frames} frames" if num_frames > 1 else None


def _count_frames(image: Image.Image, data: bytes) -> int:
    """Frames, pages or pictures; as far as a hostile file is worth counting."""
    if image.format == "GIF":
        return _count_gif_frames(data)
    if image.format != "TIFF":
        return int(getattr(image, "n_frames", 1))
    for frame in range(1, _MAX_COUNTED_FRAMES + 1):  # n_frames would walk through all of a chain of millions
        try:
            image.seek(frame)
        except EOFError:
            return frame
    return _MAX_COUNTED_FRAMES + 1


def _count_gif_frames(data: bytes) -> int:
    """Walks the blocks (GIF89a specification, section 17 on); Pillow's own count takes a minute for a hostile file."""
    num_frames, position = 0, 13 + _colour_table_bytes(data[10])
    while num_frames <= _MAX_COUNTED_FRAMES and position < len(data):
        if data[position] == 0x2C:  # image descriptor, colour table, code size
            num_frames += 1
            position += 11 + _colour_table_bytes(data[position + 9])
        elif data[position] == 0x21:  # extension and its label
            position += 2
        else:  # the trailer, or damage
            break
        while position < len(data) and data[position]:
            position += 1 + data[position]
        position += 1
    return num_frames


def _colour_table_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _ends_early(data: bytes, found: str, error: Exception) -> bool:
    """Whether a file that failed to decode lacks its end; where a format cannot tell, the answer is no."""
    if found == "PNG":
        return b"IEND" not in data[-1024:]
    message = str(error).lower()
    if isinstance(error, EOFError) or "truncated" in message or "premature end of jpeg file" in message:
        return True
    if found == "JPEG":
        return b"\xff\xd9" not in data
    if found == "GIF":
        return not data.rstrip(b"\0").endswith(b";")
    return found == "WEBP" and len(data) < 8 + int.from_bytes(data[4:8], "little")


def _one_line(error: Exception) -> str:
    # Pillow's message for an unreadable header names an object's address: no two runs would agree.
    reason = "its header cannot be read" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
    return f"{type(error).__name__}: {reason}"[:200]
