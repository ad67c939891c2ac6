"""Tars that are damaged or hostile: what lies before the damage is read, then one sentence; no silent loss."""

from __future__ import annotations

import gzip
import io
import random
import shutil
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinvae.errors import ArchiveError
from skinvae.images.archives.base import Missing, RawMember
from skinvae.images.archives.tar import compression as compression_module
from skinvae.images.archives.tar.archive import TarArchive
from skinvae.images.archives.tar.compression import compression_of
from skinvae.records import Status
from tests.unit.images.test_archives_tar import (
    ALL,
    COMPRESSIONS,
    Items,
    compress,
    ends,
    in_memory,
    make_tar,
    offsets,
    raws,
    read,
    tar_of,
    tars,
)

MAX_BYTES = 1 << 20
END = bytes(1024)


def read_damaged(data: bytes, missing: Missing | None = None, *, size: int = 1000) -> tuple[Items, str]:
    """What was read, and the error behind it, '' where there is none."""
    archive = TarArchive(in_memory(data), max_bytes=MAX_BYTES, compression=compression_of(data))
    (part,) = archive.parts(missing or Missing(ALL), slice_size=size)
    items: Items = []
    try:
        items.extend(archive.read(part))
    except ArchiveError as error:
        return items, str(error)
    return items, ""


def statuses(data: bytes) -> list[Status]:
    return [raw.status for raw in raws(read(tar_of(data, max_bytes=MAX_BYTES)))]


def check_damage(data: bytes, reason: str, *, expected: list[Status], size: int = 1000) -> None:
    """Reading gives `expected`, then fails with `reason`; a later run fails at the same place, having read nothing."""
    items, error = read_damaged(data, size=size)
    assert error.startswith("memory.tar is damaged at byte ")
    assert reason in error
    assert [raw.status for raw in raws(items)] == expected
    assert all((end.byte_range or (0, len(data)))[1] < len(data) for end in ends(items))
    if not ends(items):
        return
    stop = ends(items)[-1].stop
    assert all(raw.index < stop for raw in raws(items))
    resumed, error = read_damaged(data, Missing(((stop, None),), offsets(items)), size=size)
    assert resumed == []
    assert "is damaged at byte" in error


def block(
    name: str = "x.jpg", *, size: int = 0, type_: bytes = b"0", field: bytes | None = None, patch: bytes = b""
) -> bytes:
    """One header; `field` replaces the 12 bytes of its size, `patch` those from byte 386 on."""
    info = tarfile.TarInfo(name)
    info.type, info.size = type_, size
    data = bytearray(info.tobuf(tarfile.GNU_FORMAT)[-512:])
    if field is not None:
        data[124:136] = field
    data[386 : 386 + len(patch)] = patch
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


def member(name: str = "x.jpg", data: bytes = b"1", *, type_: bytes = b"0") -> bytes:
    return block(name, size=len(data), type_=type_) + data + bytes(-len(data) % 512)


def pax(records: bytes, *, type_: bytes = b"x") -> bytes:
    return member("pax", records, type_=type_)


def record(keyword: str, value: bytes) -> bytes:
    text = b" " + keyword.encode() + b"=" + value + b"\n"
    length = len(text) + 1
    while length != len(text) + len(str(length)):
        length += 1
    return str(length).encode() + text


def damaged_header(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.fixture
def three() -> bytes:
    generator = random.Random(2)
    return make_tar({f"{index}.jpg": generator.randbytes(1000) for index in range(3)})


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("size", [1, 2, 1000])
def test_a_damaged_header_ends_the_archive_loudly(three: bytes, compression: str | None, size: int) -> None:
    data = compress(damaged_header(three, 2 * 1536 + 5), compression)
    check_damage(data, "is damaged at byte 3072", expected=[Status.OK] * 2, size=size)
    with pytest.raises(ArchiveError, match="no tar header where one must be"):
        list(TarArchive(in_memory(data), max_bytes=1, compression=compression).members())


def test_a_damaged_first_header(three: bytes) -> None:
    assert read_damaged(damaged_header(three, 5)) == (
        [],
        "memory.tar is damaged at byte 0: there is no tar header where one must be (bad checksum); the members behind"
        " it are lost, so get the archive anew.",
    )


@pytest.mark.parametrize("size", [1, 2, 1000])
@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        (3072 + 512 + 999, [Status.OK, Status.OK, Status.TRUNCATED]),
        (3072 + 512, [Status.OK, Status.OK, Status.TRUNCATED]),
        (3072 + 512 + 1000, [Status.OK] * 3),  # the padding only
        (3072 + 511, [Status.OK] * 2),
        (3072 + 1, [Status.OK] * 2),
        (1, []),
    ],
)
def test_a_cut_archive(three: bytes, cut: int, expected: list[Status], size: int) -> None:
    check_damage(three[:cut], "it ends inside a member", expected=expected, size=size)


@settings(max_examples=300, deadline=None)
@given(data=tars(), draw=st.data(), size=st.integers(1, 4), compression=st.sampled_from(COMPRESSIONS))
def test_a_cut_at_any_byte_loses_nothing_silently(
    data: bytes, draw: st.DataObject, size: int, compression: str | None
) -> None:
    compressed = compress(data, compression)
    whole = raws(read(tar_of(compressed)))
    cut = draw.draw(st.integers(min(10, len(compressed) - 1), len(compressed) - 1))
    items, error = read_damaged(compressed[:cut], size=size)
    got = raws(items)
    complete = [raw for raw in got if raw.status is not Status.TRUNCATED]
    assert complete == whole[: len(complete)]
    assert len(got) - len(complete) <= 1
    if error:
        assert all((end.byte_range or (0, cut))[1] < cut for end in ends(items))
    else:
        # At a member's border, as GNU tar takes it too.
        assert compression is None
        assert (cut % 512 == 0) or not any(data[cut - 512 : cut])
        assert (ends(items)[-1].byte_range or (0, 0))[1] == cut
        assert len(got) == len(complete)


@settings(max_examples=300, deadline=None)
@given(data=tars(), draw=st.data(), compression=st.sampled_from(COMPRESSIONS))
def test_any_garbage_ends_in_one_sentence(data: bytes, draw: st.DataObject, compression: str | None) -> None:
    mutable = bytearray(compress(data, compression))
    for _ in range(draw.draw(st.integers(1, 4))):
        position = draw.draw(st.integers(0, len(mutable) - 1))
        piece = draw.draw(st.binary(min_size=1, max_size=12))
        mutable[position : position + len(piece)] = piece
    items, _ = read_damaged(bytes(mutable), size=3)
    for raw in raws(items):
        raw.name.encode("utf-8")
        assert raw.num_bytes is None or raw.num_bytes < 1 << 63


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=20), max_size=4),
    draw=st.data(),
    type_=st.sampled_from(b"xgLKSX07MDV"),
)
def test_headers_of_a_right_checksum_and_any_content(pieces: list[bytes], draw: st.DataObject, type_: int) -> None:
    body = draw.draw(st.binary(max_size=600))
    header = bytearray(block(size=len(body), type_=bytes([type_])))
    for piece in pieces:
        position = draw.draw(st.integers(0, 511))
        header[position : min(512, position + len(piece))] = piece[: 512 - position]
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    read_damaged(bytes(header) + body + bytes(-len(body) % 512) + member() + END)


@pytest.mark.parametrize("compression", ["gzip", "zstd", "bz2"])
def test_a_cut_or_corrupt_stream(compression: str) -> None:
    generator = random.Random(2)
    names = [f"{index}.jpg" for index in range(40)]
    data = compress(make_tar({name: generator.randbytes(100_000) for name in names}), compression, num_streams=4)
    items, error = read_damaged(data[: len(data) // 2 + 50_000], size=7)
    assert "its inflated contents" in error
    assert "cut off or corrupt (Truncated compressed stream)" in error
    assert [raw.status for raw in raws(items)[:-1]] == [Status.OK] * (len(raws(items)) - 1)
    assert raws(items)[-1].status is Status.TRUNCATED
    assert 10 <= len(raws(items)) <= 22
    # The last block of zstd holds images too, and is all or nothing.
    last = [Status.TRUNCATED] if compression == "zstd" else [Status.OK]
    check_damage(data[:-1], "Truncated compressed stream", expected=[Status.OK] * 39 + last, size=7)

    if compression == "zstd":  # pyarrow writes it without checksums
        return
    middle = len(data) // 2 + 1000
    items, error = read_damaged(data[:middle] + bytes(100) + data[middle + 100 :], size=7)
    assert "cut off or corrupt" in error
    assert 10 <= len(raws(items)) <= 31


def test_a_wrong_gzip_checksum_is_not_taken_for_the_end() -> None:
    generator = random.Random(2)
    data = gzip.compress(make_tar({f"{index}.jpg": generator.randbytes(99_000) for index in range(3)}))
    # The last 64 KB of what the checksum is of are not given out.
    check_damage(
        data[:-8] + bytes(4) + data[-4:], "incorrect data check", expected=[Status.OK] * 2 + [Status.TRUNCATED]
    )
    check_damage(data + b"appended", "cut off or corrupt", expected=[Status.OK] * 3)


@pytest.mark.parametrize("end", [b"", pax(b"", type_=b"g")])
def test_a_tar_without_its_end_mark_may_have_been_cut(end: bytes) -> None:
    check_damage(member() * 2 + end, "ends without an end mark", expected=[Status.OK] * 2)


@pytest.mark.parametrize("size", [1, 2, 1000])
@pytest.mark.parametrize("num_cut", [0, 1, 511, 512, 513, 1023])
def test_a_later_run_says_the_same(num_cut: int, size: int) -> None:
    """The mark of an end that is damage is clamped below the object's size: there, no header can be looked for."""
    whole = member("1.jpg", bytes(700)) + member("2.jpg", bytes(700))
    data = whole[: len(whole) - num_cut]
    items, error = read_damaged(data, size=size)
    stop = ends(items)[-1].stop
    assert read_damaged(data, Missing(((stop, None),), offsets(items)), size=size) == ([], error)
    assert num_cut or error == (
        "memory.tar is damaged at byte 3072: it ends without an end mark, so that members may be missing; get it anew,"
        " or write it again with its end."
    )


def test_a_small_tar_with_a_wrong_gzip_checksum_is_a_tar_all_the_same() -> None:
    data = gzip.compress(member() * 2 + END)
    check_damage(data[:-8] + bytes(4) + data[-4:], "incorrect data check", expected=[])


@pytest.mark.parametrize("end", [bytes(512), bytes(1024), bytes(1024 + 100), bytes(100 * 512)])
def test_ends_that_are_unusual_but_complete(end: bytes) -> None:
    data = member() * 2 + end
    items, error = read_damaged(data)
    assert not error
    assert [raw.status for raw in raws(items)] == [Status.OK] * 2
    assert (ends(items)[-1].byte_range or (0, 0))[1] == len(data)


def test_what_is_appended_behind_the_end_is_read_or_refused() -> None:
    assert statuses(member() + END * 20 + member() + END) == [Status.OK] * 2
    check_damage(member() + END + b"x" * 512, "is damaged at byte 2048", expected=[Status.OK])
    check_damage(member() + END + b"x" * 51, "it ends inside a member", expected=[Status.OK])
    check_damage(
        member() + END + member(data=bytes(400))[:900],
        "it ends inside a member",
        expected=[Status.OK, Status.TRUNCATED],
    )


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (block(field=b"-0000000001\0"), "claims a member of -1 bytes"),
        (block(field=b"\xff" * 12), "claims a member of -1 bytes"),
        (block(field=b"\xff" * 10 + b"\xfe\0"), "claims a member of -512 bytes"),  # CVE-2025-8194: back to itself
        (block(field=b"\x80\0\0\xff" + bytes(8)), "claims a member of"),
        (block(field=b"99999999999\0"), "no tar header where one must be"),
        (block(type_=b"L", size=(1 << 20) + 1), "name and attributes claim 1048577 bytes"),
        (block(type_=b"K", field=b"\x80\0\0\0\0\0\0\2\0\0\0\0"), "name and attributes claim 8589934592 bytes"),
        (block(type_=b"x", size=8 << 30), "name and attributes claim"),
        (block(type_=b"x", field=b"\xff" * 12), "claims a member of -1 bytes"),
        (pax(record("size", b"-512")), "gives b'-512' as a size"),
        (pax(record("size", b"9" * 19)), "as a size"),
        (pax(record("size", b"9" * 5000)), "as a size"),
        (pax(record("size", b"1e3")), "as a size"),
        (pax(b"5 a=1\n"), "malformed"),
        (pax(b"0 a=1\n"), "malformed"),
        (pax(b"7 path\n"), "malformed"),
        (pax(b"999999999999999 path=a\n"), "malformed"),
        (pax(b"99999 path=a\n"), "malformed"),
        (pax(b"path=a\n"), "malformed"),
        (pax(b"-6 a=1\n"), "malformed"),
        (pax(record("size", b"1"), type_=b"g"), "a global header"),
        (pax(record("GNU.sparse.major", b"1"), type_=b"g"), "a global header"),
        (member("a" * 90, b"name\0", type_=b"L") + END, "no member behind it"),
    ],
)
def test_headers_that_cannot_be_followed(damage: bytes, reason: str) -> None:
    for compression in (None, "gzip"):
        tracemalloc.start()
        # What follows keeps the damaged header from being the last: it must not be jumped to.
        check_damage(
            compress(member() + damage + b"x" * 512 + member("y.jpg") + END, compression), reason, expected=[Status.OK]
        )
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5 << 20


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_absurd_sizes_cost_no_memory(compression: str | None) -> None:
    huge = block("huge.jpg", field=b"\x80\0\0\0\x40" + bytes(7))  # 2 ** 62
    for ahead in (huge, pax(record("size", str(1 << 62).encode())) + block("huge.jpg")):
        data = compress(member() + ahead + END, compression)
        check_damage(data, "it ends inside a member", expected=[Status.OK, Status.TOO_LARGE])
    data = compress(member() + block(size=MAX_BYTES) + END, compression)
    check_damage(data, "it ends inside a member", expected=[Status.OK, Status.TRUNCATED])


def test_a_chain_of_extension_headers_costs_no_memory() -> None:
    chain = (pax(record("comment", b"x" * 5000)) + member("L", b"n.jpg\0", type_=b"L")) * 3000
    tracemalloc.start()
    data = chain + member() + END
    held = tracemalloc.get_traced_memory()[0]
    assert [raw.name for raw in raws(read(tar_of(data)))] == ["n.jpg"]
    peak = tracemalloc.get_traced_memory()[1] - held
    tracemalloc.stop()
    assert peak < 2 * len(data)  # windows are copies


def test_a_bomb_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression_module, "_FREE_BYTES", 64 << 20)
    zeros = gzip.compress(bytes(16 << 20))
    data = gzip.compress(member() + block("huge.jpg", size=6 << 30)) + zeros * 400
    check_damage(data, "inflates to more than 200 times", expected=[Status.OK, Status.TOO_LARGE])


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd.jpg", "/etc/passwd.jpg", "C:\\x.jpg", "a\nb.jpg", "<b>.jpg", "😀.jpg", "n" * 1024 + ".jpg"],
)
@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_are_data(name: str, tar_format: int) -> None:
    data = make_tar({name: b"1", "b.jpg": b"2"}, tar_format=tar_format)
    assert [(raw.name, raw.data) for raw in raws(read(tar_of(data)))] == [(name, b"1"), ("b.jpg", b"2")]


def test_names_that_are_no_utf8_can_be_stored() -> None:
    data = member("X.jpg").replace(b"X", b"\xe9")
    latin = bytearray(data)
    latin[148:156] = b" " * 8
    latin[148:156] = b"%06o\0 " % sum(latin[:512])
    data = (
        bytes(latin) + pax(record("path", b"a\0\xff.jpg")) + member() + member("L", b"\xed\xa0\x80.jpg\0", type_=b"L")
    )
    names = [raw.name for raw in raws(read(tar_of(data + member() + END)))]
    assert names == ["\ufffd.jpg", "a\0\ufffd.jpg", "\ufffd\ufffd\ufffd.jpg"]


def test_links_are_rows_and_devices_are_not() -> None:
    types = b"0123456M"
    data = b"".join(block("a.jpg", type_=bytes([type_])) for type_ in types)
    data += block("link", type_=b"2") + block("label.jpg", type_=b"V") + member("list.jpg", b"Ya", type_=b"D") + END
    read_members = raws(read(tar_of(data)))
    assert [(raw.index, raw.status, raw.num_bytes) for raw in read_members] == [
        (0, Status.OK, 0),
        (1, Status.UNSUPPORTED_FORMAT, None),
        (2, Status.UNSUPPORTED_FORMAT, None),
        (7, Status.UNSUPPORTED_FORMAT, 0),
    ]
    assert [(raw.error or "")[:15] for raw in read_members] == [
        "",
        "a hard link; on",
        "a symbolic link",
        "the rest of a f",
    ]


def test_a_size_of_what_has_no_data_is_ignored() -> None:
    data = block("a.jpg", type_=b"1", size=5000) + block("d", type_=b"5", size=4096) + member() + END
    assert [raw.index for raw in raws(read(tar_of(data)))] == [0, 2]


def test_sparse_files_are_refused_and_passed_over() -> None:
    old = block("a.jpg", type_=b"S", size=600, patch=bytes(96) + b"\1")
    old += bytes(504) + b"\1" + bytes(7) + bytes(512) + b"d" * 600 + bytes(424)
    new = pax(record("GNU.sparse.major", b"1") + record("GNU.sparse.name", b"b.jpg")) + member("GNUSparseFile.1/b")
    members = raws(read(tar_of(old + new + member("c.jpg") + END)))
    assert [(raw.name, raw.status, raw.num_bytes) for raw in members] == [
        ("a.jpg", Status.UNSUPPORTED_FORMAT, None),
        ("b.jpg", Status.UNSUPPORTED_FORMAT, None),
        ("c.jpg", Status.OK, 1),
    ]


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs GNU tar")
@pytest.mark.parametrize("tar_format", ["v7", "ustar", "oldgnu", "gnu", "posix"])
def test_what_gnu_tar_writes(tmp_path: Path, tar_format: str) -> None:
    names = ["a.jpg", "hole.jpg"] if tar_format in ("v7", "ustar") else ["a.jpg", "hole.jpg", "n" * 200 + ".jpg"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * 100)
    with (tmp_path / "hole.jpg").open("r+b") as file:
        for index in range(1, 40):  # more than the header's own map holds
            file.seek(index << 17)
            file.write(b"data")
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    names.append("link.jpg")
    if b"GNU tar" not in subprocess.run(["tar", "--version"], check=True, capture_output=True).stdout:
        pytest.skip("needs GNU tar")
    sparse = [] if tar_format in ("v7", "ustar") else ["--sparse"]
    command = ["tar", "-cf", "-", f"--format={tar_format}", *sparse, *names]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    members = raws(read(tar_of(done.stdout)))
    assert [raw.name for raw in members] == names
    assert members[0].data == b"a.jpg" * 100
    refused = [raw.name for raw in members if raw.status is Status.UNSUPPORTED_FORMAT]
    assert refused == (["hole.jpg", "link.jpg"] if sparse else ["link.jpg"])


def test_a_global_header_renames_nothing_and_is_no_member() -> None:
    data = pax(record("comment", b"0" * 40), type_=b"g") + member() + pax(b"", type_=b"g") + member("y.jpg") + END
    items = read(tar_of(data), size=1)
    assert [(raw.index, raw.name) for raw in raws(items)] == [(0, "x.jpg"), (1, "y.jpg")]
    assert read(tar_of(data), Missing(((1, None),), offsets(items)), size=1) == items[2:]


def test_a_doubled_extension_is_read_as_tarfile_reads_it() -> None:
    data = pax(record("path", b"first.jpg")) + member("L", b"second.jpg\0", type_=b"L") + member() + END
    with tarfile.open(fileobj=io.BytesIO(data)) as reference:
        assert [raw.name for raw in raws(read(tar_of(data)))] == reference.getnames() == ["first.jpg"]


def test_an_archive_without_the_members_that_are_asked_for() -> None:
    assert read_damaged(END) == ([], "memory.tar holds no members where at least 1 must be.")
    items, error = read_damaged(member() * 3 + END, Missing(((2, 5),)))
    assert [item.index for item in items if isinstance(item, RawMember)] == [2]
    assert "holds 3 members where at least 5 must be" in error
