"""Zip archives that are damaged or hostile: rows with a reason for members, one sentence for archives."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinvae.errors import ArchiveError
from skinvae.images.archives import RawMember, open_archive
from skinvae.records import Status
from tests.unit.images.readers import BytesReader, read_all
from tests.unit.images.test_archives_zip import make_zip

MAX_BYTES = 1 << 20
CENTRAL = b"PK\1\2"


def read_zip(data: bytes, *, size: int = 1000) -> list[RawMember]:
    return read_all(open_archive(BytesReader(data), max_bytes=MAX_BYTES), size=size)


def statuses(data: bytes) -> list[Status]:
    return [raw.status for raw in read_zip(data)]


def patched(data: bytes, position: int, new: bytes) -> bytes:
    return data[:position] + new + data[position + len(new) :]


def central(data: bytes, ordinal: int) -> int:
    """Position of a central file header."""
    position = data.index(CENTRAL)
    for _ in range(ordinal):
        position = data.index(CENTRAL, position + 4)
    return position


@pytest.fixture
def members() -> dict[str, bytes]:
    generator = random.Random(2)
    return {f"{index}.jpg": generator.randbytes(500) for index in range(3)}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_one_corrupt_byte_costs_one_member(members: dict[str, bytes], method: int) -> None:
    data = make_zip(members, method=method)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        position = archive.infolist()[1].header_offset + 30 + len("1.jpg") + 200
    read = read_zip(patched(data, position, bytes([data[position] ^ 1])))
    assert [raw.status for raw in read] == [Status.OK, Status.CORRUPT_CRC, Status.OK]
    assert [raw.data for raw in read] == [members["0.jpg"], None, members["2.jpg"]]
    assert read[1].error


def test_encrypted_and_unknown_methods(members: dict[str, bytes]) -> None:
    data = make_zip(members)
    data = patched(data, central(data, 0) + 8, b"\1\0")
    data = patched(data, central(data, 1) + 10, struct.pack("<H", 93))
    assert statuses(data) == [Status.ENCRYPTED, Status.UNSUPPORTED_FORMAT, Status.OK]


def test_a_header_of_other_bytes_or_another_name(members: dict[str, bytes]) -> None:
    data = make_zip(members)
    data = patched(data, 0, b"XX")
    data = patched(data, data.index(b"1.jpg"), b"9")
    assert statuses(data) == [Status.UNDECODABLE, Status.UNDECODABLE, Status.OK]


def test_members_that_point_outside_or_declare_too_much(members: dict[str, bytes]) -> None:
    data = make_zip(members)
    data = patched(data, central(data, 0) + 42, struct.pack("<L", 1 << 30))
    data = patched(data, central(data, 1) + 20, struct.pack("<2L", 600_000, 600_000))
    data = patched(data, central(data, 2) + 24, struct.pack("<L", 501))
    assert statuses(data) == [Status.TRUNCATED] * 3


def test_escaped_sizes_without_their_zip64_field_are_refused(members: dict[str, bytes]) -> None:
    data = make_zip(members)
    data = patched(data, central(data, 0) + 20, b"\xff" * 8)
    data = patched(data, central(data, 1) + 42, b"\xff" * 4)
    assert statuses(data) == [Status.TOO_LARGE, Status.TRUNCATED, Status.OK]


def test_too_large_is_refused_without_a_read() -> None:
    reader = BytesReader(make_zip({"a.jpg": bytes(MAX_BYTES + 1), "b.jpg": bytes(MAX_BYTES)}))
    archive = open_archive(reader, max_bytes=MAX_BYTES)
    reader.reads.clear()
    assert [raw.status for raw in read_all(archive)] == [Status.TOO_LARGE, Status.OK]
    assert reader.num_bytes < MAX_BYTES + 1000


def deflated_zeros(num_bytes: int) -> bytes:
    deflater, chunk = zlib.compressobj(1, zlib.DEFLATED, -15), bytes(1 << 20)
    return b"".join(deflater.compress(chunk) for _ in range(num_bytes >> 20)) + deflater.flush()


@pytest.mark.parametrize(("declared", "expected"), [(1 << 30, Status.TOO_LARGE), (1000, Status.CORRUPT_CRC)])
def test_a_bomb_of_1_gb_of_zeros_takes_no_memory(declared: int, expected: Status) -> None:
    data = make_zip({"a.jpg": deflated_zeros(1 << 30), "b.jpg": b"fine"})
    data = patched(data, central(data, 0) + 10, struct.pack("<H", zipfile.ZIP_DEFLATED))
    data = patched(data, central(data, 0) + 24, struct.pack("<L", declared))
    archive = open_archive(BytesReader(data), max_bytes=8 << 20)
    tracemalloc.start()
    read = read_all(archive)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [raw.status for raw in read] == [expected, Status.OK]
    assert peak < 3 * len(data)


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_overlapping_members_are_refused_however_they_are_cut(size: int) -> None:
    """Fifield's quoted overlap: the first member's bytes hold all of the second."""
    inner = make_zip({"inner.jpg": b"x" * 50})
    inner_local = inner[: inner.index(CENTRAL)]
    data = make_zip({"outer.jpg": inner_local, "third.jpg": b"y"})
    at = data.index(CENTRAL)
    entry = inner[inner.index(CENTRAL) : inner.index(b"PK\5\6")]
    entry = patched(entry, 42, struct.pack("<L", data.index(inner_local)))
    outer_entry, third_entry = data[at : central(data, 1)], data[central(data, 1) : data.index(b"PK\5\6")]
    directory = outer_entry + entry + third_entry
    data = data[:at] + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 3, 3, len(directory), at, 0)
    assert [(raw.name, raw.status) for raw in read_zip(data, size=size)] == [
        ("outer.jpg", Status.UNDECODABLE),
        ("inner.jpg", Status.OK),
        ("third.jpg", Status.OK),
    ]


def test_duplicate_and_odd_names_are_data() -> None:
    stream = io.BytesIO()
    names = ["a.jpg", "a.jpg", "../../etc/x.jpg", "/abs.jpg", "new\nline.jpg", "<b>.jpg", "n" * 1000 + ".jpg"]
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, of the duplicate name
        for index, name in enumerate(names):
            archive.writestr(name, bytes([index]))
    assert [(raw.name, raw.data) for raw in read_zip(stream.getvalue())] == [
        (name, bytes([index])) for index, name in enumerate(names)
    ]


@pytest.mark.parametrize("share", [0.0005, 0.3, 0.9, 0.999])
def test_a_truncated_archive_is_refused(members: dict[str, bytes], share: float) -> None:
    data = make_zip(members)
    with pytest.raises(ArchiveError, match="cut off"):
        open_archive(BytesReader(data[: max(4, int(share * len(data)))]), max_bytes=MAX_BYTES)


def test_a_truncated_archive_is_not_mistaken_for_the_zip_inside_it(members: dict[str, bytes]) -> None:
    data = make_zip(members | {"nested.zip": make_zip({"inside.jpg": b"1"})})
    cut = data[: data.rindex(b"PK\5\6", 0, len(data) - 22) + 30]
    with pytest.raises(ArchiveError, match="cut off"):
        open_archive(BytesReader(cut), max_bytes=MAX_BYTES)


def directory_damages() -> Iterator[tuple[str, bytes]]:
    data = make_zip({f"{index}.jpg": b"x" for index in range(3)})
    end = data.index(b"PK\5\6")
    yield "a header's signature", patched(data, central(data, 1), b"XX")
    yield "a name's length", patched(data, central(data, 2) + 28, b"\xff\xff")
    yield "too high a count", patched(data, end + 8, struct.pack("<2H", 60_000, 60_000))
    yield "a count one too high", patched(data, end + 8, struct.pack("<2H", 4, 4))
    yield "a count one too low", patched(data, end + 8, struct.pack("<2H", 2, 2))
    yield "no count", patched(data, end + 8, bytes(4))
    yield "a volume of several", patched(data, end + 4, b"\1\0\1\0")
    end64 = struct.pack("<4sLQL", b"PK\6\7", 0, 1 << 60, 1)
    yield "a zip64 locator to nowhere", data[:end] + end64 + data[end:]
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1 << 60, 1 << 60, end - central(data, 0), 0)
    yield "2 to the 60 members", data[:end] + record + struct.pack("<4sLQL", b"PK\6\7", 0, end, 1) + data[end:]


@pytest.mark.parametrize(
    ("damage", "data"), list(directory_damages()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_damaged_directory_is_one_sentence(damage: str, data: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"^memory\.zip .*\.$"):
        read_zip(data)


def test_a_comment_of_end_signatures_costs_few_reads() -> None:
    reader = BytesReader(b"PK\3\4" + b"PK\5\6" * 16_000)
    with pytest.raises(ArchiveError):
        open_archive(reader, max_bytes=MAX_BYTES)
    assert len(reader.reads) < 40


def test_the_empty_zip_has_no_members() -> None:
    assert read_zip(make_zip({})) == []


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_random_damage_gives_rows_or_one_sentence(data: st.DataObject) -> None:
    archive = bytearray(SMALL_ZIP)
    for _ in range(data.draw(st.integers(1, 4))):
        archive[data.draw(st.integers(0, len(archive) - 1))] = data.draw(st.integers(0, 255))
    try:
        opened = open_archive(BytesReader(bytes(archive)), max_bytes=MAX_BYTES)
        read = read_all(opened)
    except ArchiveError:
        return
    assert read == read_all(opened)
    for raw in read:
        assert (raw.data is not None) == (raw.status is Status.OK) == (raw.error is None)


SMALL_ZIP = make_zip({"a.jpg": b"abc" * 30, "b.png": b"d" * 40}, method=zipfile.ZIP_DEFLATED)
