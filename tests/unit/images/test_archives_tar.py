"""Tars that are in order: the same members as tarfile sees, however they are cut and resumed, in few reads."""

from __future__ import annotations

import bz2
import gzip
import io
import pickle
import random
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinvae.images.archives.base import Member, Missing, RawMember, SliceEnd
from skinvae.images.archives.coalesce import MAX_READ_BYTES
from skinvae.images.archives.tar.archive import TarArchive, TarPart, open_tar
from skinvae.records import Status
from tests.unit.images.readers import BytesReader

MAX_BYTES = 64 << 20
COMPRESSIONS = (None, "gzip", "zstd", "bz2")
ALL: tuple[tuple[int, int | None], ...] = ((0, None),)

Items = list[RawMember | SliceEnd]


def in_memory(data: bytes) -> BytesReader:
    return BytesReader(data, uri="memory.tar")


class Tar(bytes):
    """A failing example prints its members, not its zeros."""

    def __repr__(self) -> str:
        with tarfile.open(fileobj=io.BytesIO(self), ignore_zeros=True, errors="replace") as archive:
            return str([(info.name[-20:], info.type, info.size) for info in archive])


def make_tar(members: Mapping[str, bytes], *, tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tar_format) as archive:
        for name, data in members.items():
            add(archive, name, data)
    return stream.getvalue()


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", *, type_: bytes = tarfile.REGTYPE) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), type_, "0.jpg" if type_ in (b"1", b"2") else ""
    archive.addfile(info, io.BytesIO(data))


def compress(data: bytes, compression: str | None, *, num_streams: int = 1) -> bytes:
    """`num_streams` gzip members, zstd frames or bzip2 streams in a row, as parallel compressors write them."""
    if compression is None:
        return data
    step = -(-len(data) // num_streams) or 1
    pieces = [data[first : first + step] for first in range(0, len(data), step)]
    if compression == "gzip":
        return b"".join(gzip.compress(piece, 1) for piece in pieces)
    if compression == "bz2":
        return b"".join(bz2.compress(piece) for piece in pieces)
    return b"".join(pa.compress(piece, "zstd", asbytes=True) for piece in pieces)


def tar_of(data: bytes, *, max_bytes: int = MAX_BYTES) -> TarArchive:
    archive = open_tar(in_memory(data), max_bytes=max_bytes)
    assert archive is not None
    return archive


def read(archive: TarArchive, missing: Missing | None = None, *, size: int = 1000) -> Items:
    (part,) = pickle.loads(pickle.dumps(archive.parts(missing or Missing(ALL), slice_size=size)))
    return list(archive.read(part))


def ends(items: Items) -> list[SliceEnd]:
    return [item for item in items if isinstance(item, SliceEnd)]


def raws(items: Items) -> list[RawMember]:
    return [item for item in items if isinstance(item, RawMember)]


def offsets(items: Items) -> dict[int, int]:
    """What a later run knows of the slices that were done."""
    return {
        member: offset
        for end in ends(items)
        if end.byte_range is not None
        for member, offset in zip((end.start, end.stop), end.byte_range, strict=True)
    }


@st.composite
def tars(draw: st.DrawFn) -> bytes:
    """Members of all types and of mixed sizes, long and foreign names, at times appended to another tar."""
    stream, index = io.BytesIO(), 0
    for _ in range(draw(st.integers(1, 2))):
        tar_format = draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
        longest = 20 if tar_format == tarfile.USTAR_FORMAT else 1000
        with tarfile.open(fileobj=stream, mode="w", format=tar_format, encoding="utf-8") as archive:
            for _ in range(draw(st.integers(1, 8))):
                folder = draw(st.sampled_from(["", "dir/", "é/", "😀/", "/", "../", "n" * longest + "/"]))
                type_ = draw(st.sampled_from([tarfile.REGTYPE] * 6 + [tarfile.AREGTYPE, b"1", b"2", b"3", b"5", b"6"]))
                data = draw(st.binary(max_size=30)) * draw(st.sampled_from([0, 1, 7, 3000]))
                add(archive, f"{folder}{index}.jpg", data if type_ in b"07\0" else b"", type_=type_)
                index += 1
    return Tar(stream.getvalue())


def as_tarfile_sees_it(data: bytes) -> list[tuple[int, str, bytes | None]]:
    """(ordinal, name, data, or None of a link) of each file and link."""
    expected: list[tuple[int, str, bytes | None]] = []
    with tarfile.open(fileobj=io.BytesIO(data), ignore_zeros=True, encoding="utf-8", errors="replace") as archive:
        for index, info in enumerate(archive):
            if info.isreg():
                file = archive.extractfile(info)
                assert file is not None
                expected.append((index, info.name, file.read()))
            elif info.islnk() or info.issym():
                expected.append((index, info.name, None))
    return expected


@settings(max_examples=200, deadline=None)
@given(data=tars(), size=st.integers(1, 9), compression=st.sampled_from(COMPRESSIONS), num_streams=st.integers(1, 3))
def test_any_slicing_gives_the_members_that_tarfile_sees(
    data: bytes, size: int, compression: str | None, num_streams: int
) -> None:
    compressed = compress(data, compression, num_streams=num_streams)
    archive = tar_of(compressed)
    assert archive.num_members is None
    names = [member.name for member in archive.members()]
    with tarfile.open(fileobj=io.BytesIO(data), ignore_zeros=True, encoding="utf-8") as reference:
        assert names == [info.name.rstrip("/") for info in reference]  # older Pythons keep a long folder's slash
    items = read(archive, size=size)
    assert [(raw.index, raw.name, raw.data) for raw in raws(items)] == as_tarfile_sees_it(data)
    assert {raw.status for raw in raws(items)} <= {Status.OK, Status.UNSUPPORTED_FORMAT}
    assert all((raw.data is None) == (raw.status is not Status.OK) == (raw.error is not None) for raw in raws(items))
    check_ends(items, num_members=len(names), size=size, num_bytes=len(compressed))


def check_ends(items: Items, *, num_members: int, size: int, num_bytes: int) -> None:
    bounds = [(end.start, end.stop) for end in ends(items)]
    assert bounds == [(first, min(first + size, num_members)) for first in range(0, num_members, size)]
    borders = [offset for end in ends(items) for offset in end.byte_range or ()]
    assert borders == sorted(borders)
    assert [border == num_bytes for border in borders] == [False] * (len(borders) - 1) + [True]
    started = 0
    for item in items:  # each behind its own members
        assert item.start >= started if isinstance(item, SliceEnd) else item.index >= started
        started = item.stop if isinstance(item, SliceEnd) else started


@settings(max_examples=100, deadline=None)
@given(data=tars(), size=st.integers(1, 9), compression=st.sampled_from(COMPRESSIONS))
def test_resuming_at_any_border_gives_the_rest(data: bytes, size: int, compression: str | None) -> None:
    archive = tar_of(compress(data, compression))
    items = read(archive, size=size)
    for border in [end.stop for end in ends(items)[:-1]]:
        # Behind a border nothing is known yet.
        known = {member: offset for member, offset in offsets(items).items() if member <= border}
        missing = Missing(((border, None),), known)
        (part,) = archive.parts(missing, slice_size=size)
        assert isinstance(part, TarPart)
        assert (part.start, part.offset) == ((border, known[border]) if compression is None else (0, 0))
        resumed = read(archive, missing, size=size)
        rest = items[items.index(next(end for end in ends(items) if end.stop == border)) + 1 :]
        if compression is None:
            assert resumed == rest
        else:
            assert raws(resumed) == raws(rest)
            assert [(end.start, end.stop) for end in ends(resumed)] == [(end.start, end.stop) for end in ends(rest)]
            assert (ends(resumed)[-1].byte_range or (0, 0))[1] == (ends(rest)[-1].byte_range or (0, 0))[1]


@settings(max_examples=150, deadline=None)
@given(data=tars(), size=st.integers(1, 9), compression=st.sampled_from(COMPRESSIONS), draw=st.data())
def test_holes_are_passed_over(data: bytes, size: int, compression: str | None, draw: st.DataObject) -> None:
    archive = tar_of(compress(data, compression))
    num_members = sum(1 for _ in archive.members())
    done = draw.draw(st.sets(st.integers(0, num_members - 1), max_size=num_members - 1))
    is_open = draw.draw(st.booleans()) and num_members - 1 not in done
    ranges = gaps(done, num_members, is_open=is_open)
    known = offsets(read(archive, size=1))
    known = {member: known[member] for member in draw.draw(st.sets(st.sampled_from(sorted(known))))}
    items = read(archive, Missing(ranges, known), size=size)
    assert [(raw.index, raw.name, raw.data) for raw in raws(items)] == [
        one for one in as_tarfile_sees_it(data) if one[0] not in done
    ]
    assert [(end.start, end.stop) for end in ends(items)] == [
        (first, min(first + size, stop or num_members))
        for start, stop in ranges
        for first in range(start, stop or num_members, size)
    ]
    size_bytes = archive._reader.size
    last = ends(items)[-1]
    for end in ends(items):
        assert end.byte_range is not None
        assert (end.byte_range[1] == size_bytes) == (end is last and last.stop == num_members)
        if compression is None:
            resumed = read(archive, Missing(((end.start, end.stop),), {end.start: end.byte_range[0]}), size=size)
            assert raws(resumed) == [raw for raw in raws(items) if end.start <= raw.index < end.stop]


def gaps(done: set[int], num_members: int, *, is_open: bool) -> tuple[tuple[int, int | None], ...]:
    todo = [index for index in range(num_members) if index not in done]
    cuts = [0, *(at for at, (one, two) in enumerate(pairwise(todo), start=1) if two != one + 1), len(todo)]
    ranges: list[tuple[int, int | None]] = [(todo[one], todo[two - 1] + 1) for one, two in pairwise(cuts)]
    return (*ranges[:-1], (ranges[-1][0], None)) if is_open else tuple(ranges)


@pytest.mark.parametrize("ranges", [((3, 3),), ((0, None), (5, 9)), ((0, 5), (4, None)), ((5, 9), (1, 2))])
def test_ranges_that_are_none(ranges: tuple[tuple[int, int | None], ...]) -> None:
    with pytest.raises(ValueError, match="must begin at"):
        TarArchive(in_memory(b""), max_bytes=1).parts(Missing(ranges), slice_size=2)


def test_nothing_missing_is_no_part_and_the_constructor_reads_nothing() -> None:
    reader = in_memory(make_tar({"a.jpg": b"1"}))
    assert TarArchive(reader, max_bytes=1).parts(Missing(()), slice_size=2) == []
    assert reader.reads == []


def test_ordinals_count_every_entry_and_only_images_are_yielded() -> None:
    members = {
        "d": b"",
        "d/a.jpg": b"1",
        "LICENSE.txt": b"2",
        "__MACOSX/d/._a.jpg": b"3",
        "d/b": b"4",
        "d/c.png": b"5",
        "ISIC_1": b"\xff\xd8\xff\xe0",
    }
    items = read(tar_of(make_tar(members)), size=2)
    assert [(raw.index, raw.data) for raw in raws(items)] == [(1, b"1"), (5, b"5"), (6, b"\xff\xd8\xff\xe0")]
    assert [(end.start, end.stop) for end in ends(items)] == [(0, 2), (2, 4), (4, 6), (6, 7)]


def test_the_last_slice_knows_that_it_is_the_last_even_where_it_is_full() -> None:
    data = make_tar({f"{index}.jpg": b"1" for index in range(4)})
    assert [end.byte_range for end in ends(read(tar_of(data), size=2))] == [(0, 2048), (2048, len(data))]


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_kinds_and_compressions_are_told_by_content(tar_format: int, compression: str | None) -> None:
    generator = random.Random(1)  # incompressible: the first block is as long as it gets
    data = make_tar({f"{'d' * 90}/{i}.jpg": generator.randbytes(1 << 20) for i in range(3)}, tar_format=tar_format)
    reader = in_memory(compress(data, compression))
    archive = open_tar(reader, max_bytes=MAX_BYTES)
    assert archive is not None
    assert reader.num_bytes <= (1 << 20) + 512
    (part,) = archive.parts(Missing(ALL), slice_size=5)
    assert isinstance(part, TarPart)
    assert part.compression == compression


@pytest.mark.parametrize(
    "data",
    [b"", b"PK\3\4", bytes(10240), b"\xff\xd8\xff\xe0" * 1000, b"text\n" * 1000, gzip.compress(b"text" * 1000)],
)
def test_what_is_no_tar(data: bytes) -> None:
    assert open_tar(in_memory(data + b"."), max_bytes=MAX_BYTES) is None
    assert open_tar(in_memory(data[:200]), max_bytes=MAX_BYTES) is None


def test_zstd_with_skippable_frames_in_front_and_behind() -> None:
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"1234"
    data = skippable + compress(make_tar({"a.jpg": b"1"}), "zstd") + skippable
    assert [raw.data for raw in raws(read(tar_of(data)))] == [b"1"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_byte_is_read_once_in_few_requests(compression: str | None) -> None:
    generator = random.Random(1)
    members = {f"{index}.jpg": generator.randbytes(50_000 + index) for index in range(1500)}
    if compression == "bz2":  # slow
        members = dict(list(members.items())[:200])
    reader = in_memory(compress(make_tar(members), compression))
    archive = TarArchive(reader, max_bytes=MAX_BYTES, compression=compression)
    items = read(archive, size=100)
    assert {raw.name: raw.data for raw in raws(items)} == members
    assert reader.num_bytes == reader.size
    assert len(reader.reads) == -(-reader.size // MAX_READ_BYTES)
    if compression is None:
        border = ends(items)[7]
        reader.reads.clear()
        read(archive, Missing(((border.stop, None),), offsets(items[: items.index(border) + 1])))
        assert reader.reads[0][0] == (border.byte_range or (0, 0))[1]
        assert reader.num_bytes < 0.5 * reader.size


def test_what_is_not_wanted_is_not_read() -> None:
    members = {f"{index}.jpg": bytes([index]) * (3 * MAX_READ_BYTES) for index in range(5)}
    reader = in_memory(make_tar(members))
    archive = TarArchive(reader, max_bytes=MAX_BYTES)
    (part,) = archive.parts(Missing(ALL), slice_size=10)
    chosen = [item.index for item in archive.read(part, wanted=_second) if isinstance(item, RawMember)]
    assert chosen == [1]
    assert reader.num_bytes < 0.65 * reader.size
    starts = [start for start, _ in reader.reads]
    assert starts == sorted(set(starts))


def _second(member: Member) -> bool:
    return member.index == 1


def test_too_large_a_member_is_refused_and_passed_over() -> None:
    reader = in_memory(make_tar({"a.jpg": b"1", "b.jpg": bytes(5 * MAX_READ_BYTES), "c.jpg": b"3"}))
    items = read(TarArchive(reader, max_bytes=1000))
    assert [(raw.status, raw.data) for raw in raws(items)] == [
        (Status.OK, b"1"),
        (Status.TOO_LARGE, None),
        (Status.OK, b"3"),
    ]
    assert reader.num_bytes < 0.5 * reader.size


def test_errors_of_the_reader_pass_through() -> None:
    class Failing(BytesReader):
        def read(self, start: int, stop: int) -> bytes:
            if start:
                raise PermissionError("403")
            return super().read(start, stop)

    generator = random.Random(1)
    data = make_tar({f"{index}.jpg": generator.randbytes(5 << 20) for index in range(5)})
    for compression in (None, "gzip", "zstd"):
        reader = Failing(compress(data, compression))
        archive = TarArchive(reader, max_bytes=MAX_BYTES, compression=compression)
        (part,) = archive.parts(Missing(ALL), slice_size=2)
        items: Items = []
        with pytest.raises(PermissionError, match="403"):
            items.extend(archive.read(part))
        assert len(raws(items)) == 3
        assert [(end.start, end.stop) for end in ends(items)] == [(0, 2)]


def test_an_abandoned_read_ends_its_thread() -> None:
    archive = tar_of(make_tar({f"{i}.jpg": bytes(9) for i in range(9)}))
    reading = archive.read(archive.parts(Missing(ALL), slice_size=2)[0])
    next(iter(reading))
    reading.close()  # type: ignore[attr-defined]


BIG_TAR = """
import io, resource, sys, tarfile, zlib
from skinvae.images.archives.base import Missing, RawMember, SliceEnd
from skinvae.images.archives.tar.archive import TarArchive

info = tarfile.TarInfo("ISIC_0000000.jpg")
info.size = (1 << 20) - 512
MEMBER = info.tobuf() + bytes(range(256)) * 4094
PATTERN = MEMBER * 17

class Synthetic:
    uri, size = "synthetic.tar", (3 << 30) + 1024
    def read(self, start, stop):
        inside = min(stop, 3 << 30)
        first = start % len(MEMBER)
        return PATTERN[first : first + max(0, inside - start)] + bytes(stop - max(start, inside))

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
archive = TarArchive(Synthetic(), max_bytes=64 << 20)
(part,) = archive.parts(Missing(((0, None),)), slice_size=1000)
num_members = num_slices = 0
for item in archive.read(part):
    num_members += isinstance(item, RawMember) and len(item.data) == info.size
    num_slices += isinstance(item, SliceEnd)
print(num_members, num_slices, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_memory_does_not_grow_with_the_archive() -> None:
    command: Sequence[str] = [sys.executable, "-c", BIG_TAR]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    num_members, num_slices, grown_mb = map(int, output.split())
    assert (num_members, num_slices) == (3 << 10, 48)  # a slice of 1,000 members would be 1 GB: it ends with 64 MB
    assert grown_mb < 100  # measured: 17; two windows, one member
