"""Large top-level files made of slice files: written here, swapped in and cleaned up by commit_protocol.py.

Delta readers see either the slices or the parts, plain Parquet readers (which ignore `_slices/`) see the parts only.
Two drivers may do this at once: a part is named by the slices it holds and created only if absent.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from skinvae.storage import commit_protocol
from skinvae.storage.commit_protocol import PART_BYTES, NewFile, Part, run
from skinvae.storage.filesystem import Location
from skinvae.storage.slice_table import DeltaStore, SliceTable, WriteAll
from skinvae.storage.slices import (
    count_statuses,
    counts_of_part,
    parquet_bytes,
    part_metadata,
    slice_provenance,
    unless_gone,
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
        return _created(table, part, slices)
    return None


def _created(table: Location, part: Part, slices: list[pa.Table]) -> NewFile:
    counts = {slice_id: count_statuses(one) for slice_id, one in zip(part.slice_ids, slices, strict=True)}
    metadata = part_metadata(counts, [slice_provenance(one) for one in slices])
    data = parquet_bytes(list(zip(part.slice_ids, slices, strict=True)), metadata=metadata)
    destination = table / part.path
    if not destination.create_bytes(data):
        with unless_gone():
            assert counts_of_part(destination) == counts
            data = destination.read_bytes()
    return NewFile(part.path, len(data), sum(one.num_rows for one in slices))


def _read_rows(file: Location) -> pa.Table:
    return pq.read_table(pa.BufferReader(file.read_bytes()), use_threads=False)


def swap_slices_for_parts(
    table: SliceTable, *, provenance: dict[str, str], write_all: WriteAll, part_bytes: int = PART_BYTES
) -> int:
    """Replace every slice file of the table by parts and return how many parts came in."""
    store = DeltaStore(table, provenance=provenance, write_parts=write_all)
    return run(commit_protocol.swap_slices_for_parts(table, part_bytes=part_bytes), store)


def delete_lost_parts(table: SliceTable) -> list[str]:
    """Delete top-level files that can never be committed; returns their names."""
    return run(commit_protocol.delete_lost_parts(table), DeltaStore(table, provenance={}))


def delete_expired_slices(table: SliceTable, *, retention_seconds: float) -> int:
    """Delete slice files whose rows have been in a large file for longer than that; returns how many."""
    before_ms = int((time.time() - retention_seconds) * 1000)
    return run(commit_protocol.delete_expired_slices(table, before_ms=before_ms), DeltaStore(table, provenance={}))
