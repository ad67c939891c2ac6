"""A scratch database takes more than its memory, says nothing on stdout, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from skinvae.errors import LabelsError, UsageError
from skinvae.storage.scratch import open_scratch


def test_more_than_its_memory_is_sorted_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rng = np.random.default_rng(0)
    schema = pa.schema([("value", pa.float64()), ("text", pa.string())])
    text = pa.repeat("x" * 200, 100_000)
    batches = (pa.record_batch([rng.random(100_000), text], schema=schema) for _ in range(12))
    with open_scratch(memory_mb=128) as scratch:
        scratch.fill("rows", schema, batches)
        assert any(tmp_path.iterdir())
        seen, last = 0, -1.0
        for batch in scratch.batches("SELECT value, text FROM rows ORDER BY value", num_rows=10_000):
            values = batch.column(0).to_numpy()
            assert values[0] >= last
            assert (np.diff(values) >= 0).all()
            seen, last = seen + len(values), values[-1]
            # The connection is free meanwhile.
            assert scratch.value("SELECT 1") == 1
        assert seen == scratch.value("SELECT count(*) FROM rows") == 1_200_000
    assert not any(tmp_path.iterdir())
    assert capfd.readouterr().out == ""


def test_too_little_memory_is_one_sentence() -> None:
    query = "SELECT list(repeat('x', 1000) || range) FROM range(1000000)"
    with (
        pytest.raises(UsageError, match=r"64 MiB are too little .* raise evaluate\.memory_mb"),
        open_scratch(memory_mb=64) as scratch,
    ):
        scratch.rows(query)


def test_what_fails_in_the_source_is_raised_as_it_is() -> None:
    schema = pa.schema([("value", pa.int64())])

    def rows() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch([[1]], schema=schema)
        raise LabelsError("labels.csv, data row 2: no")

    with open_scratch(memory_mb=64) as scratch:
        with pytest.raises(LabelsError, match=r"^labels\.csv, data row 2: no$") as caught:
            scratch.fill("rows", schema, rows())
        assert caught.value.__suppress_context__
        scratch.fill("rows", schema, [pa.record_batch([[1]], schema=schema)])
        with pytest.raises(duckdb.CatalogException):
            scratch.fill("rows", schema, [pa.record_batch([[1]], schema=schema)])
