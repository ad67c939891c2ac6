"""Labels and lesion tables as data frames, from wherever they lie."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import DeltaError, TableNotFoundError

from skinvae.errors import LabelsError
from skinvae.storage.filesystem import Location

_ID_COLUMNS = ("image", "image_id", "lesion_id")

_ALL_ROWS = 1 << 62
_READ_ROWS = 65_536
"""At a time, of Parquet."""


def read_frame(location: Location) -> pd.DataFrame:
    """A CSV file with a header line, a zip with one CSV in it as ISIC publishes its labels, Parquet, or a Delta table.

    Ids are text. Raises LabelsError if it is none of these.
    """
    return pd.concat(read_frames(location, num_rows=_ALL_ROWS), ignore_index=True)


def read_frames(location: Location, *, num_rows: int) -> Iterator[pd.DataFrame]:
    """The same in frames of at most `num_rows`, of which memory holds one, and of a zip its whole CSV; one at least."""
    if location.info() is None:
        yield from _delta_frames(location, num_rows=num_rows)
        return
    head = location.read_head(4) or b""
    if head.startswith(b"PK"):
        yield from _csv_frames(io.BytesIO(_only_csv(location.read_bytes(), location)), location, num_rows=num_rows)
        return
    read = _parquet_frames if head == b"PAR1" else _csv_frames
    with location.filesystem.open(location.uri, "rb") as file:
        yield from read(file, location, num_rows=num_rows)


def _csv_frames(file: BinaryIO, location: Location, *, num_rows: int) -> Iterator[pd.DataFrame]:
    try:
        # Ids may look like numbers; only true numbers, as in one-hot columns, become ones.
        yield from pd.read_csv(file, dtype=dict.fromkeys(_ID_COLUMNS, str), chunksize=num_rows)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise LabelsError(f"'{location}' is no CSV or Parquet file, nor a Delta table: {error}") from error


def _parquet_frames(file: BinaryIO, location: Location, *, num_rows: int) -> Iterator[pd.DataFrame]:
    try:
        # By this thread alone: see table_rows.py.
        parquet = pq.ParquetFile(file, pre_buffer=False)
        batches = parquet.iter_batches(_READ_ROWS, use_threads=False)
        yield from _frames_of(batches, parquet.schema_arrow, num_rows=num_rows)
    except (OSError, pa.ArrowException) as error:
        raise LabelsError(f"'{location}' is a Parquet file that cannot be read: {error}") from error


def _delta_frames(location: Location, *, num_rows: int) -> Iterator[pd.DataFrame]:
    try:
        table = DeltaTable(location.uri, storage_options=location.delta_options())
        # Read in Rust, not by Arrow's threads, for the reason that table_rows.py gives; and by one of them, in order.
        engine = QueryBuilder().register("labels", table)
        engine.execute("SET datafusion.execution.target_partitions = 1").read_all()
        batches = pa.RecordBatchReader.from_stream(engine.execute("SELECT * FROM labels"))
        yield from _frames_of(batches, batches.schema, num_rows=num_rows)
    except TableNotFoundError as error:
        raise LabelsError(f"'{location}' is a folder, but no Delta table: give the file that is meant") from error
    except (OSError, DeltaError, pa.ArrowException) as error:
        raise LabelsError(f"the Delta table '{location}' cannot be read: {error}") from error


def _frames_of(batches: Iterable[pa.RecordBatch], schema: pa.Schema, *, num_rows: int) -> Iterator[pd.DataFrame]:
    pending: list[pa.RecordBatch] = []
    num_pending, is_first = 0, True
    for batch in batches:
        pending.append(batch)
        num_pending += batch.num_rows
        if num_pending >= num_rows:
            rows, num_whole = pa.Table.from_batches(pending), num_pending - num_pending % num_rows
            yield from (_frame_of(rows.slice(start, num_rows)) for start in range(0, num_whole, num_rows))
            pending, num_pending, is_first = rows.slice(num_whole).to_batches(), num_pending - num_whole, False
    if num_pending or is_first:
        yield _frame_of(pa.Table.from_batches(pending, schema))


def _frame_of(rows: pa.Table) -> pd.DataFrame:
    """With ids as text, made of Arrow's numbers: those of pandas turn into fractions where one is missing."""
    frame: pd.DataFrame = rows.to_pandas()
    for name in set(_ID_COLUMNS) & set(frame.columns):
        frame[name] = rows[name].cast(pa.string()).to_numpy()
    return frame


def _only_csv(data: bytes, location: Location) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name for name in archive.namelist() if name.lower().endswith(".csv") and "__MACOSX" not in name]
            if len(names) != 1:
                raise LabelsError(f"'{location}' holds {len(names)} CSV files: give the one that is meant")
            return archive.read(names[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise LabelsError(f"'{location}' is a zip that cannot be read ({error}): unpack it and give the CSV") from error
