"""Zip archives that are in order: the same members as zipfile sees, however they are cut, in few reads."""

from __future__ import annotations

import io
import pickle
import random
import struct
import tracemalloc
import zipfile
import zlib

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skinvae.images.archives import Member, archive_of_part, open_archive
from skinvae.images.archives.candidates import image_format
from skinvae.images.archives.coalesce import MAX_READ_BYTES
from skinvae.records import Status
from tests.unit.images.readers import BytesReader, members_of, parts_of, read_all

MAX_BYTES = 64 << 20


def make_zip(members: dict[str, bytes], *, method: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.comment = comment
    return stream.getvalue()


def many_members(count: int) -> bytes:
    """Stored 1-byte members with an end record, and a zip64 one where the count needs it."""
    crc, body, directory = zlib.crc32(b"x"), io.BytesIO(), io.BytesIO()
    for index in range(count):
        name = b"ISIC_%07d.jpg" % index
        header = (20, 0, 0, 0, 0, crc, 1, 1, len(name), 0)
        directory.write(struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, *header, 0, 0, 0, 0, body.tell()) + name)
        body.write(struct.pack("<4s5H3L2H", b"PK\3\4", *header) + name + b"x")
    start, size = body.tell(), directory.tell()
    # The count modulo 65,536 and no zip64 record, as old writers leave it.
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count & 0xFFFF, count & 0xFFFF, size, start, 0)
    return body.getvalue() + directory.getvalue() + end


@st.composite
def zips(draw: st.DrawFn) -> bytes:
    """Members of mixed sizes and methods, zip64 forced or not, streamed or not, with comments and bytes in front."""
    stream = io.BytesIO()
    stream.write(draw(st.binary(max_size=40)))
    with zipfile.ZipFile(stream, "a") as archive:
        for index in range(draw(st.integers(0, 12))):
            info = zipfile.ZipInfo(draw(st.sampled_from(["", "dir/", "é/", "😀"])) + f"{index}.jpg")
            info.compress_type = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
            info.comment = draw(st.binary(max_size=20))
            info.extra = draw(st.sampled_from([b"", struct.pack("<2H5x", 0x5455, 5)]))
            data = draw(st.binary(max_size=30)) * draw(st.sampled_from([0, 1, 7, 3000]))
            with archive.open(info, "w", force_zip64=draw(st.booleans())) as member:
                member.write(data)
        archive.comment = draw(st.binary(max_size=50) | st.just(b"PK\5\6" + bytes(18)))
    return stream.getvalue()


@settings(max_examples=150, deadline=None)
@given(data=zips(), size=st.integers(1, 13))
def test_any_slicing_gives_the_members_that_zipfile_sees(data: bytes, size: int) -> None:
    assume(image_format(data) is None)  # the bytes in front may happen to begin like an image
    with zipfile.ZipFile(io.BytesIO(data)) as reference:
        expected = [(info.filename, reference.read(info)) for info in reference.infolist()]
    reader = BytesReader(data)
    archive = open_archive(reader, max_bytes=MAX_BYTES)
    assert [member.name for member in archive.members()] == [name for name, _ in expected]
    parts = pickle.loads(pickle.dumps(parts_of(archive, slice_size=size)))
    read = [raw for part in parts for raw in members_of(archive_of_part(part, reader, max_bytes=MAX_BYTES), part)]
    assert [(raw.name, raw.data) for raw in read] == expected
    assert [raw.index for raw in read] == list(range(len(expected)))
    assert {raw.status for raw in read} <= {Status.OK}


def test_streamed_members_with_data_descriptors_are_read() -> None:
    class Unseekable(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            self.data += bytes(data)  # type: ignore[call-overload]
            return len(bytes(data))  # type: ignore[call-overload]

    stream = Unseekable()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(5):
            archive.writestr(f"{index}.jpg", bytes([index]) * 1000)
    data = bytes(stream.data)
    assert struct.unpack_from("<H", data, 6)[0] & 1 << 3
    assert [raw.data for raw in read_all(open_archive(BytesReader(data), max_bytes=MAX_BYTES))] == [
        bytes([index]) * 1000 for index in range(5)
    ]


def test_ordinals_count_every_entry_and_only_images_are_yielded() -> None:
    members = {
        "d/": b"",
        "d/a.jpg": b"1",
        "LICENSE.txt": b"2",
        "__MACOSX/d/._a.jpg": b"3",
        "d/b": b"4",
        "d/c.png": b"5",
    }
    archive = open_archive(BytesReader(make_zip(members)), max_bytes=MAX_BYTES)
    assert archive.num_members == 6
    assert [(raw.index, raw.data) for raw in read_all(archive, size=2)] == [(1, b"1"), (5, b"5")]


def test_a_member_without_suffix_is_told_by_its_content() -> None:
    jpeg = b"\xff\xd8\xff\xe0 and so on"
    archive = open_archive(BytesReader(make_zip({"ISIC_1": jpeg, "README": b"text"})), max_bytes=MAX_BYTES)
    assert [(raw.name, raw.data) for raw in read_all(archive)] == [("ISIC_1", jpeg)]


def test_code_page_437_and_utf8_names() -> None:
    data = make_zip({"aXb.jpg": b"1", "é.jpg": b"2"}).replace(b"aXb", b"a\x84b")
    assert [raw.name for raw in read_all(open_archive(BytesReader(data), max_bytes=MAX_BYTES))] == ["aäb.jpg", "é.jpg"]


def test_bytes_before_and_after_the_archive_do_no_harm() -> None:
    data = b"#!/bin/sh\n" * 99 + make_zip({"a.jpg": b"123"}, comment=b"comment") + bytes(20)
    assert [raw.data for raw in read_all(open_archive(BytesReader(data), max_bytes=MAX_BYTES))] == [b"123"]


def test_many_small_members_are_read_in_one_request_and_every_byte_once() -> None:
    generator = random.Random(1)
    members = {f"{index}.jpg": generator.randbytes(2000) for index in range(1000)}
    data = make_zip(members)
    reader = BytesReader(data)
    archive = open_archive(reader, max_bytes=MAX_BYTES)
    parts = parts_of(archive, slice_size=500)
    reader.reads.clear()
    for part in parts:
        assert len(members_of(archive, part)) == 500
    assert len(reader.reads) == 4  # for each part its piece of the directory, and its members
    assert reader.num_bytes <= 1.05 * len(data)


def test_reads_stay_small_and_unwanted_members_are_not_fetched() -> None:
    members = {f"{index}.jpg": bytes(1 << 20) for index in range(40)} | {"huge.jpg": bytes(2 * MAX_READ_BYTES)}
    reader = BytesReader(make_zip(members))
    archive = open_archive(reader, max_bytes=MAX_BYTES)
    (part,) = parts_of(archive, [(0, 41)])

    reader.reads.clear()
    assert sum(raw.status is Status.OK for raw in members_of(archive, part)) == 41
    assert len(reader.reads) == 5  # directory, 15 + 15 + 10 members, the huge one
    assert max(stop - start for start, stop in reader.reads[:-1]) <= MAX_READ_BYTES

    def wanted(member: Member) -> bool:
        return member.index in (3, 30)

    reader.reads.clear()
    assert [raw.index for raw in members_of(archive, part, wanted=wanted)] == [3, 30]
    assert reader.num_bytes < 1.01 * (2 << 20) + part.stop * 200


def test_long_local_extra_fields_cost_one_more_read() -> None:
    """The directory does not tell how long the local header is."""
    data, name, extra = bytes(range(256)) * 40, b"a.jpg", struct.pack("<2H", 0x9999, 5000) + bytes(5000)
    header = (20, 0, 0, 0, 0, zlib.crc32(data), len(data), len(data), len(name))
    local = struct.pack("<4s5H3L2H", b"PK\3\4", *header, len(extra)) + name + extra + data
    directory = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, *header, 0, 0, 0, 0, 0, 0) + name
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(directory), len(local), 0)
    reader = BytesReader(local + directory + end)
    archive = open_archive(reader, max_bytes=MAX_BYTES)
    (part,) = parts_of(archive, [(0, 1)])
    reader.reads.clear()
    assert [raw.data for raw in members_of(archive, part)] == [data]
    assert len(reader.reads) == 3


@pytest.mark.parametrize("count", [65_535, 65_536, 70_000])
def test_more_members_than_the_end_record_can_count(count: int) -> None:
    archive = open_archive(BytesReader(many_members(count)), max_bytes=MAX_BYTES)
    assert archive.num_members == count
    last = parts_of(archive)[-1]
    assert [raw.index for raw in members_of(archive, last)] == list(range(last.start, count))


def test_members_are_not_counted_where_no_more_would_fit_than_the_end_record_says() -> None:
    reader = BytesReader(many_members(60_000))
    archive = open_archive(reader, max_bytes=MAX_BYTES)
    num_reads = len(reader.reads)
    assert archive.num_members == 60_000
    assert len(reader.reads) == num_reads, "its directory takes 3.7 MB: 60,000 + 65,536 members would take more"


def test_zip64_with_70_000_members_as_zipfile_writes_it() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as writer:
        for index in range(70_000):
            writer.writestr(zipfile.ZipInfo(f"{index}.jpg"), b"")
    archive = open_archive(BytesReader(stream.getvalue()), max_bytes=MAX_BYTES)
    assert archive.num_members == 70_000
    (part,) = parts_of(archive, [(69_990, 70_000)])
    assert [raw.name for raw in members_of(archive, part)] == [f"{index}.jpg" for index in range(69_990, 70_000)]


def test_planning_holds_no_entries() -> None:
    archive = open_archive(BytesReader(many_members(100_000)), max_bytes=MAX_BYTES)
    tracemalloc.start()
    parts = parts_of(archive)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(parts) == 100
    assert peak < 12 << 20  # two chunks of the directory; zipfile would hold some 50 MB
    assert len(pickle.dumps(parts[50])) < 400


def test_an_abandoned_read_ends_its_thread() -> None:
    archive = open_archive(BytesReader(make_zip({f"{i}.jpg": bytes(9) for i in range(9)})), max_bytes=MAX_BYTES)
    reading = archive.read(parts_of(archive, [(0, 9)])[0])
    next(iter(reading))
    reading.close()  # type: ignore[attr-defined]
