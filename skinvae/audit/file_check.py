"""Check the rows of a table's files: each against itself, its slice, its file and the log; and who has a row at all.

Rows pass through in batches: what is kept is one bit a member, and sums by slice.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skinvae.audit.differences import Differences, Kind
from skinvae.audit.row_rules import CONSTANTS, scoring_column, wrong_rows
from skinvae.errors import ArchiveError, InputError, TableError
from skinvae.images.archives.parquet.rows import ParquetRows
from skinvae.storage.commit_protocol import LiveFile
from skinvae.storage.filesystem import Location
from skinvae.storage.member_bits import MemberBits
from skinvae.storage.row_digest import RowDigest
from skinvae.storage.slice_ids import Counts, SliceId
from skinvae.storage.slices import SliceContents, contents_of_metadata

_BATCH_ROWS = 65_536

Key = tuple[str, str]
"""(source_id, scoring_id)"""


@dataclass
class Found:
    """What the files hold, gathered by several threads."""

    slices: list[tuple[SliceId, str]] = field(default_factory=list)
    """With the file that holds it."""
    rows: defaultdict[Key, MemberBits] = field(default_factory=lambda: defaultdict(MemberBits))
    """Members that have a row."""
    num_rows: int = 0
    uris: dict[str, str] = field(default_factory=dict)
    """By source_id, as a row says."""
    constants: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """By scoring_id, what every row of it must say alike."""
    lock: threading.Lock = field(default_factory=threading.Lock)


class FileChecker:
    """Checks files one by one, from any thread."""

    def __init__(self, table: Location, schema: pa.Schema, differences: Differences) -> None:
        self._table, self._schema, self._differences = table, schema, differences
        self.found = Found()

    def check(self, file: LiveFile, *, on_rows: Callable[[int], None]) -> None:
        """Read the file and note what is wrong with it. Raises InputError if storage refuses."""
        place = self._table / file.path
        try:
            batches, metadata, num_bytes = self._opened(place, file)
            expected = contents_of_metadata(metadata, file=place)
            if file.is_slice and list(expected) != [SliceId.from_path(file.path)]:
                raise TableError(f"it holds the slice {next(iter(expected))}")
        except (TableError, ArchiveError, pa.ArrowException, ValueError, KeyError) as error:
            self._differences.add(Kind.ALTERED_FILE, f"'{place}' is no file that skinvae wrote: {_first_line(error)}")
            return
        except InputError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            self._differences.add(Kind.MISSING_FILE, f"'{place}' is gone, with {file.num_rows:,} rows")
            return
        if num_bytes != file.num_bytes:
            sizes = f"has {num_bytes:,} bytes where the log says {file.num_bytes:,}"
            self._differences.add(Kind.ALTERED_FILE, f"'{place}' {sizes}")
        with self.found.lock:
            self.found.slices += [(slice_id, file.path) for slice_id in expected]
        try:
            num_rows = self._check_slices(file, expected, batches, on_rows=on_rows)
        except (ArchiveError, pa.ArrowException, OSError) as error:
            self._differences.add(Kind.ALTERED_FILE, f"'{place}' cannot be read to its end: {_first_line(error)}")
            return
        if num_rows != file.num_rows:
            counts = f"has {num_rows:,} rows where the log says {file.num_rows:,}"
            self._differences.add(Kind.ALTERED_FILE, f"'{place}' {counts}")

    def _opened(self, place: Location, file: LiveFile) -> tuple[Iterator[pa.RecordBatch], dict[bytes, bytes], int]:
        """Rows, key-value metadata and size: a slice file is read whole, a large one row group by row group."""
        if file.is_slice:
            data = place.read_bytes()
            # Arrow's own threads outlive a read: one that ends while the interpreter exits aborts the process.
            parquet = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
            self._require_columns(parquet.schema_arrow.names)
            batches = parquet.iter_batches(batch_size=_BATCH_ROWS, use_threads=False)
            return batches, parquet.metadata.metadata or {}, len(data)
        info = place.info()
        if info is None:
            raise TableError("it is a folder")
        rows = ParquetRows(place.open_range_reader(info))
        self._require_columns(rows.names)
        return (batch for _, batch in rows.batches(rows.all_rows, rows.names)), rows.metadata, info.num_bytes

    def _require_columns(self, names: list[str]) -> None:
        if names != self._schema.names:
            raise TableError("it has other columns")

    def _check_slices(
        self,
        file: LiveFile,
        expected: dict[SliceId, SliceContents],
        batches: Iterator[pa.RecordBatch],
        *,
        on_rows: Callable[[int], None],
    ) -> int:
        missing = {slice_id for slice_id, contents in expected.items() if contents.num_rows}
        num_rows = 0
        for text, pieces in groupby(self._pieces(batches, on_rows), key=lambda one: one[0]):
            slice_id = _parsed(text)
            digest, counts = RowDigest(), Counter[str]()
            for _, rows in pieces:
                digest.update(rows)
                counts.update(_count(rows["status"]))
                self._check_rows(rows, slice_id)
                num_rows += rows.num_rows
            if slice_id not in expected:
                sentence = f"'{file.path}' has rows of slice {text}, which is none of its slices"
                self._differences.add(Kind.ALTERED_SLICE, sentence)
                continue
            if slice_id not in missing:
                self._differences.add(Kind.ALTERED_SLICE, f"the rows of slice {text} do not lie together")
            missing.discard(slice_id)
            self._compare(slice_id, file, expected[slice_id], SliceContents(dict(counts), digest.hexdigest()))
        for slice_id in sorted(missing):
            sentence = f"slice {slice_id} in '{file.path}' has no row, and had {expected[slice_id].num_rows:,}"
            self._differences.add(Kind.ALTERED_SLICE, sentence)
        return num_rows

    def _compare(self, slice_id: SliceId, file: LiveFile, written: SliceContents, found: SliceContents) -> None:
        if found == written:
            return
        if found.num_rows != written.num_rows:
            what = f"has {found.num_rows:,} rows, and had {written.num_rows:,} when it was written"
        elif found.counts != written.counts:
            what = f"has {_words(found.counts)} rows, and had {_words(written.counts)} when it was written"
        else:
            what = "has other values than when it was written: its digest differs"
        self._differences.add(Kind.ALTERED_SLICE, f"slice {slice_id} in '{file.path}' {what}")

    def _pieces(
        self, batches: Iterator[pa.RecordBatch], on_rows: Callable[[int], None]
    ) -> Iterator[tuple[str, pa.RecordBatch]]:
        """The batches, cut where another slice begins; the checks that know no slice on the way."""
        for batch in batches:
            for rule, rows in wrong_rows(batch, self._schema):
                first = int(np.flatnonzero(rows)[0])
                where = f"member {batch['member_index'][first]} of slice {batch['slice_id'][first]}"
                self._differences.add(Kind.WRONG_ROW, f"{where}: {rule}", count=int(rows.sum()))
            names = batch["slice_id"].to_numpy(zero_copy_only=False)
            borders = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1), len(names)]
            for start, stop in pairwise(borders):
                if stop > start:
                    yield str(names[start]), batch.slice(start, stop - start)
            on_rows(batch.num_rows)

    def _check_rows(self, rows: pa.RecordBatch, slice_id: SliceId | None) -> None:
        if slice_id is None:
            return
        ids = (("source_id", slice_id.source_id), (scoring_column(self._schema), slice_id.scoring_id))
        for name, wanted in ids:
            if pc.any(pc.not_equal(rows[name], wanted)).as_py():
                self._differences.add(Kind.WRONG_ID, f"slice {slice_id} has rows with another {name}")
        ordinals = rows["member_index"].to_numpy(zero_copy_only=False)
        is_outside = (ordinals < slice_id.start) | (ordinals >= slice_id.stop)
        if is_outside.any():
            sentence = f"slice {slice_id} has a row of member {ordinals[is_outside][0]}, which is none of its members"
            self._differences.add(Kind.WRONG_ROW, sentence, count=int(is_outside.sum()))
        self._note(rows, slice_id, ordinals[~is_outside])

    def _note(self, rows: pa.RecordBatch, slice_id: SliceId, ordinals: NDArray[np.int64]) -> None:
        constants = tuple(rows[name][0].as_py() for name in CONSTANTS if name in rows.schema.names)
        is_constant = all(pc.count_distinct(rows[name]).as_py() == 1 for name in CONSTANTS if name in rows.schema.names)
        with self.found.lock:
            again = self.found.rows[slice_id.source_id, slice_id.scoring_id].add(ordinals)
            self.found.num_rows += rows.num_rows
            self.found.uris.setdefault(slice_id.source_id, rows["source"][0].as_py())
            first = self.found.constants.setdefault(slice_id.scoring_id, constants)
        if len(again):
            sentence = (
                f"member {again[0]} of {rows['source'][0]} has more than one row in scoring {slice_id.scoring_id}"
            )
            self._differences.add(Kind.DUPLICATE_ROW, sentence, count=len(again))
        if first != constants or not is_constant:
            names = [name for name in CONSTANTS if name in rows.schema.names]
            sentence = f"slice {slice_id} has other {', '.join(names)} than the rest of its scoring"
            self._differences.add(Kind.WRONG_ID, sentence)


def _parsed(text: str) -> SliceId | None:
    try:
        return SliceId.parse(text)
    except ValueError:
        return None


def _count(status: pa.Array) -> dict[str, int]:
    return {one["values"]: one["counts"] for one in status.value_counts().to_pylist()}


def _words(counts: Counts) -> str:
    """'29 ok and 1 timeout'."""
    return " and ".join(f"{count:,} {status}" for status, count in sorted(counts.items()))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
