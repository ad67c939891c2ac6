"""Parquet files with images: every row once, however they are written and cut, in few large reads."""

from __future__ import annotations

import io
import pickle
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinvae.errors import ArchiveError, InputError
from skinvae.images.archives import Member, Missing, ParquetArchive, RawMember, SliceEnd, archive_of_part, open_archive
from skinvae.images.archives.parquet.footer import Chunk, RowGroup, parse_footer, read_tail
from skinvae.images.archives.parquet.windows import MAX_WINDOW_BYTES
from skinvae.records import Status
from tests.unit.images.readers import BytesReader, members_of, parts_of, read_all, slices_of

MAX_BYTES = 4 << 20


def write(table: pa.Table, *, row_group_size: int = 100, **options: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=row_group_size, **options)
    return stream.getvalue()


def hugging_face(images: list[bytes | None], *, names: list[str | None] | None = None) -> pa.Table:
    """The columns that `datasets` writes for its Image feature, and a label."""
    names = [f"{index}.jpg" for index in range(len(images))] if names is None else names
    structs = [{"bytes": data, "path": name} for data, name in zip(images, names, strict=True)]
    type_ = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.table({"image": pa.array(structs, type_), "label": pa.array([1] * len(images))})


def opened(table: pa.Table, *, column: str | None = None, **options: Any) -> ParquetArchive:
    archive = open_archive(BytesReader(write(table, **options), "x.parquet"), max_bytes=MAX_BYTES, images_column=column)
    assert isinstance(archive, ParquetArchive)
    return archive


def random_images(count: int, num_bytes: int) -> list[bytes | None]:
    generator = random.Random(3)
    return [generator.randbytes(num_bytes) for _ in range(count)]


@st.composite
def written(draw: st.DrawFn) -> tuple[list[bytes | None], bytes]:
    """Row groups of any sizes, each of the layouts that writers choose."""
    images: list[bytes | None] = draw(st.lists(st.none() | st.binary(max_size=30), max_size=40))
    stream = io.BytesIO()
    table = hugging_face(images)
    if draw(st.booleans()):
        table = pa.table({"data": table["image"].combine_chunks().field("bytes"), "id": pa.array(range(len(images)))})
    options = {
        "compression": draw(st.sampled_from(["none", "snappy", "zstd"])),
        "use_dictionary": draw(st.booleans()),
        "data_page_size": draw(st.sampled_from([10, 1 << 20])),
        "data_page_version": draw(st.sampled_from(["1.0", "2.0"])),
        "store_schema": draw(st.booleans()),
    }
    with pq.ParquetWriter(stream, table.schema, **options) as writer:
        position = 0
        while position < len(images):
            size = draw(st.integers(1, 12))
            writer.write_table(table.slice(position, size), row_group_size=size)
            position += size
    return images, stream.getvalue()


def ranges_of(data: st.DataObject, count: int) -> list[tuple[int, int]]:
    """Ranges of members that ascend and are apart, not empty."""
    ends = sorted(data.draw(st.sets(st.integers(0, count), max_size=8)))
    return list(zip(ends[::2], ends[1::2], strict=False))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_slicing_of_any_file_gives_the_rows_in_order(data: st.DataObject) -> None:
    images, file = data.draw(written())
    ranges = ranges_of(data, len(images))
    slice_size = data.draw(st.integers(1, 15))
    reader = BytesReader(file, "x.parquet")
    archive = open_archive(reader, max_bytes=MAX_BYTES)
    assert archive.num_members == len(images)
    parts = pickle.loads(pickle.dumps(archive.parts(Missing(tuple(ranges)), slice_size=slice_size)))
    items = [i for part in parts for i in archive_of_part(part, reader, max_bytes=MAX_BYTES).read(part)]

    expected = [index for start, stop in ranges for index in range(start, stop)]
    rows = [item for item in items if isinstance(item, RawMember)]
    assert [row.index for row in rows] == expected
    assert [row.data for row in rows] == [images[index] for index in expected]
    assert all((row.data is None) == (row.status is Status.UNDECODABLE) == (row.error is not None) for row in rows)
    assert sum(part.num_members for part in parts) == len(expected)

    begin = 0  # every slice ends right behind its last row, and the slices cover the ranges
    covered: list[int] = []
    for position, item in enumerate(items):
        if isinstance(item, SliceEnd):
            inside = [one.index for one in items[begin:position] if isinstance(one, RawMember)]
            assert inside == list(range(item.start, item.stop))
            assert 0 < len(inside) <= slice_size
            covered += inside
            begin = position + 1
    assert covered == expected
    assert begin == len(items)


def test_each_row_group_is_in_one_part_and_small_ones_are_joined() -> None:
    archive = opened(hugging_face(random_images(100, 10)), row_group_size=10)
    assert [(part.start, part.stop) for part in parts_of(archive, slice_size=35)] == [
        (0, 30),
        (30, 60),
        (60, 90),
        (90, 100),
    ]
    parts = parts_of(archive, [(3, 5), (7, 8), (55, 75)], slice_size=20)
    assert [slices_of(archive, part) for part in parts] == [[(3, 5), (7, 8)], [(55, 70)], [(70, 75)]]
    assert [part.num_members for part in parts] == [3, 15, 5]
    large = opened(hugging_face(random_images(100, 10)), row_group_size=100)
    (part,) = parts_of(large, slice_size=30)
    assert slices_of(large, part) == [(0, 30), (30, 60), (60, 90), (90, 100)]


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ({"image": [b"a", b"b"]}, ["row-0", "row-1"]),
        ({"image": [b"a", b"b"], "name": ["x", None]}, ["x", "row-1"]),
        ({"image": [b"a", b"b"], "id": [7, 8], "label": ["m", "n"]}, ["7", "8"]),
        ({"image": [b"a", b"b"], "path": ["p/0.jpg", ""], "image_id": ["ISIC_0", "ISIC_1"]}, ["ISIC_0", "ISIC_1"]),
        ({"image": [{"bytes": b"a", "path": "0.jpg"}, {"bytes": b"b", "path": "1.jpg"}], "id": ["i", "j"]}, None),
        (
            {"image": [{"bytes": b"a", "path": None}, {"bytes": b"b", "path": "1.jpg"}], "id": ["i", "j"]},
            ["i", "1.jpg"],
        ),
        ({"jpg": [b"a", b"b"], "json": [b"{}", b"{}"], "__key__": ["k0", "k1"]}, ["k0", "k1"]),
        ({"embedding": [[1.0], [2.0]], "picture": [b"a", b"b"]}, ["row-0", "row-1"]),
    ],
)
def test_the_images_and_names_are_found(columns: dict[str, list[Any]], names: list[str] | None) -> None:
    archive = opened(pa.table(columns))
    names = names or ["0.jpg", "1.jpg"]
    assert [(raw.name, raw.data) for raw in read_all(archive)] == list(zip(names, [b"a", b"b"], strict=True))
    assert list(archive.members()) == [Member(index, name, None) for index, name in enumerate(names)]


@pytest.mark.parametrize(
    "type_", [pa.large_binary(), pa.binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.binary())]
)
def test_every_kind_of_bytes_is_read(type_: pa.DataType) -> None:
    values = pa.array([b"a", None, b"a"], pa.binary())
    table = pa.table({"image": values.dictionary_encode() if pa.types.is_dictionary(type_) else values.cast(type_)})
    assert [raw.data for raw in read_all(opened(table))] == [b"a", None, b"a"]


def test_several_columns_that_may_be_meant_are_an_error_that_names_the_setting() -> None:
    table = pa.table({"jpg": [b"a"], "png": [b"b"], "mask": [b"c"]})
    with pytest.raises(ArchiveError, match=r"several columns .* jpg, png: name one of them by .* images_column\.$"):
        opened(table)
    assert [raw.data for raw in read_all(opened(table, column="mask"))] == [b"c"]
    with pytest.raises(ArchiveError, match=r"no column 'image' .*images_column says: choose among \['jpg', 'mask'"):
        opened(table, column="image")


def test_members_that_are_large_empty_or_absent() -> None:
    archive = opened(hugging_face([bytes(MAX_BYTES + 1), b"", None, bytes(MAX_BYTES)]))
    assert [(raw.status, raw.num_bytes) for raw in read_all(archive)] == [
        (Status.TOO_LARGE, MAX_BYTES + 1),
        (Status.OK, 0),
        (Status.UNDECODABLE, None),
        (Status.OK, MAX_BYTES),
    ]


def test_only_wanted_rows_are_given() -> None:
    archive = opened(hugging_face([b"a", b"bb", b"ccc"]))
    (part,) = parts_of(archive)
    assert [raw.index for raw in members_of(archive, part, wanted=lambda member: member.num_bytes == 2)] == [1]


def test_names_that_are_no_utf8_can_be_stored() -> None:
    names = pa.array([b"a\xff.jpg", b"<b>\n"]).view(pa.string())
    archive = opened(pa.table({"image": [b"a", b"b"], "name": names}))
    assert [raw.name for raw in read_all(archive)] == ["a�.jpg", "<b>\n"]


PLAIN: dict[str, Any] = {"compression": "none", "use_dictionary": False}
LAYOUTS: dict[str, dict[str, Any]] = {
    "one large row group": {"row_group_size": 600, **PLAIN},
    "dictionary pages": {"row_group_size": 300, "compression": "none"},
    "row groups a little over a window": {"row_group_size": 135, **PLAIN},
    "small row groups": {"row_group_size": 20, **PLAIN},
    "an unwanted column between": {"row_group_size": 200, **PLAIN},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_requests_are_large_and_every_byte_is_read_once(layout: str) -> None:
    table = hugging_face(random_images(600, 200_000))
    if layout == "an unwanted column between":
        struct = table["image"]
        table = table.append_column("embedding", pa.array(random_images(600, 100_000))).append_column("id", struct)
        table = table.drop_columns("image").rename_columns(["label", "embedding", "image"]).select([2, 1, 0])
    reader = BytesReader(write(table, **LAYOUTS[layout]), "x.parquet")
    archive = open_archive(reader, max_bytes=MAX_BYTES, images_column="image")
    parts = parts_of(archive, slice_size=150)
    reader.reads.clear()
    threads: set[str] = set()
    original = reader.read

    def read(start: int, stop: int) -> bytes:
        threads.add(threading.current_thread().name.split("_")[0])
        return original(start, stop)

    reader.read = read  # type: ignore[method-assign]
    read_bytes = sum(
        len(raw.data or b"")
        for part in parts
        for raw in members_of(archive_of_part(part, reader, max_bytes=MAX_BYTES), part)
    )
    assert read_bytes == 600 * 200_000
    assert reader.num_bytes <= 1.05 * read_bytes
    assert len(reader.reads) <= read_bytes / (8 << 20) + 2 * len(parts) + 2  # a footer for every part
    assert max(stop - start for start, stop in reader.reads) <= MAX_WINDOW_BYTES
    assert threads <= {"MainThread", "parquet-read"}  # none of Arrow's
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("parquet-read")]


def test_a_row_group_far_larger_than_memory_may_hold_is_streamed() -> None:
    images = random_images(1200, 200_000)
    data = write(
        hugging_face(images), row_group_size=1200, compression="none", use_dictionary=False, write_batch_size=8
    )
    reader = BytesReader(data, "x.parquet")
    archive = open_archive(reader, max_bytes=MAX_BYTES)
    (part,) = parts_of(archive, slice_size=100)
    before, peak = pa.total_allocated_bytes(), 0
    for index, _ in enumerate(archive.read(part)):
        peak = max(peak, pa.total_allocated_bytes() - before)
        if index == 2:
            assert reader.num_bytes < 3 * MAX_WINDOW_BYTES  # this window and the next, not the row group
    assert peak < len(data) / 3


def test_an_abandoned_read_ends_its_thread() -> None:
    archive = opened(hugging_face(random_images(50, 1000)))
    reading = archive.read(parts_of(archive)[0])
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("parquet-read")]


@pytest.mark.parametrize("kind", [InputError, PermissionError, OSError])
def test_errors_of_the_reader_pass_through(kind: type[Exception]) -> None:
    reader = BytesReader(write(hugging_face(random_images(50, 1000)), row_group_size=10), "x.parquet")
    archive = open_archive(reader, max_bytes=MAX_BYTES)
    (part,) = parts_of(archive)

    def read(start: int, stop: int) -> bytes:
        raise kind("forbidden")

    reader.read = read  # type: ignore[method-assign]
    with pytest.raises(kind, match=r"^forbidden$"):
        list(archive.read(part))


def test_a_damaged_row_group_ends_the_part_after_what_could_be_read() -> None:
    images = random_images(50, 1000)
    data = bytearray(write(hugging_face(images), row_group_size=10, compression="zstd", use_dictionary=False))
    position = data.index(images[25] or b"")
    data[position - 15_000 + 9000 : position] = bytes(6000)  # from row group 2's first pages on
    archive = open_archive(BytesReader(bytes(data), "x.parquet"), max_bytes=MAX_BYTES)
    (part,) = parts_of(archive)
    read: list[RawMember | SliceEnd] = []
    with pytest.raises(ArchiveError, match=r"^x\.parquet is a damaged Parquet file: row group 2: .*\.$"):
        read.extend(archive.read(part))
    assert [item.index for item in read[:20] if isinstance(item, RawMember)] == list(range(20))


@pytest.mark.parametrize("cut", [4, 8, 50, 5000, -1, -9])
def test_a_truncated_file_is_one_sentence(cut: int) -> None:
    data = write(hugging_face(random_images(50, 1000)))
    with pytest.raises(ArchiveError, match=r"^x\.parquet has no Parquet footer at its end: it was cut off, .*\.$"):
        open_archive(BytesReader(data[:cut], "x.parquet"), max_bytes=MAX_BYTES)


def test_a_footer_of_absurd_length_is_refused() -> None:
    data = write(hugging_face(random_images(5, 100)))
    with pytest.raises(ArchiveError, match="no Parquet footer"):
        open_archive(BytesReader(data[:-8] + b"\xff\xff\xff\x7fPAR1", "x.parquet"), max_bytes=MAX_BYTES)


def test_a_file_without_rows_has_no_members() -> None:
    archive = opened(hugging_face([]))
    assert archive.num_members == 0
    assert list(archive.members()) == []
    assert archive.parts(Missing(()), slice_size=9) == []


@settings(max_examples=50, deadline=None)
@given(written())
def test_the_footer_is_read_as_pyarrow_reads_it(file: tuple[list[bytes | None], bytes]) -> None:
    expected = pq.read_metadata(io.BytesIO(file[1]))
    num_rows, groups = parse_footer(read_tail(BytesReader(file[1])).footer, uri="x")
    assert (num_rows, len(groups)) == (expected.num_rows, expected.num_row_groups)
    for index, group in enumerate(groups):
        columns = [expected.row_group(index).column(leaf) for leaf in range(expected.num_columns)]
        starts = [min(one.dictionary_page_offset or 1 << 62, one.data_page_offset) for one in columns]
        assert group == RowGroup(
            expected.row_group(index).num_rows,
            {
                one.path_in_schema: Chunk(start, start + one.total_compressed_size, one.total_uncompressed_size)
                for one, start in zip(columns, starts, strict=True)
            },
        )


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([(10, 4, 50), (10, 4, 50)], "points to wrong bytes"),  # the same bytes, to be read again and again
        ([(10, 4, 10_000), (10, 10_000, 10_001)], "points to wrong bytes"),
        ([(10, -4, 50), (10, 50, 60)], "points to wrong bytes"),
        ([(-10, 4, 50), (30, 50, 60)], "row groups of other sizes"),
        ([(10, 4, 50), (1 << 60, 50, 60)], "claims 1152921504606846986 rows in .* bytes: it is damaged"),
    ],
)
def test_a_footer_that_lies_is_refused_before_anything_is_cut(
    groups: list[tuple[int, int, int]], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lies = tuple(RowGroup(rows, {"image": Chunk(start, stop, 9)}) for rows, start, stop in groups)
    footer = sum(rows for rows, _, _ in groups), lies
    monkeypatch.setattr("skinvae.images.archives.parquet.rows.parse_footer", lambda *_, **__: footer)
    with pytest.raises(ArchiveError, match=message):
        parts_of(opened(pa.table({"image": [b"x" * 9] * 20}), row_group_size=10))


@pytest.mark.parametrize("column", ["image.bytes", "image.path"])
def test_a_bomb_is_refused_by_its_footer(column: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = hugging_face([b"x" * 9] * 20)
    data = write(table)
    _, (group,) = parse_footer(read_tail(BytesReader(data)).footer, uri="x")

    def open_claiming(num_bytes: int) -> ParquetArchive:
        chunk = group.chunks[column]
        chunks = {**group.chunks, column: Chunk(chunk.start, chunk.stop, num_bytes)}
        footer = 20, (RowGroup(20, chunks),)
        monkeypatch.setattr("skinvae.images.archives.parquet.rows.parse_footer", lambda *_, **__: footer)
        return opened(table)

    assert len(parts_of(open_claiming(256 << 20))) == 1
    archive = open_claiming((256 << 20) + 1)
    for look in (lambda: parts_of(archive), lambda: list(archive.members())):
        with pytest.raises(ArchiveError, match=rf"^x.parquet claims 268435457 bytes of {column} in row group 0, more"):
            look()


def test_a_large_chunk_of_images_is_no_bomb() -> None:
    rows = opened(pa.table({"image": [b"x"]})).rows
    rows._groups = (RowGroup(1, {"image": Chunk(4, 4 + (8 << 20), 400 << 20)}),)
    rows.refuse_bombs(["image", "elsewhere"])
    rows._groups = (RowGroup(1, {"image": Chunk(4, 3 + (8 << 20), 400 << 20)}),)
    with pytest.raises(ArchiveError, match="as only a bomb does"):
        rows.refuse_bombs(["image"])


SMALL = write(hugging_face([b"abc" * 30, b"d" * 40, None, b"e"] * 3), row_group_size=5)
FOOTER_BYTES = int.from_bytes(SMALL[-8:-4], "little") + 8


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_random_damage_gives_rows_or_one_sentence(data: st.DataObject) -> None:
    damaged = bytearray(SMALL)
    only_footer = data.draw(st.booleans())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(len(SMALL) - FOOTER_BYTES if only_footer else 4, len(SMALL) - 9))
        damaged[position] = data.draw(st.integers(0, 255))
    reader = BytesReader(bytes(damaged), "x.parquet")
    try:
        archive = open_archive(reader, max_bytes=MAX_BYTES)
        if not isinstance(archive, ParquetArchive):
            return
        assert archive.num_members <= 64 * len(SMALL)
        read = read_all(archive, size=4)
    except ArchiveError:
        return
    assert [raw.index for raw in read] == list(range(archive.num_members))
    for raw in read:
        assert (raw.data is not None) == (raw.status is Status.OK) == (raw.error is None)


ABANDONED = """
from skinvae.images.archives import Missing, open_archive
from tests.unit.images.test_archives_parquet import BytesReader, hugging_face, random_images, write
reader = BytesReader(write(hugging_face(random_images(300, 100_000)), row_group_size=100), "x.parquet")
archive = open_archive(reader, max_bytes=1 << 20)
reading = archive.read(archive.parts(Missing(((0, 300),)), slice_size=1000)[0])
print(next(reading).index)
"""


def test_a_process_may_end_in_the_middle_of_a_read() -> None:
    """Arrow's I/O threads, where they hold Python objects, abort the process then."""
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", ABANDONED], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
