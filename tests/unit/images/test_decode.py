"""The decoding policy: every format and mode to the colours it means, upright, resized."""

from __future__ import annotations

import hashlib
import io
import struct
import time
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
import torch
from PIL import Image
from pydantic import ValidationError

from skinvae.images.decode import PREPROCESSING_VERSION, Decoded, DecodeSettings, decode
from skinvae.records import Status

SETTINGS = DecodeSettings()
FORMATS = ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"]
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
    assert decoded.status is Status.OK, decoded
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
    "GIF": ["1", "L", "P", "RGBA"],
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


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF", "GIF", "MPO"])
@pytest.mark.parametrize("num_frames", [1, 2, 12])
def test_only_the_first_frame_counts_and_the_others_are_noted(format_: str, num_frames: int) -> None:
    first, *others = (Image.new("RGB", (8, 8), (255 - 20 * n, 0, 20 * n)) for n in range(num_frames))
    data = encode(first, format_, **({"save_all": True, "append_images": others} if others else {}))
    decoded = decode(data, size=8, settings=SETTINGS)
    assert (decoded.status, decoded.error) == (Status.OK, f"first of {num_frames} frames" if others else None)
    assert np.abs(pixels_of(data)[0, 0] - (255, 0, 0)).max() <= 2


def test_counting_frames_ends() -> None:
    """A hostile file has millions of frames of a few bytes: Pillow's own count takes minutes."""
    gif = encode(Image.new("P", (8, 8)), "GIF")
    frame = b"," + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\2\1\0\0"
    started = time.perf_counter()
    decoded = decode(gif[:-1] + frame * 1_000_000 + b";", size=8, settings=SETTINGS)
    assert (decoded.status, decoded.error) == (Status.OK, "first of more than 1000 frames")
    assert time.perf_counter() - started < 5


def test_damage_behind_the_first_frame_does_not_concern_it() -> None:
    pages = [Image.new("RGB", (8, 8), "red")] * 3
    data = bytearray(encode(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    data[-20:] = b"\xff" * 20
    assert pixels_of(bytes(data))[0, 0].tolist() == [255, 0, 0]


def test_a_gif_that_fills_part_of_its_screen_shows_its_background_as_white() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.paste(0, (0, 0, 4, 8))
    pixels = pixels_of(encode(image, "GIF", transparency=0, optimize=False))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 7].tolist() == [10, 20, 30]


INKS = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255), (100, 50, 200, 60)]


@pytest.mark.parametrize("inks", INKS)
@pytest.mark.parametrize("format_", ["JPEG", "TIFF"])
def test_cmyk_is_what_the_inks_leave(inks: tuple[int, int, int, int], format_: str) -> None:
    expected = [(255 - ink) * (255 - inks[3]) / 255 for ink in inks[:3]]
    pixels = pixels_of(encode(Image.new("CMYK", (16, 16), inks), format_))
    assert np.abs(pixels[4, 4] - expected).max() <= (3 if format_ == "JPEG" else 1)


def test_adobes_cmyk_jpegs_store_light_and_not_ink() -> None:
    """By libjpeg itself, without Pillow's view of it: white paper is stored as 255 in all four."""
    data = encode(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG")
    assert b"Adobe" in data[:200]
    assert simplejpeg.decode_jpeg(data, "CMYK").min() >= 254
    assert pixels_of(data).min() >= 253


def test_ycck_is_ycc_of_the_inverted_inks() -> None:
    """The transform flag of Adobe's marker (byte 11) says YCCK; ITU-R BT.601 then gives inverted C, M and Y."""
    stored = (150, 100, 180, 230)
    data = bytearray(encode(Image.new("CMYK", (16, 16), tuple(255 - value for value in stored)), "JPEG"))
    data[data.index(b"Adobe") + 11] = 2
    y, cb, cr, k = stored
    light = [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]
    # libjpeg turns YCC to RGB and takes 255 minus that for C, M and Y, which Pillow inverts as it does all CMYK.
    expected = [(255 - value) * k / 255 for value in light]
    assert np.abs(pixels_of(bytes(data))[4, 4] - expected).max() <= 4


def test_16_bit_rgb_and_alpha_by_hand() -> None:
    red_half = struct.pack(">4H", 0xFFFF, 0x8000, 0x0100, 0x8080)  # alpha 0x80 of 0xff over white
    pixels = pixels_of(png_chunks(4, 4, depth=16, colour_type=6, raw=(b"\0" + red_half * 4) * 4))
    expected = [255 - (255 - value) * 0x80 / 255 for value in (0xFF, 0x80, 0x01)]
    assert np.abs(pixels[0, 0] - expected).max() <= 1


def test_strips_join_without_a_seam() -> None:
    """Conversion goes in strips of a megapixel; the image is larger than one, alpha and palette included."""
    gradient = Image.linear_gradient("L").resize((1500, 1600))
    for image in (gradient.convert("RGBA"), gradient.quantize(256), gradient.convert("LA")):
        expected = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)).astype(np.int16)
        assert np.abs(pixels_of(encode(image, "PNG"), size=64) - expected).max() <= 1


def test_the_policy_is_the_one_that_scores_name() -> None:
    """A change of any pixel needs another PREPROCESSING_VERSION: models were trained on this one's."""
    noise = np.random.default_rng(11).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    digest = hashlib.sha256()
    for format_ in ("PNG", "BMP", "TIFF"):
        digest.update(pixels_of(encode(Image.fromarray(noise), format_), size=32).astype(np.uint8).tobytes())
    assert PREPROCESSING_VERSION == "1"
    assert digest.hexdigest() == "8559987c4381d298d97a40d18091c182ce991f0a3386b00f800efd7e65ee3a88"


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
    assert DecodeSettings() == DecodeSettings(
        max_pixels=64_000_000, max_side=16_384, max_bytes=64 << 20, max_seconds=20.0, strict=True
    )
    zeros = ({"max_pixels": 0}, {"max_side": 0}, {"max_bytes": 0}, {"max_seconds": 0})
    for bad in (*zeros, {"max_pixels": 10**9}, {"maxpixels": 5}):
        with pytest.raises(ValidationError):
            DecodeSettings(**bad)


def test_a_result_has_pixels_or_a_reason() -> None:
    good = decode(encode(corners(), "PNG"), size=8, settings=SETTINGS)
    assert (good.width, good.height, good.status, good.error) == (48, 32, Status.OK, None)
    bad = decode(b"", size=8, settings=SETTINGS)
    assert bad == Decoded(None, None, None, Status.TRUNCATED, "the file is empty")
