"""Rows stream by in batches that neither many small files nor wide rows make too small or too large."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import dataset

from skinvae.errors import TableError
from skinvae.storage import table_rows
from skinvae.storage.commit_protocol import LiveFile
from skinvae.storage.filesystem import Location
from skinvae.storage.table_rows import reading, row_batches

SCHEMA = pa.schema([("number", pa.int64()), ("text", pa.string())])
PATHS = [f"_slices/{number}.parquet" for number in range(3)] + ["part-0.parquet"]


@pytest.fixture
def files(tmp_path: Path) -> list[LiveFile]:
    """Three slices and a large file of 10 rows each, numbered throughout."""
    (tmp_path / "_slices").mkdir()
    live = []
    for index, path in enumerate(PATHS):
        numbers = range(10 * index, 10 * index + 10)
        rows = pa.table({"text": ["x" * 1000] * 10, "number": numbers, "parity": [one % 2 for one in numbers]})
        pq.write_table(rows, tmp_path / path)
        live.append(LiveFile(path, (tmp_path / path).stat().st_size, 10, 0))
    return live


def batches(tmp_path: Path, files: list[LiveFile], *, only: dataset.Expression | None = None) -> list[pa.RecordBatch]:
    place = Location.parse(str(tmp_path))
    return list(row_batches(place, files, SCHEMA, only=only, only_names=("parity",)))


def test_small_files_come_as_one_batch_with_the_columns_asked_for(tmp_path: Path, files: list[LiveFile]) -> None:
    (batch,) = batches(tmp_path, files)
    assert batch.schema == SCHEMA
    assert batch["number"].to_pylist() == list(range(40))


def test_rows_are_chosen_by_columns_that_are_not_returned(tmp_path: Path, files: list[LiveFile]) -> None:
    (batch,) = batches(tmp_path, files, only=dataset.field("parity") == 1)
    assert batch["number"].to_pylist() == list(range(1, 40, 2))
    (none,) = batches(tmp_path, files, only=dataset.field("parity") == 2)
    assert (none.num_rows, none.schema) == (0, SCHEMA)


@pytest.mark.parametrize(("name", "limit"), [("_BATCH_ROWS", 15), ("_BATCH_BYTES", 15_000)])
def test_a_batch_ends_with_its_rows_or_its_bytes(
    tmp_path: Path, files: list[LiveFile], monkeypatch: pytest.MonkeyPatch, name: str, limit: int
) -> None:
    monkeypatch.setattr(table_rows, name, limit)
    assert [batch.num_rows for batch in batches(tmp_path, files)] == [20, 20]


def test_a_damaged_file_is_a_sentence(tmp_path: Path, files: list[LiveFile]) -> None:
    (tmp_path / PATHS[1]).write_bytes(b"nothing of the kind")
    with pytest.raises(TableError, match="cannot read"), reading(Location.parse(str(tmp_path))):
        batches(tmp_path, files)
