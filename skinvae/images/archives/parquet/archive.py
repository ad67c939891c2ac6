"""Parquet files with the encoded images in a column, as Hugging Face's hub keeps them: one member per row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from skinvae.errors import ArchiveError
from skinvae.images.archives.base import Member, Missing, Part, RangeReader, RawMember, SliceEnd
from skinvae.images.archives.parquet.rows import ParquetRows, RowRange, column_of, plain_type, texts_of
from skinvae.records import Status

_IMAGE_NAMES = frozenset({"image", "img", "jpg", "jpeg", "png", "bytes", "content", "data"})
_MEMBER_NAMES = ("image_id", "file_name", "filename", "path", "key", "__key__", "name", "id")


@dataclass(frozen=True)
class ImageColumns:
    """Where the rows' bytes and names are; 'a.b' is the field b of the column a."""

    image: str
    names: tuple[str, ...]
    """The first of them that is not null names the row."""


@dataclass(frozen=True)
class ParquetPart(Part):
    """Whole row groups, and the slices of them that are to be read."""

    rows: RowRange
    columns: ImageColumns

    @property
    def num_members(self) -> int:
        return sum(stop - start for start, stop in self.rows.slices)


class ParquetArchive:
    """Rows of image bytes. The constructor reads nothing; `column`: which one holds the images, None to find it."""

    def __init__(self, reader: RangeReader, *, max_bytes: int, column: str | None = None) -> None:
        self._reader = reader
        self._max_bytes = max_bytes
        self._column = column

    @cached_property
    def rows(self) -> ParquetRows:
        """The file, its footer read."""
        return ParquetRows(self._reader)

    @cached_property
    def columns(self) -> ImageColumns:
        """Raises ArchiveError unless exactly one column can be meant, and for a bomb."""
        columns = find_image_columns(self.rows, uri=self._reader.uri, column=self._column)
        if columns is None:
            raise ArchiveError(f"{self._reader.uri} has no column of image bytes: its columns are {self.rows.names}.")
        self.rows.refuse_bombs([columns.image, *columns.names])
        return columns

    @property
    def num_members(self) -> int:
        return self.rows.num_rows

    def members(self) -> Iterator[Member]:
        if not self.columns.names:
            yield from (Member(index, f"row-{index}", None) for index in range(self.num_members))
            return
        for first, batch in self.rows.batches(self.rows.all_rows, self.columns.names):
            names = _names(batch, self.columns.names, first=first)
            yield from (Member(index, name, None) for index, name in enumerate(names, start=first))

    def parts(self, missing: Missing, *, slice_size: int) -> list[Part]:
        self.rows.check_chunks([self.columns.image, *self.columns.names])
        return [
            ParquetPart(start=rows.slices[0][0], stop=rows.slices[-1][1], rows=rows, columns=self.columns)
            for rows in self.rows.cut(missing, slice_size=slice_size)
        ]

    def read(self, part: Part, *, wanted: Callable[[Member], bool] | None = None) -> Iterator[RawMember | SliceEnd]:
        assert isinstance(part, ParquetPart)
        columns = part.columns
        borders = {stop: start for start, stop in part.rows.slices}
        for first, batch in self.rows.batches(part.rows, [columns.image, *columns.names]):
            images = column_of(batch, columns.image)
            for row, name in enumerate(_names(batch, columns.names, first=first)):
                cell = images[row]
                data = cell.as_buffer() if cell.is_valid else None
                member = Member(first + row, name, None if data is None else data.size)
                if wanted is None or wanted(member):
                    yield self._raw_member(member, data)
            stop = first + batch.num_rows
            if stop in borders:
                yield SliceEnd(borders[stop], stop)

    def _raw_member(self, member: Member, data: pa.Buffer | None) -> RawMember:
        if data is None:
            reason = "the row has no image bytes"
            return RawMember(member.index, member.name, None, None, Status.UNDECODABLE, reason)
        if data.size > self._max_bytes:
            reason = f"{data.size} bytes, more than the {self._max_bytes} allowed"
            return RawMember(member.index, member.name, data.size, None, Status.TOO_LARGE, reason)
        return RawMember(member.index, member.name, data.size, data.to_pybytes(), Status.OK, None)


def find_image_columns(rows: ParquetRows, *, uri: str, column: str | None) -> ImageColumns | None:
    """Where the images are; None if no column holds bytes. Raises ArchiveError where several may be meant."""
    candidates = {field.name: _bytes_path(field) for field in rows.schema if _bytes_path(field) is not None}
    if column is not None:
        chosen = [column] if column in candidates else []
        if not chosen:
            among = f"choose among {sorted(candidates)}" if candidates else "no column holds bytes"
            raise ArchiveError(f"{uri} has no column {column!r} of image bytes, as images_column says: {among}.")
    else:
        chosen = [name for name in candidates if name.lower() in _IMAGE_NAMES] or list(candidates)
    if not chosen:
        return None
    if len(chosen) > 1 or rows.names.count(chosen[0]) > 1:
        raise ArchiveError(
            f"{uri} has several columns that may hold the images, {', '.join(chosen)}:"
            " name one of them by the setting images_column."
        )
    field = rows.schema.field(chosen[0])
    names = [f"{field.name}.path"] if pa.types.is_struct(field.type) and _has_text(field.type, "path") else []
    texts = (name for name in _MEMBER_NAMES if rows.names.count(name) == 1 and name != field.name)
    names += [name for name in texts if is_text(rows.schema.field(name).type, integers=True)][:1]
    image = candidates[chosen[0]]
    assert image is not None
    return ImageColumns(image, tuple(names))


def is_text(type_: pa.DataType, *, integers: bool = False) -> bool:
    """Whether `texts_of` understands cells of this type."""
    type_ = plain_type(type_)
    is_string = pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)
    return is_string or (integers and pa.types.is_integer(type_))


def _bytes_path(field: pa.Field) -> str | None:
    if _is_bytes(field.type):
        return str(field.name)
    if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
        return f"{field.name}.bytes" if _is_bytes(field.type.field("bytes").type) else None
    return None


def _is_bytes(type_: pa.DataType) -> bool:
    type_ = plain_type(type_)
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_))


def _has_text(type_: pa.StructType, name: str) -> bool:
    return type_.get_field_index(name) >= 0 and is_text(type_.field(name).type)


def _names(batch: pa.RecordBatch, columns: tuple[str, ...], *, first: int) -> list[str]:
    texts = [texts_of(column_of(batch, column)) for column in columns]
    return [
        next((column[row] for column in texts if column[row]), None) or f"row-{first + row}"
        for row in range(batch.num_rows)
    ]
