"""Labels and lesion tables as data frames, from wherever they lie."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from skinvae.errors import LabelsError
from skinvae.storage.filesystem import Location

_ID_COLUMNS = ("image", "image_id", "lesion_id")


def read_frame(location: Location) -> pd.DataFrame:
    """A CSV file with a header line, a zip with one CSV in it as ISIC publishes its labels, Parquet, or a Delta table.

    Ids are text. Raises LabelsError if it is none of these.
    """
    if location.info() is None:
        return _text_ids(_read_delta(location))
    data = location.read_bytes()
    if data.startswith(b"PAR1"):
        return _text_ids(_read_parquet(data, location))
    if data.startswith(b"PK"):
        data = _only_csv(data, location)
    try:
        # Ids may look like numbers; only true numbers, as in one-hot columns, become ones.
        return pd.read_csv(io.BytesIO(data), dtype=dict.fromkeys(_ID_COLUMNS, str))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise LabelsError(f"'{location}' is no CSV or Parquet file, nor a Delta table: {error}") from error


def read_frames(location: Location, *, num_rows: int) -> Iterator[pd.DataFrame]:
    """The same in frames of about `num_rows`, of which memory holds one: Parquet, Delta and plain CSV; zips at once."""
    if location.info() is None:
        yield from _delta_frames(location, num_rows=num_rows)
        return
    head = location.read_head(4) or b""
    if head.startswith(b"PK"):
        yield read_frame(location)
        return
    read = _parquet_frames if head == b"PAR1" else _csv_frames
    with location.filesystem.open(location.uri, "rb") as file:
        yield from read(file, location, num_rows=num_rows)


def _parquet_frames(file: BinaryIO, location: Location, *, num_rows: int) -> Iterator[pd.DataFrame]:
    try:
        for batch in pq.ParquetFile(file).iter_batches(num_rows):
            yield _text_ids(batch.to_pandas())
    except (OSError, pa.ArrowException) as error:
        raise LabelsError(f"'{location}' is a Parquet file that cannot be read: {error}") from error


def _csv_frames(file: BinaryIO, location: Location, *, num_rows: int) -> Iterator[pd.DataFrame]:
    try:
        yield from pd.read_csv(file, dtype=dict.fromkeys(_ID_COLUMNS, str), chunksize=num_rows)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise LabelsError(f"'{location}' is no CSV or Parquet file, nor a Delta table: {error}") from error


def _delta_frames(location: Location, *, num_rows: int) -> Iterator[pd.DataFrame]:
    try:
        rows = DeltaTable(location.uri, storage_options=location.delta_options()).to_pyarrow_dataset()
        for batch in rows.to_batches(batch_size=num_rows, batch_readahead=1, fragment_readahead=1):
            if batch.num_rows:
                yield _text_ids(batch.to_pandas())
    except TableNotFoundError as error:
        raise LabelsError(f"'{location}' is a folder, but no Delta table: give the file that is meant") from error
    except (OSError, DeltaError, pa.ArrowException) as error:
        raise LabelsError(f"the Delta table '{location}' cannot be read: {error}") from error


def _read_delta(location: Location) -> pd.DataFrame:
    try:
        table = DeltaTable(location.uri, storage_options=location.delta_options())
        return table.to_pandas()
    except TableNotFoundError as error:
        raise LabelsError(f"'{location}' is a folder, but no Delta table: give the file that is meant") from error
    except (OSError, DeltaError, pa.ArrowException) as error:
        raise LabelsError(f"the Delta table '{location}' cannot be read: {error}") from error


def _read_parquet(data: bytes, location: Location) -> pd.DataFrame:
    try:
        frame: pd.DataFrame = pq.read_table(pa.BufferReader(data)).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise LabelsError(f"'{location}' is a Parquet file that cannot be read: {error}") from error
    return frame


def _text_ids(frame: pd.DataFrame) -> pd.DataFrame:
    """Ids as text; missing ones stay missing."""
    for name in set(_ID_COLUMNS) & set(frame.columns):
        ids = frame[name]
        frame[name] = ids.astype(object).where(ids.isna(), ids.astype(str))
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
