"""The decoding policy: every format and mode to the colours it means, upright, resized."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from skinvae.images.decode import Decoded, DecodeSettings, decode
from skinvae.records import Status

SETTINGS = DecodeSettings()
FORMATS = ["JPEG", "PNG", "BMP", "TIFF", "WEBP"]
LOSSLESS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
}


def encode(image: Image.Image, format_: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_, **{**LOSSLESS.get(format_, {}), **options})
    return stream.getvalue()


def pixels_of(data: bytes, *, size: int = 8) -> npt.NDArray[np.int16]:
    decoded = decode(data, size=size, settings=SETTINGS)
    assert decoded.error is None, decoded
    assert decoded.pixels is not None
    assert decoded.pixels.shape == (size, size, 3)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags.c_contiguous
    return decoded.pixels.astype(np.int16)


def png_chunks(width: int, height: int, *, depth: int, colour_type: int, raw: bytes, extra: bytes = b"") -> bytes:
    """A PNG that Pillow cannot write, such as 16-bit RGB (PNG specification, 11.2)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", width, height, depth, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (250, 250, 250), (120, 90, 60)])
def test_colours_survive_every_format(format_: str, colour: tuple[int, int, int]) -> None:
    pixels = pixels_of(encode(Image.new("RGB", (20, 10), colour), format_))
    assert np.abs(pixels - colour).max() <= (2 if format_ == "JPEG" else 0)


MODES = {
    "JPEG": ["1", "L", "CMYK", "YCbCr"],
    "PNG": ["1", "L", "LA", "P", "RGBA"],
    "BMP": ["1", "L", "P", "RGBA"],
    "TIFF": ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"],
    "WEBP": ["L", "P", "RGBA"],
}


@pytest.mark.parametrize(("format_", "mode"), [(format_, mode) for format_, modes in MODES.items() for mode in modes])
def test_every_mode_keeps_black_and_white(format_: str, mode: str) -> None:
    picture = Image.new("RGB", (16, 16), "black")
    picture.paste("white", (8, 0, 16, 16))
    data = encode(picture.convert(mode), format_)
    pixels = pixels_of(data, size=16)
    assert pixels[:, 0].max() <= 3
    assert pixels[:, 15].min() >= 252


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "WEBP"])
def test_transparency_is_laid_on_white(format_: str) -> None:
    image = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    image.paste((0, 0, 0, 128), (0, 0, 4, 8))
    pixels = pixels_of(encode(image, format_))
    assert pixels[0, 0].tolist() == [127, 127, 127]
    assert pixels[0, 7].tolist() == [255, 255, 255]


def test_a_transparent_palette_entry_or_grey_level_is_white() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert pixels_of(encode(palette, "PNG", transparency=1)).min() == 255
    assert pixels_of(encode(palette, "PNG"))[0, 0].tolist() == [10, 20, 30]
    assert pixels_of(encode(Image.new("L", (8, 8), 77), "PNG", transparency=77)).min() == 255
    grey16 = Image.fromarray(np.full((8, 8), 0x4D4D, np.uint16))
    assert pixels_of(encode(grey16, "PNG", transparency=0x4D4D)).min() == 255


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_a_16_bit_grey_ramp_is_scaled_not_clipped(format_: str) -> None:
    ramp = np.arange(256, dtype=np.uint16) * 257
    data = encode(Image.fromarray(np.tile(ramp, (256, 1))), format_)
    assert (pixels_of(data, size=256) == np.arange(256)[None, :, None]).all()


def test_16_bit_grey_and_16_bit_rgb_give_the_same_pixels() -> None:
    levels = np.linspace(0, 65_535, 64).astype(">u2")
    grey = b"".join(b"\0" + levels.tobytes() for _ in range(64))
    rgb = b"".join(b"\0" + np.repeat(levels, 3).tobytes() for _ in range(64))
    one = pixels_of(png_chunks(64, 64, depth=16, colour_type=0, raw=grey), size=64)
    other = pixels_of(png_chunks(64, 64, depth=16, colour_type=2, raw=rgb), size=64)
    assert (one == other).all()
    assert (one.min(), one.max()) == (0, 255)


def test_big_endian_tiff_and_low_bit_depths() -> None:
    big_endian = Image.frombytes("I;16B", (8, 8), struct.pack(">H", 0x8000) * 64)
    assert (pixels_of(encode(big_endian, "TIFF")) == 0x80).all()
    assert (pixels_of(png_chunks(8, 8, depth=2, colour_type=0, raw=b"\0\xaa\xaa" * 8)) == 170).all()


def corners() -> Image.Image:
    """Four quarters of four colours, wider than high: no two orientations look alike."""
    image = Image.new("RGB", (48, 32), (230, 20, 20))
    image.paste((20, 230, 20), (24, 0, 48, 16))
    image.paste((20, 20, 230), (0, 16, 24, 32))
    image.paste((230, 230, 20), (24, 16, 48, 32))
    return image


STORED_AS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,  # shown after a quarter turn clockwise, so stored after one counterclockwise
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_give_the_same_upright_image(format_: str, orientation: int) -> None:
    upright, how = corners(), STORED_AS[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(upright if how is None else upright.transpose(how), format_, exif=exif)
    decoded = decode(data, size=32, settings=SETTINGS)
    assert (decoded.width, decoded.height) == (48, 32)
    expected = pixels_of(encode(upright, "PNG"), size=32)
    difference = np.abs(pixels_of(data, size=32) - expected)
    # JPEG's 8x8 blocks straddle no border here; what is left is rounding.
    assert difference.max() <= (4 if format_ == "JPEG" else 0)


def test_damaged_exif_costs_nothing() -> None:
    data = encode(corners(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40)
    assert decode(data, size=8, settings=SETTINGS).status is Status.OK


def test_only_the_first_frame_counts() -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    for format_ in ("PNG", "WEBP", "TIFF"):
        data = encode(first, format_, save_all=True, append_images=[second])
        assert pixels_of(data)[0, 0].tolist() == [255, 0, 0]
    data = encode(first, "MPO", save_all=True, append_images=[second])
    assert np.abs(pixels_of(data)[0, 0] - (255, 0, 0)).max() <= 2


def test_the_aspect_ratio_is_not_kept() -> None:
    half = Image.new("RGB", (400, 20), "black")
    half.paste("white", (200, 0, 400, 20))
    pixels = pixels_of(encode(half, "PNG"), size=16)
    assert pixels[:, :7].max() == 0
    assert pixels[:, 9:].min() == 255


@pytest.mark.parametrize(("width", "height", "size"), [(600, 450, 128), (200, 150, 64), (64, 48, 128), (1, 1, 8)])
def test_resize_is_pillows_within_one_level(width: int, height: int, size: int) -> None:
    """Measured: 0.1 to 0.9 % of the samples differ, by 1; a resize without antialiasing differs by up to 255."""
    noise = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    expected = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).astype(np.int16)
    difference = np.abs(pixels_of(encode(image, "BMP"), size=size) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02


def test_pixels_do_not_depend_on_the_number_of_threads() -> None:
    data = encode(Image.fromarray(np.random.default_rng(4).integers(0, 256, (450, 600, 3), dtype=np.uint8)), "JPEG")
    num_threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            results.append(pixels_of(data, size=128))
    finally:
        torch.set_num_threads(num_threads)
    assert (results[0] == results[1]).all()
    assert (results[0] == results[2]).all()


def test_a_prepared_square_comes_back_bit_for_bit() -> None:
    square = np.random.default_rng(5).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert (pixels_of(encode(Image.fromarray(square), "PNG"), size=32) == square).all()


def test_settings_are_checked_at_birth() -> None:
    assert DecodeSettings() == DecodeSettings(max_pixels=64_000_000, max_side=16_384, max_bytes=64 << 20, strict=True)
    for bad in ({"max_pixels": 0}, {"max_pixels": 10**9}, {"max_side": 0}, {"max_bytes": 0}, {"maxpixels": 5}):
        with pytest.raises(ValidationError):
            DecodeSettings(**bad)


def test_a_result_has_pixels_or_a_reason() -> None:
    good = decode(encode(corners(), "PNG"), size=8, settings=SETTINGS)
    assert (good.width, good.height, good.status, good.error) == (48, 32, Status.OK, None)
    bad = decode(b"", size=8, settings=SETTINGS)
    assert bad == Decoded(None, None, None, Status.TRUNCATED, "the file is empty")
