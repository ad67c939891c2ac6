"""Fuzzing: whatever is done to the bytes of images and archives, the answer is a row or one sentence, and soon."""

from __future__ import annotations

import functools
import io
import random
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from skinvae.errors import ArchiveError
from skinvae.images.archives import Missing, RawMember, SliceEnd, open_archive
from skinvae.images.decode import Decoded, DecodeSettings, decode
from skinvae.images.isolation import DecoderProcess
from skinvae.records import Status
from tests.unit.images.readers import BytesReader

LIMITS = DecodeSettings(max_pixels=1_000_000, max_bytes=1 << 20, max_seconds=5.0)
SECONDS = 5.0
"""For one file; the slowest take some 10 ms."""

FEW = settings(
    max_examples=400, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck)
)
MANY = settings(FEW, max_examples=10_000)


def encode(format_: str, **options: object) -> bytes:
    stream = io.BytesIO()
    gradient = Image.linear_gradient("L").resize((24, 16)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient.save(stream, format_, **({"exif": exif} if format_ in ("JPEG", "PNG", "TIFF") else {}), **options)
    return stream.getvalue()


@functools.cache
def seeds(kind: str) -> tuple[bytes, ...]:
    """Valid files of a kind, small so that a change anywhere counts."""
    images = {
        "JPEG": lambda: (encode("JPEG"), encode("JPEG", progressive=True), encode("JPEG", restart_marker_blocks=1)),
        "PNG": lambda: (encode("PNG"), encode("PNG", save_all=True, append_images=[Image.new("RGB", (24, 16))])),
        "TIFF": lambda: (encode("TIFF"), encode("TIFF", compression="tiff_lzw"), encode("TIFF", compression="jpeg")),
        "other": lambda: (encode("GIF"), encode("WEBP"), encode("BMP")),
        "zip": lambda: (zipped(zipfile.ZIP_STORED), zipped(zipfile.ZIP_DEFLATED)),
        "tar": lambda: (tarred("w", tarfile.GNU_FORMAT), tarred("w", tarfile.PAX_FORMAT), tarred("w:gz")),
    }
    return images[kind]()  # type: ignore[no-untyped-call]


def zipped(method: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for index, data in enumerate(seeds("JPEG")):
            file.writestr(f"{index}.jpg", data)
    return stream.getvalue()


def tarred(mode: str, format_: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=format_) as file:  # type: ignore[call-overload]
        for index, data in enumerate(seeds("JPEG")):
            info = tarfile.TarInfo("long" * 40 * index + f"{index}.jpg")
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def flip(data: bytearray, generator: random.Random) -> None:
    data[_place(data, generator)] ^= 1 << generator.randrange(8)


def overwrite(data: bytearray, generator: random.Random) -> None:
    """With values that programs stumble over."""
    value = generator.choice([b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"])
    start = _place(data, generator)
    data[start : start + len(value)] = value


def cut(data: bytearray, generator: random.Random) -> None:
    del data[_place(data, generator) :]


def remove(data: bytearray, generator: random.Random) -> None:
    start = _place(data, generator)
    del data[start : start + generator.randint(1, 40)]


def insert(data: bytearray, generator: random.Random) -> None:
    start = _place(data, generator)
    data[start:start] = generator.randbytes(generator.randint(1, 40))


def splice(data: bytearray, generator: random.Random) -> None:
    """A piece of the file a second time, elsewhere: whole segments, chunks and headers, their checksums right."""
    start, to = _place(data, generator), _place(data, generator)
    data[to:to] = data[start : start + generator.choice([4, 12, 30, 200, 512])]


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (flip, overwrite, cut, remove, insert, splice)


def _place(data: bytearray, generator: random.Random) -> int:
    """Half of the damage goes where headers and directories are: the first and the last 200 bytes."""
    near = min(200, len(data))
    return max(
        0, generator.choice([generator.randrange(len(data) + 1), generator.randint(0, near), len(data) - near]) - 1
    )


@st.composite
def mutants(draw: st.DrawFn, kind: str) -> bytes:
    """One of the kind's seeds after one to six mutations."""
    data = bytearray(draw(st.sampled_from(seeds(kind))))
    mutations = draw(st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=6))
    generator = random.Random(draw(st.integers(0, 2**32)))
    for mutate in mutations:
        if data:
            mutate(data, generator)
    return bytes(data)


def check_decoded(decoded: Decoded) -> None:
    assert (decoded.pixels is not None) == (decoded.status is Status.OK)
    assert decoded.status is Status.OK or decoded.error
    assert not decoded.error or ("\n" not in decoded.error and len(decoded.error) <= 200)


def check_image(data: bytes) -> None:
    started = time.perf_counter()
    check_decoded(decode(data, size=8, settings=LIMITS))
    assert time.perf_counter() - started < SECONDS


def read(data: bytes) -> Iterator[RawMember | SliceEnd]:
    archive = open_archive(BytesReader(data, uri="memory"), max_bytes=LIMITS.max_bytes)
    if archive.num_members != 0:
        for part in archive.parts(Missing(((0, archive.num_members),)), slice_size=2):
            yield from archive.read(part)


def check_archive(data: bytes) -> None:
    started = time.perf_counter()
    try:
        items = list(read(data))
    except ArchiveError as error:
        items, sentence = [], str(error)
    else:
        sentence = "."
    assert sentence.endswith(".")
    assert "\n" not in sentence
    for item in items:
        if isinstance(item, RawMember):
            assert (item.data is not None) == (item.status is Status.OK) == (item.error is None)
            assert len(item.data or b"") <= LIMITS.max_bytes
    assert time.perf_counter() - started < SECONDS


CHECKS = {kind: check_archive if kind in ("zip", "tar") else check_image for kind in ("JPEG", "PNG", "TIFF", "other")}
CHECKS |= {"zip": check_archive, "tar": check_archive}


@pytest.mark.parametrize("kind", CHECKS)
@FEW
@given(data=st.data())
def test_mutants_get_an_answer(kind: str, data: st.DataObject) -> None:
    CHECKS[kind](data.draw(mutants(kind)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHECKS)
@MANY
@given(data=st.data())
def test_many_mutants_get_an_answer(kind: str, data: st.DataObject) -> None:
    CHECKS[kind](data.draw(mutants(kind)))


def mutant_images(*, count: int, seed: int) -> list[bytes]:
    generator, images = random.Random(seed), []
    for _ in range(count):
        data = bytearray(generator.choice(seeds(generator.choice(["JPEG", "PNG", "TIFF", "other"]))))
        for _ in range(generator.randint(1, 6)):
            if data:
                generator.choice(MUTATIONS)(data, generator)
        images.append(bytes(data))
    return images


def check_isolated(images: list[bytes]) -> None:
    """In one child: its answers are those of this process, and it survives them all."""
    with DecoderProcess() as decoder:
        list(decoder.decode_all([(None, seeds("PNG")[0])], size=8, settings=LIMITS))
        pid = decoder.pid
        for image, isolated in decoder.decode_all(((one, one) for one in images), size=8, settings=LIMITS):
            assert isolated is not None
            check_decoded(isolated)
            here = decode(image, size=8, settings=LIMITS)
            assert (isolated.status, isolated.width, isolated.height) == (here.status, here.width, here.height)
            assert isolated.pixels is None or (isolated.pixels == here.pixels).all()
        assert decoder.pid == pid


def test_the_isolated_decoder_survives_mutants() -> None:
    check_isolated(mutant_images(count=1_500, seed=1))


@pytest.mark.slow
def test_the_isolated_decoder_survives_many_mutants() -> None:
    check_isolated(mutant_images(count=40_000, seed=2))


# Measured shares of single-bit flips that are refused: JPEG 25 %, PNG 100 %. The others of JPEG mostly give another
# valid picture, which only the checksum of an archive can tell.
@pytest.mark.parametrize(("kind", "lowest", "highest"), [("JPEG", 0.1, 0.9), ("PNG", 0.95, 1.0)])
def test_some_single_bit_flips_are_found(
    kind: str, lowest: float, highest: float, record_property: Callable[[str, object], None]
) -> None:
    data = seeds(kind)[0]
    generator, num_found, num_flips = random.Random(3), 0, 1_000
    for _ in range(num_flips):
        flipped = bytearray(data)
        flipped[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        num_found += decode(bytes(flipped), size=8, settings=LIMITS).status is not Status.OK
    record_property("single-bit flips refused in strict mode", f"{num_found} of {num_flips}")
    assert lowest <= num_found / num_flips <= highest


def test_a_zips_checksum_finds_every_flip_of_an_image() -> None:
    """What strict decoding cannot see, the archive's CRC-32 does."""
    data = zipped(zipfile.ZIP_STORED)
    start = data.index(b"0.jpg") + 5
    generator = random.Random(4)
    for _ in range(200):
        flipped = bytearray(data)
        flipped[start + generator.randrange(len(seeds("JPEG")[0]))] ^= 1 << generator.randrange(8)
        first = next(item for item in read(bytes(flipped)) if isinstance(item, RawMember))
        assert first.status is Status.CORRUPT_CRC
