"""Slice files: created once, adopted afterwards, never overwritten; a foreign file is refused."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinvae.errors import TableError
from skinvae.records import SCORE_SCHEMA
from skinvae.storage.filesystem import Location
from skinvae.storage.slice_ids import SLICES_FOLDER, SliceId
from skinvae.storage.slices import contents_of_part, slices_written, write_slice
from tests.unit.storage.rows import PROVENANCE, rows_of, slice_id, write

digests = st.text("0123456789abcdef", min_size=1, max_size=16)
ordinals = st.integers(0, 2**40)


@settings(deadline=None)
@given(one=st.builds(SliceId, digests, digests, ordinals, ordinals, st.none() | st.tuples(ordinals, ordinals)))
def test_names_and_paths_parse_back(one: SliceId) -> None:
    assert SliceId.parse(str(one)) == one
    assert SliceId.from_path(one.path) == one


@pytest.mark.parametrize("text", ["", "a-b-1", "a-b-1-2-3", "a-b-one-2"])
def test_other_names_are_no_slice(text: str) -> None:
    with pytest.raises(ValueError, match=r"unpack|invalid literal"):
        SliceId.parse(text)


def test_a_second_write_adopts_the_first_and_leaves_it_untouched(tmp_path: Path) -> None:
    table, one = Location.parse(str(tmp_path)), slice_id(0, 20)
    first = write(table, one)
    before = (tmp_path / one.path).read_bytes()
    other_rows = rows_of(one, run_id="another run")
    assert write_slice(table, one, other_rows, provenance={"run_id": "2"}) == first
    assert (tmp_path / one.path).read_bytes() == before
    assert first.num_rows == 20
    assert first.counts == {"ok": 18, "truncated": 2}
    assert first.num_bytes == len(before)


def test_a_slice_file_is_the_rows_with_their_units_and_provenance(tmp_path: Path) -> None:
    one = slice_id(3, 40)
    write(Location.parse(str(tmp_path)), one)
    back = pq.read_table(tmp_path / one.path)
    assert back.equals(rows_of(one).replace_schema_metadata(None))
    assert all(back.schema.field(field.name).metadata.items() >= field.metadata.items() for field in SCORE_SCHEMA)
    assert all(back.schema.field(field.name).nullable == field.nullable for field in SCORE_SCHEMA)
    assert b"run-1" in back.schema.metadata[b"skinvae.provenance"]


def test_a_slice_without_images_is_a_file_without_rows(tmp_path: Path) -> None:
    table, one = Location.parse(str(tmp_path)), slice_id(0, 5)
    no_rows = rows_of(one).slice(0, 0)
    assert write_slice(table, one, no_rows, provenance=PROVENANCE).num_rows == 0
    adopted = write_slice(table, one, no_rows, provenance=PROVENANCE)
    assert (adopted.num_rows, adopted.counts) == (0, {})


def foreign_files() -> dict[str, bytes]:
    parquet, other_columns = io.BytesIO(), io.BytesIO()
    pq.write_table(rows_of(slice_id(0, 5)), parquet)
    about = {b"skinvae.slice": b'{"slice_id": "aaaa-cccc-0-5", "counts": {}}'}
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata(about), other_columns)
    good = parquet.getvalue()
    return {
        "empty": b"",
        "text": b"this is no Parquet file, but long enough to be one",
        "pickle": pickle.dumps({"a": 1}),
        "truncated": good[: len(good) // 2],
        "parquet of somebody else": good,
        "other columns": other_columns.getvalue(),
        "damaged footer": good[:-200] + bytes(100) + good[-100:],
        "footer of another type": _with_about(b"[1, 2]"),
        "footer without a slice": _with_about(b"{}"),
        "footer that is no JSON": _with_about(b"\xff{"),
    }


def _with_about(about: bytes) -> bytes:
    stream = io.BytesIO()
    pq.write_table(rows_of(slice_id(0, 5)).replace_schema_metadata({b"skinvae.slice": about}), stream)
    return stream.getvalue()


@pytest.mark.parametrize("kind", foreign_files())
def test_a_foreign_file_under_the_slice_s_name_is_refused_and_kept(tmp_path: Path, kind: str) -> None:
    one = slice_id(0, 5)
    path = tmp_path / one.path
    path.parent.mkdir()
    path.write_bytes(foreign_files()[kind])
    with pytest.raises(TableError, match=rf"{one}\.parquet' is no slice file"):
        write(Location.parse(str(tmp_path)), one)
    assert path.read_bytes() == foreign_files()[kind]


def test_another_slice_s_file_under_this_name_is_refused(tmp_path: Path) -> None:
    table = Location.parse(str(tmp_path))
    written, wanted = slice_id(0, 5), slice_id(5, 10)
    write(table, written)
    (tmp_path / written.path).rename(tmp_path / wanted.path)
    with pytest.raises(TableError, match="no slice file"):
        write(table, wanted)


def test_written_slices_are_listed_in_order(tmp_path: Path) -> None:
    table = Location.parse(str(tmp_path))
    assert slices_written(table) == []
    wanted = [slice_id(0, 5), slice_id(5, 12), slice_id(100, 101), slice_id(0, 3, source="bbbb")]
    for one in reversed(wanted):
        write(table, one)
    assert slices_written(table) == wanted
    assert {path.name for path in (tmp_path / SLICES_FOLDER).iterdir()} == {f"{one}.parquet" for one in wanted}


def test_a_top_level_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "scores.parquet")
    with pytest.raises(TableError, match="skinvae did not write it"):
        contents_of_part(Location.parse(str(tmp_path)) / "scores.parquet")
