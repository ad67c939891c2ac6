"""Slice files: the Parquet objects, one per slice of an archive, that jobs write, and the larger parts they join.

A file is created only if absent; one that exists already is checked by its footer and adopted.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from skinvae.errors import InputError, TableError
from skinvae.storage.filesystem import Location
from skinvae.storage.row_digest import digest_rows
from skinvae.storage.slice_ids import SLICES_FOLDER, Counts, SliceFile, SliceId

_ROW_GROUP_ROWS, _ROW_GROUP_BYTES = 65_536, 64 << 20
"""At most, in memory: a reader of one row group holds it whole."""

_TINY_BYTES = 256 << 10
"""Of rows of one archive: less is not worth a row group of its own."""

_TAIL_BYTES = 64 << 10
"""Of a file: more than the footers of most."""

_SLICE_NAME = re.compile(r"[0-9a-f]+-[0-9a-f]+-\d+-\d+(-\d+-\d+)?\.parquet")
_PART_NAME = re.compile(r"part-[0-9a-f]{32}\.parquet")
_SLICE_KEY, _PROVENANCE_KEY, _PART_KEY = b"skinvae.slice", b"skinvae.provenance", b"skinvae.slices"
_REPLACES_KEY = b"skinvae.replaces"


@dataclass(frozen=True)
class SliceContents:
    """What the rows of a slice come to, as the footer of the file that holds them says."""

    counts: Counts
    digest: str
    """Of the rows: see row_digest.py."""

    @classmethod
    def of(cls, rows: pa.Table) -> SliceContents:
        """Count and digest the rows of one slice."""
        return cls(count_statuses(rows), digest_rows(rows))

    @property
    def num_rows(self) -> int:
        return sum(self.counts.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"counts": self.counts, "digest": self.digest}


def write_slice(table: Location, slice_id: SliceId, rows: pa.Table, *, provenance: dict[str, str]) -> SliceFile:
    """Create the slice's file from rows with a `status`, or adopt the one that is there already."""
    contents = SliceContents.of(rows)
    about = {"slice_id": str(slice_id)} | contents.as_dict()
    metadata = {_SLICE_KEY: json.dumps(about), _PROVENANCE_KEY: json.dumps(provenance)}
    data = parquet_bytes([(slice_id, rows)], metadata=metadata)
    if (table / slice_id.path).create_bytes(data):
        return SliceFile(slice_id, len(data), rows.num_rows, contents.counts)
    return adopt_slice(table, slice_id, schema=rows.schema)


def adopt_slice(table: Location, slice_id: SliceId, *, schema: pa.Schema) -> SliceFile:
    """What an earlier attempt wrote under this slice's name. Raises TableError if it is not that slice."""
    try:
        footer, num_bytes = read_footer(table / slice_id.path)
        about = json.loads((footer.metadata or {})[_SLICE_KEY])
        written_as, counts = about["slice_id"], about["counts"]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise TableError(_foreign_file(table, slice_id.path)) from error
    if written_as != str(slice_id) or footer.schema.to_arrow_schema().names != schema.names:
        raise TableError(_foreign_file(table, slice_id.path))
    return SliceFile(slice_id, num_bytes, footer.num_rows, counts)


def slices_written(table: Location) -> list[SliceId]:
    """Every slice that has a file below `_slices/`, committed or not."""
    names = (entry.name for entry in (table / SLICES_FOLDER).list_objects())
    return sorted(SliceId.from_path(name) for name in names if _SLICE_NAME.fullmatch(name))


def contents_of_part(part: Location) -> dict[SliceId, SliceContents]:
    """The slices that a top-level file says it holds, in its order. Raises TableError if it says nothing."""
    return contents_of_metadata(read_metadata(part).metadata or {}, file=part)


def contents_of_slice(file: Location) -> SliceContents:
    """What the footer of a slice file says. Raises TableError if it says nothing."""
    (contents,) = contents_of_metadata(read_metadata(file).metadata or {}, file=file).values()
    return contents


def contents_of_metadata(metadata: Mapping[bytes, bytes], *, file: Location) -> dict[SliceId, SliceContents]:
    """What a footer's key-value metadata say of the slices in the file. Raises TableError if they say nothing."""
    if _PART_KEY in metadata:
        described = json.loads(metadata[_PART_KEY])
    elif _SLICE_KEY in metadata:
        about = json.loads(metadata[_SLICE_KEY])
        described = {about["slice_id"]: about}
    else:
        raise TableError(f"'{file}' is in the table, but skinvae did not write it: remove it from the table")
    return {SliceId.parse(text): SliceContents(about["counts"], about["digest"]) for text, about in described.items()}


def part_paths(table: Location) -> list[str]:
    """Every top-level file that is named like a part, in the table or not."""
    return [entry.name for entry in table.list_objects() if _PART_NAME.fullmatch(entry.name)]


def read_replaced(part: Location) -> list[str] | None:
    """The paths of the files that a part takes the place of; None if it is gone."""
    with unless_gone():
        metadata = read_metadata(part).metadata or {}
        replaces: list[str] | None = json.loads(metadata.get(_REPLACES_KEY, b"null"))
        return replaces or [one.path for one in contents_of_metadata(metadata, file=part)]
    return None


@contextmanager
def unless_gone() -> Iterator[None]:
    """Let go of a file that another driver deletes meanwhile: that one found it lost, so no commit can need it."""
    try:
        yield
    except InputError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise


def written_contents(rows: pa.Table) -> SliceContents:
    """What `write_slice` said of the rows of a slice file, which may have been altered since."""
    about = json.loads(rows.schema.metadata[_SLICE_KEY])
    return SliceContents(about["counts"], about["digest"])


def part_metadata(
    slices: Mapping[SliceId, SliceContents], provenances: Iterable[dict[str, str]], *, replaces: Sequence[str] = ()
) -> dict[bytes, str]:
    """Key-value metadata of a top-level file: its slices, and the distinct provenances of their rows.

    `replaces` are the files that it takes the place of, if those are not the slices' own.
    """
    distinct = [json.loads(text) for text in sorted({json.dumps(one, sort_keys=True) for one in provenances})]
    described = {str(slice_id): contents.as_dict() for slice_id, contents in slices.items()}
    metadata = {_PART_KEY: json.dumps(described), _PROVENANCE_KEY: json.dumps(distinct)}
    return metadata | ({_REPLACES_KEY: json.dumps(list(replaces))} if replaces else {})


def count_statuses(rows: pa.Table) -> Counts:
    """Rows by status code."""
    return {row["values"]: row["counts"] for row in rows["status"].value_counts().to_pylist()}


def provenances_of(rows: pa.Table) -> list[dict[str, str]]:
    """The provenances beside the rows of a file, of a slice or a part."""
    return _provenances(rows.schema.metadata)


def read_provenances(file: Location) -> list[dict[str, str]]:
    """The same, from the file's footer."""
    return _provenances(read_metadata(file).metadata or {})


def _provenances(metadata: Mapping[bytes, bytes]) -> list[dict[str, str]]:
    found: dict[str, str] | list[dict[str, str]] = json.loads(metadata.get(_PROVENANCE_KEY, b"[]"))
    return found if isinstance(found, list) else [found]


def read_footer(file: Location) -> tuple[pq.FileMetaData, int]:
    """Footer and size of a Parquet file, by one ranged read of its end (two if the footer is large)."""
    info = file.info()
    if info is None:
        raise TableError(f"'{file}' is in the table, but it is a folder")
    reader = file.open_range_reader(info)
    tail = reader.read(max(0, reader.size - 65536), reader.size) if reader.size else b""
    footer_length = int.from_bytes(tail[-8:-4], "little") + 8
    if len(tail) < footer_length <= reader.size:
        tail = reader.read(reader.size - footer_length, reader.size)
    return pq.read_metadata(pa.BufferReader(tail)), reader.size


def read_metadata(file: Location) -> pq.FileMetaData:
    """Footer of a Parquet file, by one request (two if the footer is large). Raises TableError if it has none."""
    tail = file.read_tail(_TAIL_BYTES)
    footer_length = int.from_bytes(tail[-8:-4], "little") + 8
    if len(tail) < footer_length and len(tail) == _TAIL_BYTES:
        tail = file.read_tail(footer_length)
    try:
        return pq.read_metadata(pa.BufferReader(tail))
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"'{file}' is in the table, but is no Parquet file") from error


def parquet_bytes(slices: Sequence[tuple[SliceId, pa.Table]], *, metadata: Mapping[bytes, str]) -> bytes:
    """The slices' rows as one zstd-compressed Parquet file.

    A row group holds about 64 MB of rows and no more. It begins with a slice unless a slice is larger than that, and
    with an archive unless that is tiny: so a reader who wants one slice, or one archive, reads little else.
    """
    buffer = io.BytesIO()
    schema = slices[0][1].schema.with_metadata(metadata)
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        for group in _row_groups(slices):
            rows = pa.concat_tables([one.replace_schema_metadata(metadata) for one in group])
            # A slice without images must leave no row group without rows, which not every reader takes.
            if rows.num_rows:
                writer.write_table(rows, row_group_size=_rows_per_group(rows))
    return buffer.getvalue()


def _row_groups(slices: Sequence[tuple[SliceId, pa.Table]]) -> Iterator[list[pa.Table]]:
    group: list[pa.Table] = []
    num_rows = num_bytes = 0
    last: SliceId | None = None
    for slice_id, rows in slices:
        is_full = num_rows + rows.num_rows > _ROW_GROUP_ROWS or num_bytes + rows.nbytes > _ROW_GROUP_BYTES
        is_another = last is not None and last.source_id != slice_id.source_id and num_bytes > _TINY_BYTES
        if group and (is_full or is_another):
            yield group
            group, num_rows, num_bytes = [], 0, 0
        group.append(rows)
        num_rows, num_bytes, last = num_rows + rows.num_rows, num_bytes + rows.nbytes, slice_id
    yield group


def _rows_per_group(rows: pa.Table) -> int:
    that_fit: int = _ROW_GROUP_BYTES * rows.num_rows // max(1, rows.nbytes)
    return max(1, min(_ROW_GROUP_ROWS, that_fit))


def _foreign_file(table: Location, path: str) -> str:
    return f"'{table}/{path}' is no slice file of this table: remove it and run again"
