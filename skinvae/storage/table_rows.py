"""Rows of a table's Parquet files in bounded memory, by this thread alone.

Not by `DeltaTable.to_pyarrow_dataset`: Arrow's threads outlive such a read, and one that drops a Python object while
the interpreter exits aborts the process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.exceptions import DeltaError
from pyarrow import dataset

from skinvae.errors import TableError
from skinvae.images.archives.parquet.rows import ParquetRows
from skinvae.storage.commit_protocol import LiveFile
from skinvae.storage.filesystem import Location
from skinvae.storage.storage_errors import delta_error_words

_BATCH_ROWS = 65_536
"""At least, but for the last: of scores a few tens of megabytes in memory."""

_BATCH_BYTES = 64 << 20
"""At which wider rows are enough for a batch, too."""


def row_batches(
    table: Location,
    files: Iterable[LiveFile],
    schema: pa.Schema,
    *,
    only: dataset.Expression | None,
    only_names: Sequence[str],
) -> Iterator[pa.RecordBatch]:
    """The columns of `schema` of all rows, or of `only` some of them, file after file.

    `only_names` are the columns beside those of `schema` that `only` may name.
    """
    names = list(dict.fromkeys([*schema.names, *only_names]))
    pending: list[pa.RecordBatch] = []
    for file in files:
        for batch in _file_batches(table / file.path, names, is_slice=file.is_slice):
            pending.append(batch)
            if (
                sum(one.num_rows for one in pending) >= _BATCH_ROWS
                or sum(one.nbytes for one in pending) >= _BATCH_BYTES
            ):
                yield _chosen(pending, only, schema)
                pending = []
    if pending:
        yield _chosen(pending, only, schema)


@contextmanager
def reading(table: Location) -> Iterator[None]:
    """Turn what reading a table's rows may raise into a TableError."""
    try:
        yield
    except (OSError, DeltaError, pa.ArrowException) as error:
        raise TableError(f"cannot read '{table}': {delta_error_words(table, error)}") from error


def _file_batches(file: Location, columns: list[str], *, is_slice: bool) -> Iterator[pa.RecordBatch]:
    if is_slice:
        parquet = pq.ParquetFile(pa.BufferReader(file.read_bytes()), pre_buffer=False)
        yield from parquet.iter_batches(batch_size=_BATCH_ROWS, columns=columns, use_threads=False)
        return
    info = file.info()
    assert info is not None, "a file of a table is no folder"
    rows = ParquetRows(file.open_range_reader(info))
    yield from (batch for _, batch in rows.batches(rows.all_rows, columns))


def _chosen(batches: list[pa.RecordBatch], only: dataset.Expression | None, schema: pa.Schema) -> pa.RecordBatch:
    """Batches of rows as one, with the rows and columns that are asked for."""
    rows = pa.Table.from_batches(batches)
    if only is not None:
        rows = rows.filter(only)
    whole = rows.select(schema.names).combine_chunks()
    arrays = [
        column.chunk(0) if column.num_chunks else pa.array([], field.type)
        for column, field in zip(whole.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
