"""The digest of rows depends on their values and their order, and on nothing of how they are laid out."""

from __future__ import annotations

import io
import itertools
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinvae.records import PIXEL_SCHEMA, SCORE_SCHEMA
from skinvae.storage.row_digest import RowDigest, digest_rows
from tests.unit.storage.rows import rows_of, slice_id

SCHEMA = pa.schema(
    {
        "whole": pa.int32(),
        "number": pa.float64(),
        "text": pa.string(),
        "pixels": pa.binary(),
        "at": pa.timestamp("us", tz="UTC"),
    }
)
CELLS = {
    "whole": st.integers(-(2**31), 2**31 - 1),
    "number": st.floats(allow_nan=False),
    "text": st.text(max_size=5),
    "pixels": st.binary(max_size=5),
    "at": st.integers(0, 2**50),
}
ROW = st.fixed_dictionaries({name: st.none() | cells for name, cells in CELLS.items()})
ROWS = st.lists(ROW, max_size=12)


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@settings(deadline=None)
@given(rows=ROWS, cuts=st.lists(st.integers(0, 12), max_size=4), group=st.integers(1, 13))
def test_no_layout_leaves_a_trace(rows: list[dict[str, Any]], cuts: list[int], group: int) -> None:
    table = table_of(rows)
    expected = digest_rows(table)
    borders = sorted({0, len(rows), *(min(cut, len(rows)) for cut in cuts)})
    pieces = [table.slice(start, stop - start) for start, stop in itertools.pairwise(borders)]
    by_piece = RowDigest()
    by_piece.update(table.slice(0, 0))
    for piece in pieces:
        by_piece.update(piece)
    assert by_piece.hexdigest() == expected
    assert digest_rows(pa.concat_tables([*pieces, table.slice(0, 0)])) == expected
    for options in ({"compression": "zstd"}, {"use_dictionary": False, "data_page_version": "2.0"}):
        buffer = io.BytesIO()
        pq.write_table(table, buffer, row_group_size=group, **options)
        assert digest_rows(pq.read_table(buffer)) == expected
    encoded = table.set_column(2, "text", table["text"].dictionary_encode())
    wide = encoded.set_column(3, "pixels", table["pixels"].cast(pa.large_binary()))
    assert digest_rows(wide) == expected


@settings(deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=6), other=st.lists(ROW, min_size=1, max_size=6))
def test_other_rows_have_another_digest(rows: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    are_equal = table_of(rows).equals(table_of(other)) and repr(rows) == repr(other)  # 0.0 and -0.0 are two values
    assert (digest_rows(table_of(rows)) == digest_rows(table_of(other))) == are_equal


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"text": ["ab", "c"]}, {"text": ["a", "bc"]}),
        ({"text": [None, "a"]}, {"text": ["", "a"]}),
        ({"whole": [None]}, {"whole": [0]}),
        ({"whole": [1, 2]}, {"whole": [2, 1]}),
        ({"whole": [1]}, {"other": [1]}),
        ({"whole": [1], "other": [2]}, {"whole": [2], "other": [1]}),
        ({"number": [0.0]}, {"number": [-0.0]}),
    ],
)
def test_values_that_are_near_each_other_are_told_apart(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert digest_rows(pa.table(one)) != digest_rows(pa.table(two))


def test_what_lies_below_a_null_does_not_count() -> None:
    """Arrow lets any bytes lie there, and libraries differ in which."""
    validity = pa.py_buffer(b"\x02")
    dirty = pa.Array.from_buffers(pa.int64(), 2, [validity, pa.py_buffer((7).to_bytes(8, "little") + bytes(8))])
    assert dirty.to_pylist() == [None, 0]
    assert digest_rows(pa.table({"a": dirty})) == digest_rows(pa.table({"a": [None, 0]}))


@pytest.mark.parametrize("schema", [SCORE_SCHEMA, PIXEL_SCHEMA], ids=["scores", "pixels"])
def test_every_column_counts(schema: pa.Schema) -> None:
    rows = rows_of(slice_id(0, 8)) if schema is SCORE_SCHEMA else pixel_rows()
    seen = {digest_rows(rows)}
    for index, field in enumerate(schema):
        seen.add(digest_rows(rows.set_column(index, field.name, pa.nulls(rows.num_rows, field.type))))
    assert len(seen) == len(schema) + 1


def pixel_rows() -> pa.Table:
    return pa.Table.from_arrays(
        [pa.array([b"ab"] * 3 if field.type == pa.binary() else [1] * 3).cast(field.type) for field in PIXEL_SCHEMA],
        schema=PIXEL_SCHEMA,
    )
