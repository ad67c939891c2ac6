"""Hostile and damaged images: each gives a status and one line, quickly; nothing raises."""

from __future__ import annotations

import functools
import io
import random
import struct
import time
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from skinvae.images.decode import Decoded, DecodeSettings, decode
from skinvae.records import Status
from tests.unit.images.test_decode import FORMATS, encode, png_chunks

SETTINGS = DecodeSettings()


@functools.cache
def noise(format_: str) -> bytes:
    array = np.random.default_rng(6).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return encode(Image.fromarray(array), format_)


def decoded(data: bytes, *, limits: DecodeSettings = SETTINGS) -> Decoded:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = decode(data, size=16, settings=limits)
    assert (result.pixels is not None) == (result.status is Status.OK)
    assert result.status is Status.OK or result.error
    assert result.error is None or (result.error.strip() and "\n" not in result.error and len(result.error) <= 200)
    return result


def huge(format_: str, *, width: int, height: int) -> bytes:
    """A small file whose header claims a large image."""
    if format_ == "PNG":
        return png_chunks(width, height, depth=8, colour_type=2, raw=bytes(1000))
    data = bytearray(noise(format_))
    if format_ == "JPEG":
        position = data.index(b"\xff\xc0")
        data[position + 5 : position + 9] = struct.pack(">2H", height, width)
    elif format_ == "BMP":
        data[18:26] = struct.pack("<2i", width, height)
    elif format_ == "TIFF":
        for tag, value in ((256, width), (257, height)):
            at = data.index(struct.pack("<2H", tag, 4)) if struct.pack("<2H", tag, 4) in data else -1
            at = at if at >= 0 else data.index(struct.pack("<2H", tag, 3))
            data[at : at + 12] = struct.pack("<2H2L", tag, 4, 1, value)
    elif format_ == "WEBP":
        at = data.index(b"VP8L") + 9
        data[at : at + 4] = struct.pack("<L", (width - 1) | (height - 1) << 14)
    return bytes(data)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("side", [65_500, 10_000])
def test_a_header_that_claims_too_much_is_refused_before_decoding(format_: str, side: int) -> None:
    data = huge(format_, width=side, height=side)
    decoded(noise("PNG"))  # imports
    started = time.perf_counter()
    tracemalloc.start()
    result = decoded(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.status is Status.TOO_LARGE, result
    assert time.perf_counter() - started < 5  # decoding it takes 20 s and more
    assert peak < 4 << 20


def test_a_webp_that_claims_its_largest_size_is_refused_quickly() -> None:
    data = huge("WEBP", width=16_383, height=16_383)
    started = time.perf_counter()
    assert decoded(data).status in (Status.TOO_LARGE, Status.UNDECODABLE)
    assert time.perf_counter() - started < 5


def test_each_limit_is_named() -> None:
    image = encode(Image.new("RGB", (40, 10)), "PNG")
    for limits, words in (
        (DecodeSettings(max_side=39), "40x10 pixels, more than 39 a side"),
        (DecodeSettings(max_pixels=399), "40x10 pixels, more than 399 in all"),
        (DecodeSettings(max_bytes=len(image) - 1), f"{len(image)} bytes, more than the {len(image) - 1} allowed"),
    ):
        result = decoded(image, limits=limits)
        assert (result.status, result.error) == (Status.TOO_LARGE, words)
    exactly = DecodeSettings(max_side=40, max_pixels=400, max_bytes=len(image))
    assert decoded(image, limits=exactly).status is Status.OK


def test_pillows_own_limit_warns_nobody_within_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns above its limit and refuses above twice that; between the two only our caps count."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decoded(encode(Image.new("1", (40, 40)), "PNG")).status is Status.OK
    assert decoded(encode(Image.new("1", (50, 50)), "PNG")).status is Status.TOO_LARGE


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files(format_: str, share: float) -> None:
    data = noise(format_)
    result = decoded(data[: int(share * len(data))])
    assert result.status is Status.TRUNCATED, result


def test_a_jpeg_without_its_last_two_bytes_is_truncated_strict_or_not() -> None:
    for strict in (True, False):
        result = decoded(noise("JPEG")[:-2], limits=DecodeSettings(strict=strict))
        assert result.status is Status.TRUNCATED
        assert (result.width, result.height) == (64, 48)


def test_strict_refuses_what_libjpeg_conceals() -> None:
    data = noise("JPEG")
    broken = data[:2000] + b"\xff\xd0" + data[2002:]  # a restart marker where none belongs
    with pytest.raises(ValueError, match="JPEG"):
        simplejpeg.decode_jpeg(broken)
    assert decoded(broken).status is Status.UNDECODABLE
    assert decoded(broken, limits=DecodeSettings(strict=False)).status is Status.OK


def test_strict_refuses_a_png_whose_picture_does_not_match_its_checksum() -> None:
    data = noise("PNG")
    position = data.index(b"IDAT") + 200
    broken = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
    result = decoded(broken)
    assert (result.status, result.error) == (Status.UNDECODABLE, "the checksum of its chunk 'IDAT' is wrong")
    assert decoded(data[:-12]).status is Status.TRUNCATED
    assert decoded(data[:-12], limits=DecodeSettings(strict=False)).status is Status.OK
    assert decoded(data + b"behind its end").status is Status.OK


def test_damage_of_a_png_does_not_pass_for_metadata() -> None:
    """Pillow looks for EXIF by loading the whole PNG: an error there is one of the picture."""
    data = png_chunks(4, 4, depth=8, colour_type=2, raw=b"\x09" * 52)  # a row filter that does not exist
    assert decoded(data).status is Status.UNDECODABLE


def test_a_webp_of_more_pixels_than_its_decoder_has_memory_for() -> None:
    for side in (4_500, 16_383):
        result = decoded(huge("WEBP", width=side, height=side))
        assert (result.status, result.width) == (Status.TOO_LARGE, side)
    extended = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6
    assert decoded(extended).width == 1 << 24
    lossy = encode(Image.new("RGB", (70, 50)), "WEBP", lossless=False)
    at = lossy.index(b"\x9d\x01\x2a") + 3
    assert decoded(lossy[:at] + b"\xff\x3f\xff\x3f" + lossy[at + 4 :]).width == 16_383


@pytest.mark.parametrize(("num_flips", "at_most"), [(1, 220), (40, 4)])
def test_flipped_bits_that_strict_decoding_lets_pass(num_flips: int, at_most: int) -> None:
    """JPEG has no checksum: of 400 noise files each, 185 pass with one flipped bit and none with 40 (measured)."""
    generator, passed = random.Random(7), 0
    for _ in range(400):
        flipped = bytearray(noise("JPEG"))
        for _ in range(num_flips):
            position, bit = divmod(generator.randrange(8 * len(flipped)), 8)
            flipped[position] ^= 1 << bit
        passed += decoded(bytes(flipped)).status is Status.OK
    assert passed <= at_most


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", Status.TRUNCATED),
        (b"x", Status.UNSUPPORTED_FORMAT),
        (b"<html>404</html>", Status.UNSUPPORTED_FORMAT),
        (bytes(5000), Status.UNSUPPORTED_FORMAT),
        (b"\xff\xd8\xff" + b"garbage" * 50 + b"\xff\xd9", Status.UNDECODABLE),
        (b"\x89PNG\r\n\x1a\n" + b"garbage" * 50 + b"IEND", Status.UNDECODABLE),
        (b"II*\0" + b"garbage" * 50, Status.UNDECODABLE),
        (b"GIF89a" + bytes(50), Status.TRUNCATED),
        (b"GIF89a" + bytes(50) + b";", Status.UNDECODABLE),
        (b"\xff\x4f\xff\x51" + bytes(50), Status.UNSUPPORTED_FORMAT),
        (b"\0\0\0\x18ftypheic" + bytes(50), Status.UNSUPPORTED_FORMAT),
    ],
)
def test_garbage_and_foreign_formats(data: bytes, expected: Status) -> None:
    assert decoded(data).status is expected


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_samples_without_an_agreed_range_are_refused(mode: str) -> None:
    assert decoded(encode(Image.new(mode, (8, 8)), "TIFF")).status is Status.UNSUPPORTED_FORMAT


def test_the_same_bytes_give_the_same_message() -> None:
    data = b"\xff\xd8\xff" + b"garbage" * 50
    assert decoded(data) == decoded(bytes(bytearray(data)))


def test_a_text_chunk_bomb_takes_no_memory() -> None:
    compressed = zlib.compress(bytes(100 << 20), 1)
    chunk = b"zTXt" + b"Comment\0\0" + compressed
    extra = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    tracemalloc.start()
    decoded(png_chunks(8, 8, depth=8, colour_type=0, raw=bytes(72), extra=extra))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


def test_running_out_of_memory_is_no_property_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (MemoryError, KeyboardInterrupt):

        def fail(*_: object, raised: type[BaseException] = error, **__: object) -> None:
            raise raised

        monkeypatch.setattr(Image, "open", fail)
        with pytest.raises(error):
            decode(noise("PNG"), size=8, settings=SETTINGS)


@pytest.mark.parametrize("format_", FORMATS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_random_damage_never_raises(format_: str, data: st.DataObject) -> None:
    damaged = bytearray(SMALL[format_])
    for _ in range(data.draw(st.integers(1, 6))):
        # Headers are short and rich in surprises: half of the damage goes there.
        stop = data.draw(st.sampled_from([min(200, len(damaged)), len(damaged)]))
        damaged[data.draw(st.integers(0, stop - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    assert decoded(bytes(damaged), limits=DecodeSettings(max_pixels=1_000_000)) is not None


def _small(format_: str) -> bytes:
    stream = io.BytesIO()
    gradient = Image.linear_gradient("L").resize((24, 16)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient.save(stream, format_, **({} if format_ == "BMP" else {"exif": exif}))
    return stream.getvalue()


SMALL = {format_: _small(format_) for format_ in FORMATS}
