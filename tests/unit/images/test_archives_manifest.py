"""Manifests: the objects in the order listed, however the list is cut, and clear words for other lists."""

from __future__ import annotations

import csv
import io
import pickle
import threading
import time
import tracemalloc
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinvae.errors import ArchiveError, InputError
from skinvae.images.archives import (
    Archive,
    ManifestArchive,
    ManifestPart,
    Member,
    Missing,
    RawMember,
    SliceEnd,
    archive_of_part,
    image_id,
    open_archive,
)
from skinvae.images.archives import coalesce as coalesce_module
from skinvae.records import Status
from tests.unit.images.readers import BytesReader, members_of, parts_of, read_all, slices_of

MAX_BYTES = 1000
JPEG = b"\xff\xd8\xff"


def read_object(uri: str, *, max_bytes: int) -> bytes | None:
    """Every object holds its own name behind a JPEG's signature."""
    return (JPEG + uri.encode("utf-8", "surrogateescape"))[:max_bytes]


def opened(data: bytes, uri: str = "list.txt", *, read: Any = read_object) -> Archive:
    archive = open_archive(BytesReader(data, uri), max_bytes=MAX_BYTES, read_object=read)
    assert isinstance(archive, ManifestArchive)
    return archive


def parquet(uris: list[Any], *, column: str = "uri", **options: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table({"label": ["x"] * len(uris), column: uris}), stream, **options)
    return stream.getvalue()


def csv_of(uris: list[str], *, delimiter: str, ends: str, quoting: Any) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, lineterminator=ends, quoting=quoting)
    writer.writerow(["note", "Url"])
    for index, uri in enumerate(uris):
        writer.writerow(['a "quoted"\r\nnote, of two lines' if index % 3 else "", uri])
    return stream.getvalue().encode()


NAMES = st.text("abé😀 ,\t\"'#;/", min_size=1, max_size=12).map(lambda name: f"p/{name}x.jpg")
SLOPPY = st.sampled_from(["\n", "\r\n", "\n\n", "\n# a comment, not a member\n", "\n  \t\n", " \n\t"])


@st.composite
def lists(draw: st.DrawFn) -> tuple[list[str], bytes, str]:
    """(URIs, file, its name) of every kind of list."""
    uris = draw(st.lists(NAMES, min_size=1, max_size=40))
    kind = draw(st.sampled_from(["txt", "csv", "tsv", "parquet"]))
    if kind == "parquet":
        return uris, parquet(uris, row_group_size=draw(st.integers(1, 15))), "list.parquet"
    if kind == "txt":
        text = "".join(uri + draw(SLOPPY) for uri in uris[:-1]) + uris[-1] + draw(st.sampled_from(["", "\n"]))
        return uris, draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode(), "list.txt"
    delimiter = "\t" if kind == "tsv" else draw(st.sampled_from([",", ";"]))
    ends = draw(st.sampled_from(["\n", "\r\n"]))
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    return uris, csv_of(uris, delimiter=delimiter, ends=ends, quoting=quoting), f"list.{kind}"


@settings(max_examples=300, deadline=None)
@given(data=st.data(), window=st.sampled_from([7, 64, 16 << 20]))
def test_any_slicing_of_any_list_gives_its_entries_in_order(data: st.DataObject, window: int) -> None:
    uris, file, name = data.draw(lists())
    ends = sorted(data.draw(st.sets(st.integers(0, len(uris)), max_size=6)))
    ranges = tuple(zip(ends[::2], ends[1::2], strict=False))
    slice_size = data.draw(st.integers(1, 12))
    reader = BytesReader(file, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skinvae.images.archives.manifest.text.MAX_READ_BYTES", window)
        patch.setattr("skinvae.images.archives.manifest.text._ENTRIES_PER_OFFSET", data.draw(st.integers(1, 5)))
        archive = open_archive(reader, max_bytes=MAX_BYTES, read_object=read_object)
        assert list(archive.members()) == [Member(index, uri, None) for index, uri in enumerate(uris)]
        parts = pickle.loads(pickle.dumps(archive.parts(Missing(ranges), slice_size=slice_size)))
        items = [
            item
            for part in parts
            for item in archive_of_part(part, reader, max_bytes=MAX_BYTES, read_object=read_object).read(part)
        ]
    expected = [index for start, stop in ranges for index in range(start, stop)]
    rows = [item for item in items if isinstance(item, RawMember)]
    assert [(row.index, row.name) for row in rows] == [(index, uris[index]) for index in expected]
    assert [row.data for row in rows] == [JPEG + uris[index].encode() for index in expected]
    begin = 0
    covered: list[int] = []
    for position, item in enumerate(items):
        if isinstance(item, SliceEnd):
            assert [one.index for one in items[begin:position]] == list(range(item.start, item.stop))  # type: ignore[union-attr]
            assert item.stop - item.start <= slice_size
            covered += range(item.start, item.stop)
            begin = position + 1
    assert covered == expected
    assert sum(part.num_members for part in parts) == len(expected)


def test_the_first_named_column_is_taken_whatever_its_case() -> None:
    table = b"\xef\xbb\xbfimage_id,PATH,Url\n1,a.jpg,s3://b/a.jpg\n\n2,b.jpg,s3://b/b.jpg\n"
    assert [raw.name for raw in read_all(opened(table, "list.csv"))] == ["s3://b/a.jpg", "s3://b/b.jpg"]
    assert [image_id(raw.name) for raw in read_all(opened(parquet(["x/ISIC_1.jpg"], column="File_Name")))] == ["ISIC_1"]


@pytest.mark.parametrize(
    ("data", "uri", "message"),
    [
        (b"image,MEL,NV\nISIC_1,0,1\n", "l.csv", r"l\.csv is no manifest: none of its columns image, MEL, NV is named"),
        (parquet(["a"], column="image"), "l", r"holds neither images nor a list .* columns label, image"),
        (b"# \na.jpg\n\nb/shard-1.TAR\n", "l.txt", r"lists archives \('b/shard-1\.TAR' in line 4\): name those on the"),
        (b"uri\na.jpg\nb.tar.gz\n", "l.csv", r"lists archives \('b\.tar\.gz' in line 3\): name those on the"),
        (parquet(["a.jpg", "x.zip"]), "l", r"lists archives \('x\.zip' in row 1\): name those on the command line"),
        (b"https://host/a.jpg\n", "l.txt", r"names 'https://host/a\.jpg' in line 1: only paths, file:// and s3://"),
        (b"a.jpg\ns3:///key.jpg\n", "l.txt", r"names 's3:///key\.jpg' in line 2, which has no bucket\.$"),
        (b"id,uri\n1,a.jpg\n2\n", "l.csv", r"l\.csv has no uri in line 3\.$"),
        (parquet(["a.jpg", None]), "l", r"l has no uri in row 1\.$"),
        (b'id,uri\n1,"a.jpg\n2,b.jpg\n', "l.csv", r"no CSV file behind its byte 7: a quote is never closed"),
        (b"a.jpg\n" * 20_000 + b"\0\n", "l.txt", r"is no text: line 20001 holds a NUL"),
        (b"x" * (20 << 20), "l.txt", r"line of more than 131072 bytes: it is no manifest"),
    ],
)
def test_lists_that_cannot_be_meant_are_one_sentence_at_planning(data: bytes, uri: str, message: str) -> None:
    with pytest.raises(ArchiveError, match=message) as caught:
        parts_of(opened(data, uri))
    assert str(caught.value).endswith(".")


def test_candidates_are_told_by_name_and_where_there_is_no_suffix_by_content() -> None:
    objects = {"a.jpg": JPEG, "plain": JPEG, "README": b"text", "x/": b"", "notes.txt": b"", ".hidden.jpg": b""}
    asked: list[str] = []

    def read(uri: str, *, max_bytes: int) -> bytes | None:
        asked.append(uri)
        return objects[uri]

    archive = opened("\n".join(objects).encode(), read=read)
    assert archive.num_members == 6
    assert [(raw.index, raw.name) for raw in read_all(archive)] == [(0, "a.jpg"), (1, "plain")]
    assert sorted(asked) == ["README", "a.jpg", "plain"]
    asked.clear()
    (part,) = parts_of(archive)
    assert members_of(archive, part, wanted=lambda member: member.index > 4) == []
    assert asked == []


def test_objects_that_are_absent_or_too_large_are_rows_with_a_reason() -> None:
    limits: set[int] = set()

    def read(uri: str, *, max_bytes: int) -> bytes | None:
        limits.add(max_bytes)
        return {"gone.jpg": None, "big.jpg": bytes(MAX_BYTES + 1), "full.jpg": bytes(MAX_BYTES), "0.jpg": b""}[uri]

    read_members = read_all(opened(b"gone.jpg\nbig.jpg\nfull.jpg\n0.jpg\n", read=read))
    assert [(raw.status, raw.num_bytes, raw.data is None) for raw in read_members] == [
        (Status.MISSING, None, True),
        (Status.TOO_LARGE, None, True),
        (Status.OK, MAX_BYTES, False),
        (Status.OK, 0, False),
    ]
    assert limits == {MAX_BYTES + 1}


def test_what_storage_raises_ends_the_read() -> None:
    def read(uri: str, *, max_bytes: int) -> bytes | None:
        if uri == "3.jpg":
            raise InputError("access denied")
        return JPEG

    archive = opened(b"".join(b"%d.jpg\n" % index for index in range(50)), read=read)
    (part,) = parts_of(archive)
    with pytest.raises(InputError, match="access denied"):
        list(archive.read(part))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("manifest")]


def test_several_objects_are_fetched_at_once_in_order_and_few_are_held() -> None:
    in_flight, most, lock, fetched = 0, 0, threading.Lock(), 0

    def read(uri: str, *, max_bytes: int) -> bytes | None:
        nonlocal in_flight, most, fetched
        with lock:
            in_flight, fetched = in_flight + 1, fetched + 1
            most = max(most, in_flight)
        time.sleep(0.002 if int(uri[:-4]) % 2 else 0.0)
        with lock:
            in_flight -= 1
        return JPEG

    archive = opened(b"".join(b"%d.jpg\n" % index for index in range(100)), read=read)
    reading = archive.read(parts_of(archive)[0])
    for _ in range(10):
        next(reading)
    assert fetched <= 20
    assert [item.index for item in reading if isinstance(item, RawMember)] == list(range(10, 100))
    assert 2 <= most <= 8


def test_planning_scans_once_and_holds_no_lines_and_a_part_reads_its_own_only() -> None:
    count = 300_000
    data = b"".join(b"s3://bucket/a/long/prefix/ISIC_%07d.jpg\n" % index for index in range(count))
    reader = BytesReader(data, "list.txt")
    archive = open_archive(reader, max_bytes=MAX_BYTES, read_object=read_object)
    reader.reads.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skinvae.images.archives.manifest.text.MAX_READ_BYTES", 1 << 20)
        tracemalloc.start()
        parts = parts_of(archive, [(0, 1000), (2500, count)], slice_size=1000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert reader.num_bytes <= len(data) + (128 << 10)  # and its first line
    assert peak < len(data) / 1.5
    assert len(parts) == 299
    assert max(len(pickle.dumps(part)) for part in parts[::50]) < 500
    reader.reads.clear()
    (part,) = [part for part in parts if part.start == 250_500]
    assert [raw.index for raw in members_of(archive, part)] == list(range(250_500, 251_500))
    assert reader.num_bytes < 1600 * 50
    assert coalesce_module.MAX_READ_BYTES == 16 << 20


def test_the_rows_of_a_parquet_list_are_cut_so_that_its_column_is_not_read_over_and_over() -> None:
    uris = [f"s3://bucket/{index * 7919 % 100_003:032x}.jpg" for index in range(50_000)]
    reader = BytesReader(parquet(uris, row_group_size=50_000, compression="none", use_dictionary=False), "list")
    archive = open_archive(reader, max_bytes=MAX_BYTES, read_object=read_object)
    parts = parts_of(archive, slice_size=100)
    assert [part.num_members for part in parts] == [800] * 62 + [400]
    assert slices_of(archive, parts[1]) == [(start, start + 100) for start in range(800, 1600, 100)]
    assert isinstance(parts[1], ManifestPart)
    reader.reads.clear()
    assert members_of(archive, parts[1])[-1].name == uris[1599]


def test_names_that_are_no_utf8_can_be_stored_and_are_asked_for_as_written() -> None:
    asked: list[str] = []

    def read(uri: str, *, max_bytes: int) -> bytes | None:
        asked.append(uri)
        return JPEG

    data = b"a.jpg\n" * 20_000 + b"caf\xe9.jpg\n"
    assert read_all(opened(data, read=read))[-1].name == "caf?.jpg"
    assert asked[-1] == "caf\udce9.jpg"


def test_a_list_of_comments_has_no_members() -> None:
    archive = opened(b"# nothing yet\n\n")
    assert archive.num_members == 0
    assert list(archive.members()) == []
    assert archive.parts(Missing(()), slice_size=9) == []
