"""Slice files: the Parquet objects, one per slice of an archive, that scoring writes, and the larger parts they join.

A file is created only if absent; one that exists already is checked by its footer and adopted.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from skinvae.errors import TableError
from skinvae.records import SCORE_SCHEMA
from skinvae.storage.filesystem import Location

SLICES_FOLDER = "_slices"
"""Plain Parquet readers ignore names that begin with an underscore; Delta readers go by the log."""

Counts = dict[str, int]
"""Rows by status code."""

_SLICE_NAME = re.compile(r"[0-9a-f]+-[0-9a-f]+-\d+-\d+\.parquet")
_SLICE_KEY, _PROVENANCE_KEY, _PART_KEY = b"skinvae.slice", b"skinvae.provenance", b"skinvae.slices"


@dataclass(frozen=True, order=True)
class SliceId:
    """One scoring of the members [start, stop) of one archive: the unit of work, commit and resume."""

    source_id: str
    scoring_id: str
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.source_id}-{self.scoring_id}-{self.start}-{self.stop}"

    @property
    def path(self) -> str:
        """The slice file's path inside the table."""
        return f"{SLICES_FOLDER}/{self}.parquet"

    @classmethod
    def parse(cls, text: str) -> SliceId:
        """The inverse of str(). Raises ValueError."""
        source_id, scoring_id, start, stop = text.split("-")
        return cls(source_id, scoring_id, int(start), int(stop))

    @classmethod
    def from_path(cls, path: str) -> SliceId:
        """The inverse of `path`. Raises ValueError."""
        return cls.parse(path.rsplit("/", 1)[-1].removesuffix(".parquet"))


@dataclass(frozen=True)
class SliceFile:
    """What the driver knows of a written slice."""

    slice_id: SliceId
    num_bytes: int
    num_rows: int
    counts: Counts

    @property
    def path(self) -> str:
        return self.slice_id.path


def write_slice(table: Location, slice_id: SliceId, rows: pa.Table, *, provenance: dict[str, str]) -> SliceFile:
    """Create the slice's file from rows of SCORE_SCHEMA, or adopt the one that is there already."""
    counts = count_statuses(rows)
    about = {"slice_id": str(slice_id), "counts": counts}
    metadata = {_SLICE_KEY: json.dumps(about), _PROVENANCE_KEY: json.dumps(provenance)}
    data = parquet_bytes(rows.replace_schema_metadata(metadata))
    if (table / slice_id.path).create_bytes(data):
        return SliceFile(slice_id, len(data), rows.num_rows, counts)
    return adopt_slice(table, slice_id)


def adopt_slice(table: Location, slice_id: SliceId) -> SliceFile:
    """What an earlier attempt wrote under this slice's name. Raises TableError if it is not that slice."""
    data = (table / slice_id.path).read_bytes()
    try:
        footer = pq.read_metadata(io.BytesIO(data))
        about = json.loads((footer.metadata or {})[_SLICE_KEY])
        written_as, counts = about["slice_id"], about["counts"]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise TableError(_foreign_file(table, slice_id.path)) from error
    if written_as != str(slice_id) or footer.schema.names != SCORE_SCHEMA.names:
        raise TableError(_foreign_file(table, slice_id.path))
    return SliceFile(slice_id, len(data), footer.num_rows, counts)


def slices_written(table: Location) -> list[SliceId]:
    """Every slice that has a file below `_slices/`, committed or not."""
    names = (entry.name for entry in (table / SLICES_FOLDER).list_objects())
    return sorted(SliceId.from_path(name) for name in names if _SLICE_NAME.fullmatch(name))


def counts_of_part(part: Location) -> dict[SliceId, Counts]:
    """The slices that a top-level file says it holds. Raises TableError if it says nothing."""
    footer = read_footer(part)
    if _PART_KEY not in footer:
        raise TableError(f"'{part}' is in the table, but skinvae did not write it: remove it from the table")
    return {SliceId.parse(text): counts for text, counts in json.loads(footer[_PART_KEY]).items()}


def counts_of_slice(file: Location) -> Counts:
    """Rows by status code of a slice file that is in the table, from its footer."""
    counts: Counts = json.loads(read_footer(file)[_SLICE_KEY])["counts"]
    return counts


def part_metadata(slices: dict[SliceId, Counts], provenances: list[dict[str, str]]) -> dict[bytes, str]:
    """Key-value metadata of a top-level file: its slices, and the distinct provenances of their rows."""
    distinct = [json.loads(text) for text in sorted({json.dumps(one, sort_keys=True) for one in provenances})]
    described = {str(slice_id): counts for slice_id, counts in slices.items()}
    return {_PART_KEY: json.dumps(described), _PROVENANCE_KEY: json.dumps(distinct)}


def count_statuses(rows: pa.Table) -> Counts:
    """Rows by status code."""
    return {row["values"]: row["counts"] for row in rows["status"].value_counts().to_pylist()}


def slice_provenance(rows: pa.Table) -> dict[str, str]:
    """The provenance that `write_slice` put beside the rows of a slice file."""
    provenance: dict[str, str] = json.loads(rows.schema.metadata[_PROVENANCE_KEY])
    return provenance


def read_footer(file: Location) -> dict[bytes, bytes]:
    """Key-value metadata of a Parquet file, by one ranged read of its end (two if the footer is large)."""
    info = file.info()
    if info is None:
        raise TableError(f"'{file}' is in the table, but it is a folder")
    reader = file.open_range_reader(info.version)
    tail = reader.read(max(0, reader.size - 65536), reader.size)
    footer_length = int.from_bytes(tail[-8:-4], "little") + 8
    if footer_length > len(tail):
        tail = reader.read(reader.size - footer_length, reader.size)
    return dict(pq.read_metadata(pa.BufferReader(tail)).metadata or {})


def parquet_bytes(rows: pa.Table) -> bytes:
    """The rows as one zstd-compressed Parquet file; the columns keep the units and meanings of SCORE_SCHEMA."""
    buffer = io.BytesIO()
    schema = SCORE_SCHEMA.with_metadata(rows.schema.metadata)
    pq.write_table(rows.cast(schema), buffer, compression="zstd", row_group_size=65_536)
    return buffer.getvalue()


def _foreign_file(table: Location, path: str) -> str:
    return f"'{table}/{path}' is no slice file of this table: remove it and run again"
