"""A folder of few large files, Parquet or CSV, that is complete once `_export.json` is there.

    _unfinished.json     written first, deleted last: who is at it, or was when it was killed
    export-00000.parquet
    export-00001.parquet ...
    _export.json         written when all files are: where the rows came from, and what the columns mean

A file is made in memory and written at once, so that nobody reads a part of one. Readers of Parquet ignore names that
begin with `_`.
"""

from __future__ import annotations

import io
import json
import re
import secrets
from collections.abc import Mapping
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from skinvae.errors import JobError, UsageError
from skinvae.storage.filesystem import Location

Format = Literal["parquet", "csv"]
FORMATS: tuple[Format, ...] = get_args(Format)

FILE_BYTES = 128 << 20
"""After which a file is closed; what is written in one piece may exceed it by one row group."""

_GROUP_ROWS = 131_072
"""Of a row group: some tens of megabytes in memory."""

_MAX_TOKEN_BYTES = 1024
_DONE, _UNFINISHED = "_export.json", "_unfinished.json"
_FILE_NAME = re.compile(r"export-\d{5,}\.(parquet|csv)")


class Export:
    """Writes one export, row by row, in the memory of about one of its files."""

    def __init__(
        self,
        location: Location,
        schema: pa.Schema,
        *,
        format_: Format,
        about: Mapping[str, Any],
        file_bytes: int = FILE_BYTES,
    ) -> None:
        """`about` says where the rows come from: it goes into `_export.json`, and into the footers of Parquet files.

        Begins anew what an earlier export left unfinished there. Raises UsageError if the place is not empty.
        """
        self.location, self.files = location, list[str]()
        self.num_rows = self.num_bytes = 0
        self._about, self._format, self._file_bytes = dict(about), format_, file_bytes
        self._schema = schema.with_metadata({"skinvae.export": json.dumps(self._about)})
        self._pending: list[pa.RecordBatch] = []
        self._num_pending = 0
        self._file: _OpenFile | None = None
        self._token = secrets.token_hex(8)
        leftovers = _leftovers(location)
        (location / _UNFINISHED).write_bytes(json.dumps({"token": self._token}).encode())
        for name in leftovers:
            (location / name).delete()

    def add(self, batch: pa.RecordBatch) -> None:
        """More rows, of the export's schema."""
        self._pending.append(batch)
        self._num_pending += batch.num_rows
        if self._num_pending >= _GROUP_ROWS:
            self._write_group()

    def finish(self, **counts: Any) -> None:
        """Write what is left and say that the export is complete. Raises JobError if another began there meanwhile."""
        # A file without rows still tells its columns.
        if self._num_pending or (not self.files and self._file is None):
            self._write_group()
        self._close_file()
        self._require_alone()
        columns = {field.name: _decoded(field.metadata) | {"type": str(field.type)} for field in self._schema}
        document = {**self._about, **counts, "num_rows": self.num_rows, "files": self.files, "columns": columns}
        (self.location / _DONE).write_bytes((json.dumps(document, indent=2) + "\n").encode())
        (self.location / _UNFINISHED).delete()

    def _write_group(self) -> None:
        rows = pa.Table.from_batches(self._pending, self._schema)
        self._pending, self._num_pending = [], 0
        if self._file is None:
            self._file = _OpenFile(self._schema, self._format)
        self._file.write(rows)
        self.num_rows += rows.num_rows
        if self._file.num_bytes >= self._file_bytes:
            self._close_file()

    def _close_file(self) -> None:
        if self._file is None:
            return
        data = self._file.close()
        self._file = None
        name = f"export-{len(self.files):05}.{self._format}"
        self._require_alone()
        (self.location / name).write_bytes(data)
        self.files.append(name)
        self.num_bytes += len(data)

    def _require_alone(self) -> None:
        """Another export, which takes this one for killed, begins by writing a token of its own."""
        found = (self.location / _UNFINISHED).read_head(_MAX_TOKEN_BYTES)
        if found is None or json.loads(found)["token"] != self._token:
            raise JobError(f"another export to '{self.location}' began before this one ended: export again, alone")


class _OpenFile:
    """One file, as it grows in memory."""

    def __init__(self, schema: pa.Schema, format_: Format) -> None:
        self._buffer = io.BytesIO()
        self._writer: Any
        if format_ == "parquet":
            self._writer = pq.ParquetWriter(self._buffer, schema, compression="zstd")
        else:
            self._writer = pa.csv.CSVWriter(self._buffer, schema)

    @property
    def num_bytes(self) -> int:
        return self._buffer.tell()

    def write(self, rows: pa.Table) -> None:
        if rows.num_rows:
            self._writer.write_table(rows)

    def close(self) -> bytes:
        self._writer.close()
        return self._buffer.getvalue()


def _leftovers(location: Location) -> list[str]:
    """Files of an export that was killed. Raises UsageError if anything else is there."""
    names = {entry.name for entry in location.list_objects()}
    if _DONE in names:
        raise UsageError(f"'{location}' holds an export already: choose another --to, or delete it")
    leftovers = sorted(names - {_UNFINISHED})
    if leftovers and (_UNFINISHED not in names or not all(map(_FILE_NAME.fullmatch, leftovers))):
        raise UsageError(f"'{location}' is not empty: choose another --to")
    return leftovers


def _decoded(metadata: Mapping[bytes, bytes] | None) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (metadata or {}).items()}
