"""A digest of rows as values: the same for the same rows, however a file or a library version lays them out.

Chunks, slices of buffers, row groups, dictionaries and compression leave no trace in it; a changed value, a null, a row
more or less, or another order of rows does.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hashlib import blake2b

_DIGEST_BYTES = 16


class RowDigest:
    """Takes rows batch by batch, wherever they are cut; all batches have the same columns."""

    def __init__(self) -> None:
        self._columns: dict[str, _ColumnDigest] = {}
        self._num_rows = 0

    def update(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Take the rows that follow."""
        for name, column in zip(rows.schema.names, rows.columns, strict=True):
            digest = self._columns.setdefault(name, _ColumnDigest())
            for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                digest.update(chunk)
        self._num_rows += rows.num_rows

    def hexdigest(self) -> str:
        """Of all rows so far: 32 hex digits."""
        total = _blake2b()
        total.update(self._num_rows.to_bytes(8, "little"))
        for name, column in self._columns.items():
            encoded = name.encode()
            total.update(len(encoded).to_bytes(8, "little") + encoded + column.digest())
        return total.hexdigest()


def digest_rows(rows: pa.Table) -> str:
    """The RowDigest of rows that are in memory."""
    digest = RowDigest()
    digest.update(rows)
    return digest.hexdigest()


class _ColumnDigest:
    """Validity, lengths and values, each a stream of its own: one stream would tell where the chunks end."""

    def __init__(self) -> None:
        self._validity, self._lengths, self._values = _blake2b(), _blake2b(), _blake2b()

    def update(self, array: pa.Array) -> None:
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        # A byte a row: bits would depend on where a chunk begins.
        self._validity.update(np.ascontiguousarray(array.is_valid().to_numpy(zero_copy_only=False)).view(np.uint8).data)
        if pa.types.is_floating(array.type):
            self._values.update(_plain(array.cast(pa.float64()), null=0.0))
        elif pa.types.is_timestamp(array.type):
            self._values.update(_plain(array.cast(pa.timestamp("us", array.type.tz)).cast(pa.int64()), null=0))
        elif pa.types.is_integer(array.type) or pa.types.is_boolean(array.type):
            self._values.update(_plain(array.cast(pa.int64()), null=0))
        else:
            self._update_bytes(array.cast(pa.large_binary()))

    def _update_bytes(self, array: pa.Array) -> None:
        # What lies below a null is anything: it must not count.
        array = pc.fill_null(array, b"") if array.null_count else array
        _, offsets_buffer, data = array.buffers()
        offsets = np.frombuffer(offsets_buffer, np.int64)[array.offset : array.offset + len(array) + 1]
        self._lengths.update(_little_endian(np.diff(offsets)))
        if data is not None and len(offsets):
            self._values.update(memoryview(data)[int(offsets[0]) : int(offsets[-1])])

    def digest(self) -> bytes:
        return self._validity.digest() + self._lengths.digest() + self._values.digest()


def _plain(array: pa.Array, *, null: float) -> memoryview:
    return _little_endian(pc.fill_null(array, null).to_numpy(zero_copy_only=False))


def _little_endian(values: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).data


def _blake2b() -> blake2b:
    return hashlib.blake2b(digest_size=_DIGEST_BYTES)
