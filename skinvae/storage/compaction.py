"""Large top-level files made of slice files: written here, swapped in and cleaned up by commit_protocol.py.

Delta readers see either the slices or the parts, plain Parquet readers (which ignore `_slices/`) see the parts only.
Two drivers may do this at once: a part is named by the slices it holds and created only if absent.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from skinvae.storage import commit_protocol
from skinvae.storage.commit_protocol import PART_BYTES, NewFile, Part, run
from skinvae.storage.filesystem import Location
from skinvae.storage.slice_ids import SliceId
from skinvae.storage.slice_table import DeltaStore, RewriteAll, SliceTable, WriteAll
from skinvae.storage.slices import (
    SliceContents,
    contents_of_part,
    parquet_bytes,
    part_metadata,
    provenances_of,
    unless_gone,
    written_contents,
)

_NUM_READS_AT_ONCE = 16
"""Slice files are small: what their reading takes is waiting."""


def write_part(table: Location, part: Part) -> NewFile | None:
    """Write the rows of the part's slices as one file, or take the one that an earlier attempt wrote.

    None if a slice's file is gone: another driver has swapped, and deleted it when its time came.
    """
    with unless_gone():
        with ThreadPoolExecutor(max_workers=_NUM_READS_AT_ONCE) as pool:
            slices = list(pool.map(lambda file: _read_rows(table / file.path), part.slices))
        provenances = [its for one in slices for its in provenances_of(one)]
        # As they were written: what was altered since must not be made to look right.
        contents = {slice_id: written_contents(one) for slice_id, one in zip(part.slice_ids, slices, strict=True)}
        return _created(table, part.path, slices, contents, provenances)
    return None


def rewrite_part(
    table: Location,
    path: str,
    *,
    revision: str,
    rows: pa.Table,
    statuses: Collection[str],
    provenance: dict[str, str],
) -> NewFile | None:
    """Write a copy of the part in which rows with one of these statuses give way to those of `rows` with their key.

    Take the one that an earlier attempt wrote under the same `revision`. None if the part is gone.
    """
    with unless_gone():
        part = _read_rows(table / path)
        first, slices, contents = 0, [], {}
        for slice_id, written in contents_of_part(table / path).items():
            old = part.slice(first, written.num_rows)
            new = _replaced(old, rows, slice_id, statuses)
            slices.append(new)
            # What was altered since it was written must not be made to look right.
            is_as_written = not new.equals(old) and SliceContents.of(old) == written
            contents[slice_id] = SliceContents.of(new) if is_as_written else written
            first += written.num_rows
        provenances = [*provenances_of(part), provenance]
        digest = hashlib.blake2b(f"{path}\n{revision}".encode(), digest_size=16)
        return _created(table, f"part-{digest.hexdigest()}.parquet", slices, contents, provenances, replaces=[path])
    return None


def _replaced(old: pa.Table, rows: pa.Table, slice_id: SliceId, statuses: Collection[str]) -> pa.Table:
    of_slice = pc.and_(
        pc.equal(rows["source_id"], slice_id.source_id), pc.equal(rows["scoring_id"], slice_id.scoring_id)
    )
    new = rows.filter(of_slice).select(old.schema.names)
    position = pc.index_in(old["member_index"].combine_chunks(), new["member_index"].combine_chunks())
    gives_way = pc.and_(pc.is_in(old["status"], pa.array(statuses)), pc.is_valid(position))
    chosen = pc.if_else(gives_way, pc.add(position, old.num_rows), np.arange(old.num_rows, dtype=np.int32))
    both = pa.concat_tables([old.replace_schema_metadata(None), new.replace_schema_metadata(None)])
    # Which slice a row belongs to is no matter of who wrote it last.
    index = old.schema.get_field_index("slice_id")
    return both.take(chosen).set_column(index, old.schema.field(index), old["slice_id"])


def _created(
    table: Location,
    path: str,
    slices: Sequence[pa.Table],
    contents: Mapping[SliceId, SliceContents],
    provenances: Iterable[dict[str, str]],
    *,
    replaces: Sequence[str] = (),
) -> NewFile:
    metadata = part_metadata(contents, provenances, replaces=replaces)
    data = parquet_bytes(list(zip(contents, slices, strict=True)), metadata=metadata)
    destination = table / path
    num_rows = sum(rows.num_rows for rows in slices)
    if not destination.create_bytes(data):
        with unless_gone():
            assert contents_of_part(destination).keys() == contents.keys()
            data = destination.read_bytes()
    return NewFile(path, len(data), num_rows)


def _read_rows(file: Location) -> pa.Table:
    return pq.read_table(pa.BufferReader(file.read_bytes()), use_threads=False)


def swap_slices_for_parts(
    table: SliceTable, *, provenance: dict[str, str], write_all: WriteAll, part_bytes: int = PART_BYTES
) -> int:
    """Replace every slice file of the table by parts and return how many parts came in."""
    store = DeltaStore(table, provenance=provenance, write_parts=write_all)
    return run(commit_protocol.swap_slices_for_parts(table, part_bytes=part_bytes), store)


def replace_parts(
    table: SliceTable, paths: Collection[str], *, provenance: dict[str, str], rewrite_all: RewriteAll
) -> list[str]:
    """Replace parts by their rewritten copies, in one commit; returns those that were replaced by this."""
    store = DeltaStore(table, provenance=provenance, rewrite_parts=rewrite_all)
    return run(commit_protocol.replace_parts(table, paths), store)


def delete_lost_parts(table: SliceTable) -> list[str]:
    """Delete top-level files that can never be committed; returns their names."""
    return run(commit_protocol.delete_lost_parts(table), DeltaStore(table, provenance={}))


def delete_expired_slices(table: SliceTable, *, retention_seconds: float) -> int:
    """Delete slice files whose rows have been in a large file for longer than that; returns how many."""
    before_ms = int((time.time() - retention_seconds) * 1000)
    return run(commit_protocol.delete_expired_slices(table, before_ms=before_ms), DeltaStore(table, provenance={}))
