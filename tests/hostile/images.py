"""Damaged, odd and malicious images by name, each with the statuses that are right for it. All are made here."""

from __future__ import annotations

import functools
import io
import random
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from skinvae.records import Status
from tests.hostile.jpeg_bomb import progressive_bomb

OK, TRUNCATED, TOO_LARGE = Status.OK, Status.TRUNCATED, Status.TOO_LARGE
UNDECODABLE, UNSUPPORTED, TIMEOUT = Status.UNDECODABLE, Status.UNSUPPORTED_FORMAT, Status.TIMEOUT


@dataclass(frozen=True)
class HostileImage:
    """`make()` gives the bytes; the answer must have one of the `expected` statuses."""

    name: str
    what: str
    expected: tuple[Status, ...]
    make: Callable[[], bytes]


IMAGES: dict[str, HostileImage] = {}


def image(name: str, what: str, *expected: Status) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    def register(make: Callable[[], bytes]) -> Callable[[], bytes]:
        assert name not in IMAGES
        IMAGES[name] = HostileImage(name, what, expected, make)
        return make

    return register


# Ordinary pictures, to be damaged


def encode(picture: Image.Image, format_: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format_, **options)
    return stream.getvalue()


@functools.cache
def lesion(*, width: int = 64, height: int = 48) -> Image.Image:
    """Smooth and noisy at once, as skin is; wider than high."""
    rows, columns = np.mgrid[0:height, 0:width]
    blob = np.hypot(rows - height / 2, columns - width / 2) / width
    base = np.stack([220 - 160 * np.exp(-20 * blob**2), 170 - 120 * np.exp(-25 * blob**2), 150 - 90 * blob], axis=-1)
    noise = np.random.default_rng(1).normal(0, 6, base.shape)
    return Image.fromarray(np.clip(base + noise, 0, 255).astype(np.uint8))


@functools.cache
def good(format_: str) -> bytes:
    return encode(lesion(), format_, **({"quality": 90} if format_ == "JPEG" else {}))


def chunk(kind: bytes, data: bytes, *, crc_error: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ crc_error)


def png(
    width: int, height: int, raw: bytes, *, depth: int = 8, colour_type: int = 2, extra: bytes = b"", interlace: int = 0
) -> bytes:
    """PNG specification, third edition, section 11."""
    header = struct.pack(">2I5B", width, height, depth, colour_type, 0, 0, interlace)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def segment(marker: int, body: bytes) -> bytes:
    """A JPEG marker segment (ITU-T T.81, B.1.1.4)."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def behind_start(jpeg: bytes, inserted: bytes) -> bytes:
    return jpeg[:2] + inserted + jpeg[2:]


def with_size(jpeg: bytes, *, width: int, height: int) -> bytes:
    position = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2")) + 5
    return jpeg[:position] + struct.pack(">2H", height, width) + jpeg[position + 4 :]


def patched(data: bytes, position: int, new: bytes) -> bytes:
    return data[:position] + new + data[position + len(new) :]


def tiff(entries: Iterable[tuple[int, int, int, int]], *, tail: bytes = b"", next_ifd: int = 0) -> bytes:
    """Little-endian TIFF of one IFD at byte 8; `tail` begins at byte 14 + 12 per entry (TIFF 6.0, section 2)."""
    records = b"".join(struct.pack("<2H2L", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<LH", 8, len(records) // 12) + records + struct.pack("<L", next_ifd) + tail


def grey_tiff(width: int, height: int, *, next_ifd: int = 0, tail: bytes = b"", **other: int) -> bytes:
    """8-bit grey in one strip right behind the IFD."""
    tags = {"bits": (258, 8), "compression": (259, 1), "photometric": (262, 1), "samples": (277, 1)}
    values = {number: other.get(name, default) for name, (number, default) in tags.items()}
    values |= {256: width, 257: height, 278: height, 279: other.get("strip_bytes", width * height)}
    start = 14 + 12 * (len(values) + 1)
    entries = [(number, 4, 1, value) for number, value in values.items()]
    return tiff([*entries, (273, 4, 1, other.get("strip_start", start))], tail=tail, next_ifd=next_ifd)


def bmp(width: int, height: int, *, bits: int, compression: int, body: bytes, palette: bytes = b"") -> bytes:
    header = struct.pack("<L2i2H6L", 40, width, height, 1, bits, compression, len(body), 0, 0, len(palette) // 4, 0)
    offset = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<L2HL", offset + len(body), 0, 0, offset) + header + palette + body


def flipped(data: bytes, *, num_flips: int, seed: int, start: int = 0) -> bytes:
    generator, damaged = random.Random(seed), bytearray(data)
    for _ in range(num_flips):
        damaged[generator.randrange(start, len(data))] ^= 1 << generator.randrange(8)
    return bytes(damaged)


@functools.cache
def _deflated_zeros(num_bytes: int) -> bytes:
    deflater, zeros = zlib.compressobj(9), bytes(1 << 20)
    return b"".join(deflater.compress(zeros) for _ in range(num_bytes >> 20)) + deflater.flush()


# No image at all

image("zero-bytes", "nothing", TRUNCATED)(lambda: b"")
image("one-byte", "one byte", UNSUPPORTED)(lambda: b"\xff")
image("all-zeros", "64 KB of zeros", UNSUPPORTED)(lambda: bytes(1 << 16))
image("random-bytes", "4 KB of chance", UNSUPPORTED)(lambda: random.Random(4).randbytes(4096))
image("text-named-jpg", "a README renamed", UNSUPPORTED)(lambda: b"Please unzip before use.\n" * 20)
image("html-error-page", "what a proxy said instead", UNSUPPORTED)(lambda: b"<!DOCTYPE html><h1>403 Forbidden</h1>")
image("s3-error-xml", "what S3 said instead", UNSUPPORTED)(lambda: b'<?xml version="1.0"?><Error><Code>SlowDown</Code>')
image("git-lfs-pointer", "a pointer instead of the image", UNSUPPORTED)(
    lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
)
image("elf-program", "a program", UNSUPPORTED)(lambda: b"\x7fELF\2\1\1" + bytes(500))
image("zip-named-jpg", "an archive in the archive", UNSUPPORTED)(lambda: b"PK\3\4" + bytes(200))
image("pickle-named-png", "a pickle that would run a command", UNSUPPORTED)(lambda: b"cos\nsystem\n(S'true'\ntR.")

# Formats that are not decoded

image("svg-script", "an SVG with a script", UNSUPPORTED)(lambda: b"<svg xmlns='x'><script>alert(1)</script></svg>")
image("pdf", "a PDF", UNSUPPORTED)(lambda: encode(lesion(), "PDF"))
image("heic", "a HEIF file's first box", UNSUPPORTED)(lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
image("avif", "a real AVIF header", UNSUPPORTED)(lambda: b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(200))
image("jpeg-2000", "a JPEG 2000 header", UNSUPPORTED)(lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(200))
image("jpeg-2000-codestream", "its bare codestream", UNSUPPORTED)(lambda: b"\xff\x4f\xff\x51" + bytes(200))
image("ppm-bomb", "a PPM header of 10 gigapixels", UNSUPPORTED)(lambda: b"P6\n100000 100000\n255\n")
image("eps", "PostScript, which Pillow would hand to Ghostscript", UNSUPPORTED)(lambda: encode(lesion(), "EPS"))
image("ico", "an icon", UNSUPPORTED)(lambda: encode(lesion(), "ICO"))
image("psd", "a Photoshop header", UNSUPPORTED)(lambda: b"8BPS\0\1" + bytes(100))
image("dicom", "a DICOM preamble", UNSUPPORTED)(lambda: bytes(128) + b"DICM" + bytes(100))

# JPEG


@image("jpeg-65500x65500", "a header that claims 4.3 gigapixels", TOO_LARGE)
def _() -> bytes:
    return with_size(good("JPEG"), width=65_500, height=65_500)


@image("jpeg-16384x16384", "a header with the allowed sides and too many pixels", TOO_LARGE)
def _() -> bytes:
    return with_size(good("JPEG"), width=16_384, height=16_384)


image("jpeg-8000x8000-claimed", "a header of 64 megapixels over 64x48", TRUNCATED, UNDECODABLE)(
    lambda: with_size(good("JPEG"), width=8_000, height=8_000)
)
image("jpeg-0x0", "a header without pixels", UNDECODABLE)(lambda: with_size(good("JPEG"), width=0, height=0))
image("jpeg-height-0", "a height that a later segment should give", UNDECODABLE)(
    lambda: with_size(good("JPEG"), width=64, height=0)
)
image("jpeg-sliver-1x16000", "one column", OK)(lambda: encode(Image.new("RGB", (1, 16_000), "tan"), "JPEG"))
image("jpeg-sliver-16000x1", "one row", OK)(lambda: encode(Image.new("RGB", (16_000, 1), "tan"), "JPEG"))
image("jpeg-sliver-1x16385", "one column too long", TOO_LARGE)(lambda: encode(Image.new("L", (1, 16_385)), "JPEG"))
image("jpeg-1x1", "one pixel", OK)(lambda: encode(Image.new("RGB", (1, 1), "tan"), "JPEG"))
for share in (1, 10, 50, 90, 99):
    image(f"jpeg-cut-at-{share}-percent", "a download that stopped", TRUNCATED, UNDECODABLE)(
        lambda share=share: good("JPEG")[: max(3, len(good("JPEG")) * share // 100)]  # type: ignore[misc]
    )
image("jpeg-without-end-marker", "its last two bytes are missing", TRUNCATED)(lambda: good("JPEG")[:-2])
image("jpeg-filled-with-zeros", "its second half never arrived", TRUNCATED, UNDECODABLE)(
    lambda: good("JPEG")[: len(good("JPEG")) // 2] + bytes(len(good("JPEG")) // 2)
)
for seed in range(4):
    image(f"jpeg-1-bit-flipped-{seed}", "one bit of the picture", OK, UNDECODABLE, TRUNCATED)(
        lambda seed=seed: flipped(good("JPEG"), num_flips=1, seed=seed, start=700)  # type: ignore[misc]
    )
image("jpeg-40-bits-flipped", "forty bits of the picture", UNDECODABLE, TRUNCATED)(
    lambda: flipped(good("JPEG"), num_flips=40, seed=1, start=700)
)
image("jpeg-progressive-bomb", "3,000 empty scans over 62 megapixels: minutes", TIMEOUT)(
    lambda: progressive_bomb(width=16_000, height=3_900)
)
image("jpeg-arithmetic", "arithmetic coding claimed", UNDECODABLE, UNSUPPORTED, TRUNCATED)(
    lambda: good("JPEG").replace(b"\xff\xc0", b"\xff\xc9", 1)
)
image("jpeg-lossless", "lossless coding claimed", UNDECODABLE, UNSUPPORTED)(
    lambda: good("JPEG").replace(b"\xff\xc0", b"\xff\xc3", 1)
)


@image("jpeg-12-bit", "12 bits a sample claimed", UNDECODABLE, UNSUPPORTED)
def _() -> bytes:
    return patched(good("JPEG"), good("JPEG").index(b"\xff\xc0") + 4, b"\x0c")


image("jpeg-stray-restart-marker", "a restart marker where none belongs", UNDECODABLE)(
    lambda: patched(good("JPEG"), len(good("JPEG")) // 2, b"\xff\xd3")
)
image("jpeg-restart-every-block", "valid restart markers", OK)(
    lambda: encode(lesion(), "JPEG", restart_marker_blocks=1)
)
image("jpeg-restart-markers-swapped", "restart markers out of order", UNDECODABLE)(
    lambda: encode(lesion(), "JPEG", restart_marker_blocks=1).replace(b"\xff\xd1", b"\xff\xd5", 1)
)
image("jpeg-interval-without-markers", "a restart interval, but no markers", UNDECODABLE)(
    lambda: good("JPEG").replace(b"\xff\xda", segment(0xDD, b"\0\1") + b"\xff\xda", 1)
)
image("jpeg-comments-4-mb", "comment segments of 4 MB", OK)(
    lambda: behind_start(good("JPEG"), segment(0xFE, b"A" * 65_000) * 64)
)
image("jpeg-icc-15-mb", "an ICC profile in 235 pieces", OK)(
    lambda: encode(lesion(), "JPEG", icc_profile=random.Random(5).randbytes(15_000_000))
)
image("jpeg-exif-garbage", "an EXIF block of noise", OK)(
    lambda: behind_start(good("JPEG"), segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff" * 60_000))
)
image("jpeg-exif-loop", "an EXIF directory that follows itself", OK)(
    lambda: behind_start(good("JPEG"), segment(0xE1, b"Exif\0\0II*\0" + struct.pack("<LHL", 8, 0, 8)))
)
image("jpeg-segment-length-0", "a segment shorter than its length field", OK, UNDECODABLE)(
    lambda: behind_start(good("JPEG"), b"\xff\xfe\0\0")
)
image("jpeg-segment-beyond-end", "a segment that reaches past the file", TRUNCATED, UNDECODABLE)(
    lambda: good("JPEG")[:2] + b"\xff\xe1\xff\xff" + good("JPEG")[2:300]
)
image("jpeg-headers-only", "no picture behind the headers", TRUNCATED, UNDECODABLE)(
    lambda: good("JPEG")[: good("JPEG").index(b"\xff\xda")] + b"\xff\xd9"
)
image("jpeg-two-frames", "two frame headers of two sizes", UNDECODABLE, OK)(
    lambda: good("JPEG").replace(b"\xff\xc0", segment(0xC0, b"\x08\x00\x08\x00\x08\x01\x01\x11\x00") + b"\xff\xc0", 1)
)
image("jpeg-no-tables", "no Huffman tables", UNDECODABLE, TRUNCATED, OK)(
    lambda: good("JPEG").replace(b"\xff\xc4", b"\xff\xfe")
)
image("jpeg-trailing-garbage", "bytes behind the end", OK)(lambda: good("JPEG") + random.Random(7).randbytes(5000))
image("jpeg-zip-polyglot", "a zip behind the end", OK)(lambda: good("JPEG") + b"PK\5\6" + bytes(18))
image("jpeg-html-polyglot", "HTML in a comment", OK)(
    lambda: behind_start(good("JPEG"), segment(0xFE, b"<script>alert(1)</script>"))
)
image("jpeg-cmyk", "four inks, inverted as Adobe's programs do", OK)(lambda: encode(lesion().convert("CMYK"), "JPEG"))
image("jpeg-cmyk-cut", "half of four inks", TRUNCATED, UNDECODABLE)(
    lambda: encode(lesion().convert("CMYK"), "JPEG")[:700]
)
image("jpeg-grey", "one component", OK)(lambda: encode(lesion().convert("L"), "JPEG"))
image("jpeg-mpo", "two pictures in one file", OK)(
    lambda: encode(lesion(), "MPO", save_all=True, append_images=[lesion()])
)
for orientation in (*range(1, 9), 0, 9, 65_535):
    image(f"jpeg-orientation-{orientation}", "EXIF orientation", OK)(
        lambda orientation=orientation: encode(lesion(), "JPEG", exif=_exif(orientation))  # type: ignore[misc]
    )


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


image("png-named-jpg", "PNG bytes in a .jpg", OK)(lambda: good("PNG"))
image("jpeg-magic-png-body", "JPEG's first bytes, PNG's rest", UNDECODABLE, TRUNCATED)(
    lambda: b"\xff\xd8\xff" + good("PNG")[3:]
)

# PNG

image("png-144-megapixels", "420 KB that pass Pillow's limit", TOO_LARGE)(
    lambda: png(12_000, 12_000, bytes(12_000 * 1_501), depth=1, colour_type=0)
)
image("png-2-gigapixels-a-side", "the largest sides a header holds", TOO_LARGE)(
    lambda: png(2**31 - 1, 2**31 - 1, b"\0")
)
image("png-0x0", "no pixels", UNDECODABLE)(lambda: png(0, 0, b""))
image("png-idat-bomb", "256 MB of zeros for 16 pixels", OK, UNDECODABLE)(
    lambda: png(4, 4, bytes(52)).replace(
        chunk(b"IDAT", zlib.compress(bytes(52), 1)), chunk(b"IDAT", _deflated_zeros(256 << 20))
    )
)
image("png-ztxt-bomb", "a text of 256 MB of zeros", OK, UNDECODABLE)(
    lambda: png(4, 4, bytes(52), extra=chunk(b"zTXt", b"Comment\0\0" + _deflated_zeros(256 << 20)))
)
image("png-iccp-bomb", "a colour profile of 256 MB of zeros", OK, UNDECODABLE)(
    lambda: png(4, 4, bytes(52), extra=chunk(b"iCCP", b"p\0\0" + _deflated_zeros(256 << 20)))
)
image("png-text-8-mb", "a plain text of 8 MB", OK, UNDECODABLE)(
    lambda: png(4, 4, bytes(52), extra=chunk(b"tEXt", b"Comment\0" + b"A" * (8 << 20)))
)
image("png-50000-chunks", "fifty thousand empty chunks", OK)(
    lambda: png(4, 4, bytes(52), extra=chunk(b"teSt", b"") * 50_000)
)


image("png-bad-crc-of-header", "IHDR's checksum is wrong", UNDECODABLE)(lambda: patched(good("PNG"), 29, b"\0\0\0\0"))
image("png-bad-crc-of-picture", "one bit of the compressed picture", UNDECODABLE)(
    lambda: patched(good("PNG"), 300, bytes([good("PNG")[300] ^ 1]))
)
image("png-without-end", "no IEND", TRUNCATED)(lambda: good("PNG")[:-12])
for share in (10, 50, 90):
    image(f"png-cut-at-{share}-percent", "a download that stopped", TRUNCATED)(
        lambda share=share: good("PNG")[: len(good("PNG")) * share // 100]  # type: ignore[misc]
    )
image("png-no-picture", "no IDAT", UNDECODABLE)(lambda: good("PNG")[:33] + chunk(b"IEND", b""))
image("png-short-picture", "fewer rows than the header says, checksums right", OK, UNDECODABLE, TRUNCATED)(
    lambda: png(64, 64, bytes(193 * 10))
)
image("png-long-chunk-length", "a chunk of 2 GB that is not there", TRUNCATED, UNDECODABLE)(
    lambda: patched(good("PNG"), 33, b"\x7f\xff\xff\xff")
)
image("png-bad-filter", "a filter type that does not exist, checksums right", UNDECODABLE)(
    lambda: png(4, 4, b"\x09" * 52)
)
image("png-bad-colour-type", "colour type 5", UNDECODABLE)(lambda: png(4, 4, bytes(52), colour_type=5))
image("png-palette-missing", "palette indices without a palette", UNDECODABLE)(
    lambda: png(4, 4, bytes(20), colour_type=3)
)
image("png-palette-index-too-high", "indices beyond the palette", OK, UNDECODABLE)(
    lambda: png(4, 4, b"\0\xff\xff\xff\xff" * 4, colour_type=3, extra=chunk(b"PLTE", b"\1\2\3"))
)
image("png-interlaced", "Adam7", OK)(lambda: png(1, 1, b"\0abc", interlace=1))
image("png-16-bit-rgb", "16 bits a sample", OK)(lambda: png(4, 4, (b"\0" + b"\xab\xcd" * 12) * 4, depth=16))
image("png-16-bit-grey", "16 bits a sample, which Pillow clips", OK)(
    lambda: encode(Image.fromarray(np.full((8, 8), 0xABCD, np.uint16)), "PNG")
)
image("png-16-bit-rgba", "16 bits a sample and alpha", OK)(
    lambda: png(4, 4, (b"\0" + b"\xab\xcd" * 16) * 4, depth=16, colour_type=6)
)
image("png-1-bit", "black and white", OK)(lambda: encode(lesion().convert("1"), "PNG"))
image("png-palette", "a palette", OK)(lambda: encode(lesion().quantize(16), "PNG"))
image("png-alpha", "an alpha channel", OK)(lambda: encode(lesion().convert("RGBA"), "PNG"))
image("png-animated", "an APNG", OK)(
    lambda: encode(lesion(), "PNG", save_all=True, append_images=[Image.new("RGB", (64, 48))])
)
image("png-animated-lying", "an APNG that claims 4 billion frames", OK, UNDECODABLE)(
    lambda: png(4, 4, bytes(52), extra=chunk(b"acTL", struct.pack(">2I", 2**32 - 1, 0)))
)
image("png-exif-garbage", "an EXIF chunk of noise", OK)(
    lambda: png(4, 4, bytes(52), extra=chunk(b"eXIf", b"II*\0\xff\xff\xff\xff" + b"\xff" * 500))
)

# TIFF, BMP, WebP, GIF

image("tiff-ifd-loop", "a second page that is the first", OK)(lambda: grey_tiff(8, 8, next_ifd=8, tail=bytes(64)))
image("tiff-ifd-beyond-end", "a second page outside the file", OK)(
    lambda: grey_tiff(8, 8, next_ifd=10**9, tail=bytes(64))
)
image("tiff-header-only", "a first page outside the file", UNDECODABLE, TRUNCATED)(lambda: b"II*\0\xff\xff\xff\x7f")
image("tiff-no-size", "no width", UNDECODABLE)(lambda: tiff([(257, 4, 1, 8)]))
image("tiff-65535-tags", "as many tags as a directory holds", UNDECODABLE)(
    lambda: tiff([(number, 4, 1, 1) for number in range(30_000, 65_535)])
)
image("tiff-tag-of-4-gb", "a tag with 4 billion values", OK, UNDECODABLE, TRUNCATED)(
    lambda: tiff([(256, 4, 1, 8), (257, 4, 1, 8), (700, 1, 2**32 - 1, 8)])
)
image("tiff-65500x65500", "a header of 4.3 gigapixels", TOO_LARGE)(lambda: grey_tiff(65_500, 65_500, tail=bytes(64)))
image("tiff-strip-beyond-end", "a strip outside the file", TRUNCATED, UNDECODABLE)(
    lambda: grey_tiff(8, 8, strip_start=10**9)
)
image("tiff-strip-too-short", "a strip of 10 bytes for 64 pixels", TRUNCATED, UNDECODABLE)(
    lambda: grey_tiff(8, 8, tail=bytes(10), strip_bytes=10)
)
image("tiff-cut-in-half", "a download that stopped", TRUNCATED, UNDECODABLE)(
    lambda: good("TIFF")[: len(good("TIFF")) // 2]
)
image("tiff-unknown-compression", "compression 9999", UNDECODABLE, UNSUPPORTED)(
    lambda: grey_tiff(8, 8, tail=bytes(64), compression=9999)
)


@image("tiff-giant-tiles", "8x8 pixels in a tile of 4 gigapixels", UNDECODABLE, TRUNCATED, TOO_LARGE)
def _() -> bytes:
    tags = {256: 8, 257: 8, 258: 8, 259: 5, 262: 1, 277: 1, 322: 65_536, 323: 65_536, 324: 14 + 12 * 10, 325: 64}
    return tiff([(number, 4, 1, value) for number, value in tags.items()], tail=bytes(64))


@image("tiff-giant-strip", "one LZW strip declared for 60 megapixels, 64 bytes long", UNDECODABLE, TRUNCATED, TOO_LARGE)
def _() -> bytes:
    return grey_tiff(16_000, 3_750, tail=bytes(64), compression=5, strip_bytes=64)


@image("tiff-4096-samples", "4,096 samples a pixel", UNDECODABLE, UNSUPPORTED)
def _() -> bytes:
    return grey_tiff(8, 8, tail=bytes(64), samples=4_096)


image("tiff-lzw-damaged", "LZW codes of noise", UNDECODABLE, TRUNCATED)(
    lambda: flipped(encode(lesion(), "TIFF", compression="tiff_lzw"), num_flips=200, seed=2, start=1000)
)
image("tiff-float", "32-bit floats", UNSUPPORTED)(lambda: encode(Image.new("F", (8, 8)), "TIFF"))
image("tiff-16-bit", "16-bit grey", OK)(lambda: encode(Image.fromarray(np.full((8, 8), 0xABCD, np.uint16)), "TIFF"))
image("tiff-cmyk", "four inks", OK)(lambda: encode(lesion().convert("CMYK"), "TIFF"))
image("tiff-3-pages", "three pages", OK)(lambda: encode(lesion(), "TIFF", save_all=True, append_images=[lesion()] * 2))
image("tiff-3000-pages", "three thousand pages of nothing", OK)(lambda: _chained_tiff(3_000))


def _chained_tiff(num_pages: int) -> bytes:
    first_size = 14 + 12 * 9 + 64
    first = grey_tiff(8, 8, next_ifd=first_size, tail=bytes(64))
    assert len(first) == first_size
    return first + b"".join(
        struct.pack("<HL", 0, first_size + 6 * page if page < num_pages else 0) for page in range(1, num_pages)
    )


image("bmp-negative-height", "rows from the top, as the format allows", OK)(
    lambda: bmp(4, -4, bits=24, compression=0, body=bytes(48))
)
image("bmp-lowest-height", "a height of -2 to the 31", TOO_LARGE, UNDECODABLE)(
    lambda: bmp(4, -(2**31), bits=24, compression=0, body=bytes(48))
)
image("bmp-negative-width", "a negative width", UNDECODABLE, TOO_LARGE)(
    lambda: bmp(-4, 4, bits=24, compression=0, body=bytes(48))
)
image("bmp-65500x65500", "a header of 4.3 gigapixels", TOO_LARGE)(
    lambda: bmp(65_500, 65_500, bits=24, compression=0, body=bytes(48))
)
image("bmp-rle", "valid run lengths", OK)(
    lambda: bmp(4, 2, bits=8, compression=1, body=b"\4\0\0\0\4\0\0\1", palette=bytes(1024))
)
image("bmp-rle-bomb", "run lengths that never fill 60 megapixels", TRUNCATED, UNDECODABLE, OK)(
    lambda: bmp(16_000, 3_750, bits=8, compression=1, body=b"\xff\0" * 100, palette=bytes(1024))
)
image("bmp-rle-outside", "a jump out of the picture", OK, UNDECODABLE, TRUNCATED)(
    lambda: bmp(4, 2, bits=8, compression=1, body=b"\0\2\xff\xff\4\0\0\1", palette=bytes(1024))
)
image("bmp-cut-in-half", "a download that stopped", TRUNCATED)(lambda: good("BMP")[: len(good("BMP")) // 2])
image("bmp-unknown-compression", "compression 77", UNDECODABLE)(
    lambda: bmp(4, 4, bits=24, compression=77, body=bytes(48))
)
image("webp-cut-in-half", "a download that stopped", TRUNCATED)(lambda: good("WEBP")[: len(good("WEBP")) // 2])
image("webp-lying-size", "RIFF claims more bytes than there are", TRUNCATED)(
    lambda: patched(good("WEBP"), 4, b"\xff\xff\xff\x7f")
)
image("webp-claims-16383x16383", "the largest sides a header holds", TOO_LARGE)(lambda: _webp_claiming(16_383))
image("webp-body-of-noise", "a good header over noise", UNDECODABLE, OK)(
    lambda: flipped(good("WEBP"), num_flips=100, seed=3, start=40)
)
image("webp-animated", "an animated WebP", OK)(
    lambda: encode(lesion(), "WEBP", save_all=True, append_images=[Image.new("RGB", (64, 48))])
)
image("webp-alpha", "WebP with alpha", OK)(lambda: encode(lesion().convert("RGBA"), "WEBP", lossless=True))


def _webp_claiming(side: int) -> bytes:
    data = encode(lesion(), "WEBP", lossless=True)
    return patched(data, data.index(b"VP8L") + 9, struct.pack("<L", (side - 1) | (side - 1) << 14))


image("gif", "a single picture", OK)(lambda: good("GIF"))
image("gif-12-frames", "an animation", OK)(
    lambda: encode(
        Image.new("P", (8, 8)), "GIF", save_all=True, append_images=[Image.new("P", (8, 8), n) for n in range(1, 12)]
    )
)
image("gif-screen-65535", "a screen of 4.3 gigapixels", TOO_LARGE)(lambda: patched(good("GIF"), 6, b"\xff\xff\xff\xff"))
image("gif-frame-outside-screen", "a picture larger than its screen", OK, UNDECODABLE, TOO_LARGE)(
    lambda: patched(good("GIF"), 6, b"\4\0\4\0")
)
image("gif-100000-frames", "a hundred thousand empty frames", OK)(
    lambda: good("GIF")[:-1] + (b"," + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\2\1\0\0") * 100_000 + b";"
)
image("gif-cut-in-half", "a download that stopped", TRUNCATED)(lambda: good("GIF")[: len(good("GIF")) // 2])
image("gif-lzw-noise", "LZW codes of noise", OK, UNDECODABLE, TRUNCATED)(
    lambda: flipped(good("GIF"), num_flips=100, seed=5, start=900)
)
image("gif-header-only", "a screen without a picture", UNDECODABLE, TRUNCATED)(lambda: good("GIF")[:13] + b";")
image("gif-javascript-polyglot", "a GIF that is a script", UNDECODABLE, TRUNCATED, TOO_LARGE)(
    lambda: b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)"
)
image("over-64-mib", "more bytes than allowed", TOO_LARGE)(lambda: good("JPEG") + bytes(64 << 20))
