"""What is an image member, folders, and how an archive's kind is told."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import threading
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from skinvae.errors import ArchiveError, SourceChanged
from skinvae.images.archives import (
    Candidacy,
    ImageArchive,
    ManifestArchive,
    Member,
    ObjectEntry,
    ObjectListing,
    ParquetArchive,
    RawMember,
    SliceEnd,
    TarArchive,
    ZipArchive,
    archive_of_part,
    candidacy,
    image_id,
    open_archive,
)
from skinvae.images.archives.candidates import image_format
from skinvae.records import Status
from tests.unit.images.readers import BytesReader, members_of, parts_of, read_all
from tests.unit.images.test_archives_zip import make_zip

MAX_BYTES = 10_000


def png(colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (3, 2), colour).save(stream, "PNG")
    return stream.getvalue()


def listing(objects: dict[str, bytes], *, listed: dict[str, int] | None = None) -> ObjectListing:
    sizes = listed or {name: len(data) for name, data in objects.items()}
    entries = [ObjectEntry(name, num_bytes, "v1") for name, num_bytes in sizes.items()]
    return ObjectListing("folder", entries, lambda entry: objects[entry.name])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ISIC2018/ISIC_1.jpg", Candidacy.IMAGE),
        ("a.JPEG", Candidacy.IMAGE),
        ("a.b.TiFF", Candidacy.IMAGE),
        ("scan.heic", Candidacy.IMAGE),
        ("windows\\a.png", Candidacy.IMAGE),
        ("ISIC_1", Candidacy.BY_CONTENT),
        ("dir.jpg/ISIC_1", Candidacy.BY_CONTENT),
        ("trailing.", Candidacy.BY_CONTENT),
        ("folder/", Candidacy.SKIPPED),
        ("folder.jpg/", Candidacy.SKIPPED),
        ("windows\\", Candidacy.SKIPPED),
        ("__MACOSX/._a.jpg", Candidacy.SKIPPED),
        ("__MACOSX/a.jpg", Candidacy.SKIPPED),
        ("x/.hidden.jpg", Candidacy.SKIPPED),
        ("LICENSE.txt", Candidacy.SKIPPED),
        ("labels.csv", Candidacy.SKIPPED),
        ("", Candidacy.SKIPPED),
    ],
)
def test_candidacy_by_name(name: str, expected: Candidacy) -> None:
    assert candidacy(name) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ISIC2018/ISIC_0024306.jpg", "ISIC_0024306"),
        ("a.b.jpg", "a.b"),
        ("x/ISIC_1", "ISIC_1"),
        ("dir.v2/ISIC_1", "ISIC_1"),
        ("windows\\ISIC_1.jpg", "ISIC_1"),
    ],
)
def test_image_id_is_the_file_stem(name: str, expected: str) -> None:
    assert image_id(name) == expected


def test_text_that_begins_like_a_bitmap_is_no_image() -> None:
    assert image_format(b"BM stands for benchmark, and this is a README") is None


def test_folder_members_are_in_bytewise_order_and_parts_carry_their_entries() -> None:
    names = ["b.png", "a/z.png", "a.png", "é.png", "B.png", "notes.txt", "😀.png"]
    source = listing({name: png() for name in names})
    archive = open_archive(source, max_bytes=MAX_BYTES)
    members = list(archive.members())
    assert [member.name for member in members] == sorted(names, key=str.encode)
    assert [member.index for member in members] == list(range(archive.num_members))

    without_listing = ObjectListing("folder", (), source.read_object)
    parts = pickle.loads(pickle.dumps(parts_of(archive, [(0, 2), (2, 3), (4, 7)])))
    read = [
        raw for part in parts for raw in members_of(archive_of_part(part, without_listing, max_bytes=MAX_BYTES), part)
    ]
    assert [raw.index for raw in read] == [i for i in (0, 1, 2, 4, 5, 6) if members[i].name != "notes.txt"]
    assert all(raw.data == png() and raw.status is Status.OK for raw in read)


def test_folder_fetches_only_wanted_candidates_that_are_small_enough() -> None:
    fetched: list[str] = []
    lock = threading.Lock()
    objects = {"a.png": png(), "b.png": png(), "big.png": b"x" * (MAX_BYTES + 1), "README": b"hello", "plain": png()}

    def read_object(entry: ObjectEntry) -> bytes:
        with lock:
            fetched.append(entry.name)
        return objects[entry.name]

    entries = [ObjectEntry(name, len(data), "v1") for name, data in objects.items()]
    archive = open_archive(ObjectListing("folder", entries, read_object), max_bytes=MAX_BYTES)
    (part,) = parts_of(archive, [(0, 5)])

    def wanted(member: Member) -> bool:
        return member.name != "b.png"

    status = {raw.name: raw.status for raw in members_of(archive, part, wanted=wanted)}
    assert status == {"a.png": Status.OK, "big.png": Status.TOO_LARGE, "plain": Status.OK}
    assert sorted(fetched) == ["README", "a.png", "plain"]


def test_folder_object_of_another_size_than_listed_means_the_source_changed() -> None:
    archive = open_archive(listing({"a.png": png()}, listed={"a.png": 5}), max_bytes=MAX_BYTES)
    with pytest.raises(SourceChanged, match="were listed"):
        list(archive.read(parts_of(archive, [(0, 1)])[0]))


def test_folder_names_that_are_no_utf8_can_be_stored() -> None:
    archive = open_archive(listing({"a\udcff.png": png()}), max_bytes=MAX_BYTES)
    (raw,) = members_of(archive, parts_of(archive)[0])
    assert raw.name == "a?.png"
    assert raw.data == png()


def test_a_folder_that_is_no_longer_readable_is_an_error_not_a_row() -> None:
    def forbidden(entry: ObjectEntry) -> bytes:
        raise PermissionError(entry.name)

    archive = open_archive(ObjectListing("folder", [ObjectEntry("a.png", 5, "v1")], forbidden), max_bytes=MAX_BYTES)
    with pytest.raises(PermissionError):
        list(archive.read(parts_of(archive, [(0, 1)])[0]))


@pytest.mark.parametrize("data", [b"x", b"%PDF-1.7" * 10_000, b"\0" * 2000, b"a.jpg\nb.jpg\n", b"PARE" * 10])
def test_content_of_no_known_kind_is_refused_in_one_sentence(data: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"^memory\.zip is no archive that skinvae reads; give a zip or tar .*\.$"):
        open_archive(BytesReader(data), max_bytes=MAX_BYTES)


def test_an_empty_file_is_called_empty() -> None:
    with pytest.raises(ArchiveError, match=r"^memory\.zip is empty: it has 0 bytes\.$"):
        open_archive(BytesReader(b""), max_bytes=MAX_BYTES)


def tar_of(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def parquet_of(**columns: list[object]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


KINDS = {
    "image": (png(), "photo", ImageArchive),
    "image with a zip behind it": (png() + make_zip({"a.png": png()}), "x.png", ImageArchive),
    "zip with an image in front": (png() + make_zip({"a.png": png()}), "x.zip", ZipArchive),
    "zip": (make_zip({"a.png": png()}), "misnamed.tar", ZipArchive),
    "zip with text in front": (b"#!/bin/sh\n" * 9000 + make_zip({"a.png": png()}), "x", ZipArchive),
    "tar": (tar_of({"a.png": png()}), "misnamed.zip", TarArchive),
    "tar.gz": (gzip.compress(tar_of({"a.png": png()})), "a.tar.gz", TarArchive),
    "tar that ends with a zip": (tar_of({"a.zip": make_zip({"a.png": png()})}), "x", TarArchive),
    "Parquet with images": (parquet_of(image=[png()], path=["a.png"]), "x", ParquetArchive),
    "Parquet with paths": (parquet_of(path=["a.png"]), "x", ManifestArchive),
    "text": (b"a.png\n", "list.TXT", ManifestArchive),
    "text of many UTF-8 letters": ("é.png\n".encode() * 50_000, "list.lst", ManifestArchive),
    "csv": (b"uri\na.png\n", "list.csv", ManifestArchive),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_told_by_content_and_a_part_finds_its_archive_again(kind: str) -> None:
    data, uri, expected = KINDS[kind]
    reader = BytesReader(data, uri)

    def read_object(uri: str, *, max_bytes: int) -> bytes:
        return png()[:max_bytes]

    archive = open_archive(reader, max_bytes=MAX_BYTES, read_object=read_object)
    assert type(archive) is expected
    assert reader.reads[0] == (0, min(65536, len(data)))  # one look at the head for all checks
    assert len(reader.reads) <= 5
    parts = parts_of(archive, [(0, 1 if archive.num_members else None)])
    (part,) = pickle.loads(pickle.dumps(parts))
    again = archive_of_part(part, reader, max_bytes=MAX_BYTES, read_object=read_object)
    assert type(again) is expected
    if kind not in ("tar that ends with a zip", "image with a zip behind it"):
        assert [raw.data for raw in members_of(again, part)] == [png()]


def test_no_archive_keeps_the_head_that_told_its_kind() -> None:
    """64 KB for each of a driver's thousands of archives; all of these keep their reader itself."""
    for data, uri, _ in KINDS.values():
        reader = BytesReader(data, uri)
        assert vars(open_archive(reader, max_bytes=MAX_BYTES))["_reader"] is reader


def test_binary_content_named_like_a_list_is_no_manifest() -> None:
    for data in (b"a.jpg\0\n", b"\xff\xfea\0", b"caf\xe9.jpg\n"):
        with pytest.raises(ArchiveError, match=r"^list\.txt is no archive"):
            open_archive(BytesReader(data, "list.txt"), max_bytes=MAX_BYTES)


def test_a_single_image_is_one_member_with_the_file_s_name() -> None:
    reader = BytesReader(png(), "s3://bucket/some/ISIC_1.photo")
    archive = open_archive(reader, max_bytes=MAX_BYTES)
    assert list(archive.members()) == [Member(0, "ISIC_1.photo", len(png()))]
    (part,) = parts_of(archive)
    assert list(archive.read(part)) == [
        RawMember(0, "ISIC_1.photo", len(png()), png(), Status.OK, None),
        SliceEnd(0, 1),
    ]
    assert list(archive.read(part, wanted=lambda _: False)) == [SliceEnd(0, 1)]
    reader.reads.clear()
    (refused,) = members_of(open_archive(reader, max_bytes=20), part)
    assert (refused.status, refused.data) == (Status.TOO_LARGE, None)
    assert len(reader.reads) == 1  # that of the head


@pytest.mark.parametrize("ranges", [[(0, 0)], [(1, 0)], [(0, 3)], [(1, 2), (0, 1)], [(0, 2), (1, 2)], [(-1, 1)]])
def test_ranges_that_are_no_slices_are_refused(ranges: list[tuple[int, int]]) -> None:
    archive = open_archive(listing({"a.png": png(), "b.png": png()}), max_bytes=MAX_BYTES)
    with pytest.raises(ValueError, match="range"):
        parts_of(archive, ranges)


@pytest.mark.parametrize("front", [b"PAR1", b"\xff\xd8\xff", b"\x1f\x8b\x08", b"BZh91AY&SY"])
def test_a_zip_may_have_anything_in_front(front: bytes) -> None:
    stream = io.BytesIO()
    stream.write(front)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("a.png", png())
    opened = open_archive(BytesReader(stream.getvalue(), uri="polyglot.zip"), max_bytes=MAX_BYTES)
    assert [one.name for one in read_all(opened)] == ["a.png"]
