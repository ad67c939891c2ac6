"""A prepared archive gives back, slice by slice, the pixels and the names that were put into it."""

from __future__ import annotations

import datetime
import itertools
import pickle
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinvae.errors import UsageError
from skinvae.images.archives import Missing, SliceEnd
from skinvae.images.decode import DecodeSettings
from skinvae.records import PIXEL_SCHEMA
from skinvae.storage.compaction import swap_slices_for_parts, write_part
from skinvae.storage.filesystem import Location
from skinvae.storage.pixel_table import (
    PixelTable,
    Preparation,
    PreparedArchive,
    PreparedMember,
    is_prepared,
    open_prepared,
    write_preparation,
    write_sources,
)
from skinvae.storage.slice_ids import SliceId
from skinvae.storage.slices import write_slice
from skinvae.storage.sources import Source

SIZE = 4
PREPARATION = Preparation(image_size=SIZE, preprocessing_version="1", decode=DecodeSettings())


def pixels_of(source_id: str, index: int) -> bytes:
    return np.random.default_rng([index, *source_id.encode()]).bytes(SIZE * SIZE * 3)


def rows_of(one: SliceId) -> pa.Table:
    """Every fifth member is no image, every seventh was rejected."""
    indices = [index for index in range(one.start, one.stop) if index % 5]
    columns = {
        "image_id": [f"{index}" for index in indices],
        "source": [f"/originals/{one.source_id}"] * len(indices),
        "source_id": [one.source_id] * len(indices),
        "member": [f"{index}.jpg" for index in indices],
        "member_index": indices,
        "width": [600] * len(indices),
        "height": [450] * len(indices),
        "num_bytes": [1000] * len(indices),
        "status": ["ok" if index % 7 else "truncated" for index in indices],
        "error": [None if index % 7 else "ends early" for index in indices],
        "pixels": [pixels_of(one.source_id, index) if index % 7 else None for index in indices],
        "preparation_id": [one.scoring_id] * len(indices),
        "slice_id": [str(one)] * len(indices),
        "run_id": ["run"] * len(indices),
        "prepared_at": [datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)] * len(indices),
    }
    return pa.table(columns, schema=PIXEL_SCHEMA)


def prepared(location: Location, slices: list[SliceId], *, swap: bool) -> Location:
    write_preparation(location, PREPARATION)
    table = PixelTable.open_or_create(location)
    files = [write_slice(location, one, rows_of(one), provenance={}) for one in slices]
    table.commit_slices(files, provenance={})
    for source_id in dict.fromkeys(one.source_id for one in slices):
        mine = [one for one in slices if one.source_id == source_id]
        is_stream = mine[0].byte_range is not None
        source = Source(Location.parse(f"/originals/{source_id}"), source_id, "v", max(one.stop for one in mine) * 10)
        write_sources(location, [(source, None if is_stream else max(one.stop for one in mine))])
    if swap:
        swap_slices_for_parts(
            table, provenance={}, write_all=lambda parts: [write_part(location, one) for one in parts]
        )
    return location


def read(archive: PreparedArchive, missing: Missing, *, slice_size: int) -> tuple[list[PreparedMember], list[SliceEnd]]:
    members: list[PreparedMember] = []
    ends: list[SliceEnd] = []
    for part in pickle.loads(pickle.dumps(archive.parts(missing, slice_size=slice_size))):
        for item in PreparedArchive(part.table).read(part):
            if isinstance(item, SliceEnd):
                ends.append(item)
            else:
                assert isinstance(item, PreparedMember)
                members.append(item)
    return members, ends


@pytest.mark.parametrize("swap", [False, True])
def test_what_was_prepared_comes_back(tmp_path: Path, *, swap: bool) -> None:
    slices = [SliceId(source, "cccc", start, start + 10) for source in ("aaaa", "bbbb") for start in range(0, 50, 10)]
    location = prepared(Location.parse(str(tmp_path / "p")), slices, swap=swap)
    assert is_prepared(location)
    assert not is_prepared(Location.parse(str(tmp_path)))
    opened = open_prepared(location)
    assert [one.source.source_id for one in opened] == ["aaaa", "bbbb"]
    for source, archive in ((one.source, one.archive) for one in opened):
        assert source.uri == f"/originals/{source.source_id}"
        assert archive.num_members == 50
        members, ends = read(archive, Missing(((0, 50),)), slice_size=10)
        assert [(one.start, one.stop) for one in ends] == [(start, start + 10) for start in range(0, 50, 10)]
        assert [one.index for one in members] == [index for index in range(50) if index % 5]
        for one in members:
            assert one.name == f"{one.index}.jpg"
            assert one.data == (pixels_of(source.source_id, one.index) if one.index % 7 else None)
            assert one.status.value == ("ok" if one.index % 7 else "truncated")
        assert [one.name for one in archive.members()] == [one.name for one in members]


@settings(deadline=None, max_examples=30)
@given(data=st.data(), slice_size=st.integers(1, 30))
def test_any_missing_ranges_are_read_once_each(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, slice_size: int
) -> None:
    borders = sorted(data.draw(st.sets(st.integers(1, 59), max_size=6)) | {0, 60})
    slices = [SliceId("aaaa", "cccc", start, stop) for start, stop in itertools.pairwise(borders)]
    location = Location.parse(str(tmp_path_factory.mktemp("prepared") / "p"))
    [opened] = open_prepared(prepared(location, slices, swap=data.draw(st.booleans())))
    archive = opened.archive
    cuts = sorted(data.draw(st.sets(st.integers(0, 60), min_size=2, max_size=6)))
    ranges = tuple(zip(cuts[::2], cuts[1::2], strict=False))
    members, ends = read(archive, Missing(ranges), slice_size=slice_size)
    wanted = [index for start, stop in ranges for index in range(start, stop)]
    assert [index for end in ends for index in range(end.start, end.stop)] == wanted
    assert all(end.stop - end.start <= slice_size for end in ends)
    assert [one.index for one in members] == [index for index in wanted if index % 5]


def test_slices_of_a_stream_keep_their_place_in_it(tmp_path: Path) -> None:
    slices = [SliceId("aaaa", "cccc", start, start + 10, (start * 10, start * 10 + 100)) for start in (0, 10, 20)]
    [opened] = open_prepared(prepared(Location.parse(str(tmp_path / "p")), slices, swap=True))
    assert opened.source.num_bytes == 300
    _, ends = read(opened.archive, Missing(((0, 30),)), slice_size=3)
    assert [one.byte_range for one in ends] == [(0, 100), (100, 200), (200, 300)]
    _, ends = read(opened.archive, Missing(((0, 3), (7, 10), (15, 25), (27, 30))), slice_size=3)
    assert [(one.start, one.stop, one.byte_range) for one in ends] == [
        (0, 3, None),
        (7, 10, (100, 100)),
        (15, 20, (200, 200)),
        (20, 25, None),
        (27, 30, (300, 300)),  # where the stream ends is known from whatever piece comes last
    ]


@pytest.mark.parametrize("byte_ranges", [None, [(0, 100), (100, 190)]])
def test_half_prepared_says_what_it_lacks(tmp_path: Path, byte_ranges: list[tuple[int, int]] | None) -> None:
    slices = [
        SliceId("aaaa", "cccc", start, start + 10, byte_ranges[start // 10] if byte_ranges else None)
        for start in (0, 10)
    ]
    location = prepared(Location.parse(str(tmp_path / "p")), slices if byte_ranges else slices[:1], swap=False)
    if byte_ranges is None:
        (tmp_path / "p/_skinvae/sources/aaaa.json").unlink()
        write_sources(location, [(Source(Location.parse("/originals/aaaa"), "aaaa", "v", 1), 20)])
    [opened] = open_prepared(location)
    assert re.search(r"are not all: run the same `skinvae prepare` again", str(opened.lack))
    members, _ = read(opened.archive, Missing(((0, opened.archive.num_members),)), slice_size=10)
    assert len(members) == sum(1 for index in range(slices[-1].stop if byte_ranges else 10) if index % 5)


def test_a_version_that_was_replaced_while_it_was_prepared_is_left_out(tmp_path: Path) -> None:
    location = prepared(Location.parse(str(tmp_path / "p")), [SliceId("aaaa", "cccc", 0, 10)], swap=False)
    write_sources(location, [(Source(Location.parse("/originals/aaaa"), "0ld0", "v0", 1), 20)])
    assert [(one.source.source_id, one.lack) for one in open_prepared(location)] == [("aaaa", None)]


def test_small_archives_do_not_share_row_groups(tmp_path: Path) -> None:
    """Or else each of them would cost its reader the others' bytes."""
    big = [SliceId(f"{number:04x}", "cccc", 0, 3000) for number in range(4)]
    location = prepared(Location.parse(str(tmp_path / "p")), big, swap=True)
    parts = [one.archive.parts(Missing(((0, 3000),)), slice_size=3000) for one in open_prepared(location)]
    assert [part.row_groups for [part] in parts] == [(number, number + 1) for number in range(4)]  # type: ignore[attr-defined]


def test_other_settings_need_another_place(tmp_path: Path) -> None:
    location = Location.parse(str(tmp_path / "p"))
    write_preparation(location, PREPARATION)
    write_preparation(location, PREPARATION)
    with pytest.raises(UsageError, match="was prepared with image_size 4 where 8 is asked for"):
        write_preparation(location, PREPARATION.model_copy(update={"image_size": 8}))
