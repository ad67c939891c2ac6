"""A Parquet file's footer: which rows its row groups have, and where their columns' bytes lie.

pyarrow opens the same footer, but its accessors of column chunks do not catch all that Arrow throws at a damaged one:
they abort the process. Hence this reader of the few fields that are needed (apache/parquet-format, parquet.thrift;
thrift-compact-protocol.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from skinvae.errors import ArchiveError
from skinvae.images.archives.base import RangeReader, read_exactly

MAGIC = b"PAR1"
_TAIL_BYTES = 64 << 10
_MAX_FOOTER_BYTES = 256 << 20  # 100,000 row groups of ten columns take some 100 MB
_MAX_DEPTH = 16

_Wanted: TypeAlias = "dict[int, _Wanted | None]"
_COLUMN_META: _Wanted = {3: None, 6: None, 7: None, 9: None, 11: None}
_FILE: _Wanted = {3: None, 4: {1: {1: None, 3: _COLUMN_META}, 3: None}}
"""Of FileMetaData num_rows and row_groups; of these columns and num_rows; of these file_path and meta_data; of that
path_in_schema, total_uncompressed_size, total_compressed_size, data_page_offset and dictionary_page_offset."""


@dataclass(frozen=True)
class Chunk:
    """One column in one row group: its bytes [start, stop) of the file."""

    start: int
    stop: int
    num_uncompressed_bytes: int


@dataclass(frozen=True)
class RowGroup:
    """One row group; its chunks by the path of the column, 'a.b' for the field b of the column a."""

    num_rows: int
    chunks: dict[str, Chunk]


@dataclass(frozen=True)
class Tail:
    """The file's last bytes, which hold all of the footer, from `start` on."""

    start: int
    data: bytes
    footer: bytes


def read_tail(reader: RangeReader) -> Tail:
    """One read, or two where the footer is large. Raises ArchiveError where there is no footer."""
    start = max(0, reader.size - _TAIL_BYTES)
    data = read_exactly(reader, start, reader.size)
    num_bytes = int.from_bytes(data[-8:-4], "little")
    if data[-4:] != MAGIC or num_bytes > min(reader.size - 12, _MAX_FOOTER_BYTES):
        raise ArchiveError(
            f"{reader.uri} has no Parquet footer at its end: it was cut off, or its upload is incomplete."
        )
    footer_start = reader.size - 8 - num_bytes
    if footer_start < start:
        data = read_exactly(reader, footer_start, start) + data
        start = footer_start
    return Tail(start, data, data[footer_start - start : -8])


@lru_cache(maxsize=2)
def parse_footer(footer: bytes, *, uri: str) -> tuple[int, tuple[RowGroup, ...]]:
    """(number of rows, row groups). Raises ArchiveError where it is damaged.

    Kept for the next part of the file: 2,000 row groups of six columns take 0.3 s.
    """
    try:
        fields = _Compact(footer).struct(_FILE, depth=0)
        return int(fields[3]), tuple(_row_group(group) for group in fields.get(4, []))
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArchiveError(f"{uri} is a damaged Parquet file: its footer does not end where it should.") from error


def _row_group(fields: dict[int, Any]) -> RowGroup:
    chunks = {}
    for column in fields[1]:
        if 1 in column:
            raise ValueError("the bytes are said to be in another file")
        meta = column[3]
        # Writers that have no dictionary leave its offset out, or at 0.
        start = min(meta.get(11) or meta[9], meta[9])
        path = ".".join(part.decode("utf-8") for part in meta[3])
        chunks[path] = Chunk(start, start + meta[7], meta[6])
    return RowGroup(int(fields[3]), chunks)


class _Compact:
    """Thrift's compact protocol. Raises IndexError at the end of the bytes, ValueError at what cannot be."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def struct(self, wanted: _Wanted, *, depth: int) -> dict[int, Any]:
        """The wanted fields by their number."""
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while (header := self._byte()) & 15:
            number = number + (header >> 4) if header >> 4 else self._integer()
            kind = header & 15
            value = kind == 1 if kind <= 2 else self._value(kind, wanted.get(number) or {}, depth=depth + 1)
            if number in wanted:
                fields[number] = value
        return fields

    def _value(self, kind: int, wanted: _Wanted, *, depth: int) -> Any:
        if kind <= 3:  # of a list of booleans, or a byte
            return self._byte()
        if kind <= 6:
            return self._integer()
        if kind in (7, 13):  # a double, a UUID
            return self._bytes(8 if kind == 7 else 16)
        if kind == 8:
            return self._bytes(self._varint())
        if kind in (9, 10):
            return self._list(wanted, depth=depth)
        if kind == 12:
            return self.struct(wanted, depth=depth)
        raise ValueError(f"the footer's format has no type {kind}")  # nor a map

    def _list(self, wanted: _Wanted, *, depth: int) -> list[Any]:
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        header = self._byte()
        count = header >> 4 if header >> 4 < 15 else self._varint()
        return [self._value(header & 15, wanted, depth=depth + 1) for _ in range(count)]

    def _bytes(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._data):
            raise IndexError("the bytes end inside a value")
        value = self._data[self._position : end]
        self._position = end
        return value

    def _byte(self) -> int:
        value = self._data[self._position]
        self._position += 1
        return value

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) > 127:
            value |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise ValueError("an integer of more than 64 bits")
        return value | byte << shift

    def _integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
