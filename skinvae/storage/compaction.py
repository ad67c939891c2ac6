"""Swap the slice files of a table for a few large top-level files, in one commit that changes no row.

Delta readers see either the slices or the parts, plain Parquet readers (which ignore `_slices/`) see the parts only.
Two drivers may do this at once: a part is named by the slices it holds and created only if absent, the swap is a
compare-and-swap, and a part that lost is deleted only once it can never be committed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.transaction import AddAction, RemoveAction

from skinvae.errors import InputError
from skinvae.storage.filesystem import Location
from skinvae.storage.slice_table import LiveFile, SliceTable, add_action, remove_action
from skinvae.storage.slices import (
    SliceId,
    count_statuses,
    counts_of_part,
    parquet_bytes,
    part_metadata,
    slice_provenance,
)

PART_BYTES = 128 * 2**20
"""Size of a top-level file: large enough for few requests, small enough to be written from memory."""

_PART_NAME = re.compile(r"part-[0-9a-f]{32}\.parquet")


@dataclass(frozen=True)
class Part:
    """A top-level file to be: the slice files it takes the place of."""

    slices: tuple[LiveFile, ...]

    @property
    def slice_ids(self) -> list[SliceId]:
        return [SliceId.from_path(file.path) for file in self.slices]

    @property
    def path(self) -> str:
        digest = hashlib.blake2b("\n".join(map(str, self.slice_ids)).encode(), digest_size=16)
        return f"part-{digest.hexdigest()}.parquet"


@dataclass(frozen=True)
class PartFile:
    """A written top-level file."""

    part: Part
    num_bytes: int
    num_rows: int


def plan_parts(files: Iterable[LiveFile], *, part_bytes: int = PART_BYTES) -> list[Part]:
    """Group the slice files, in order of scoring, archive and member, into parts of about `part_bytes`."""
    ordered = sorted((file for file in files if file.is_slice), key=lambda file: _reading_order(file.path))
    groups: list[list[LiveFile]] = []
    group_bytes = 0
    for file in ordered:
        if not groups or group_bytes + file.num_bytes > part_bytes:
            groups.append([])
            group_bytes = 0
        groups[-1].append(file)
        group_bytes += file.num_bytes
    return [Part(tuple(group)) for group in groups]


def write_part(table: Location, part: Part) -> PartFile:
    """Write the rows of the part's slices as one file, or take the one that an earlier attempt wrote."""
    slices = [pq.read_table(pa.BufferReader((table / file.path).read_bytes())) for file in part.slices]
    counts = {slice_id: count_statuses(one) for slice_id, one in zip(part.slice_ids, slices, strict=True)}
    metadata = part_metadata(counts, [slice_provenance(one) for one in slices])
    data = parquet_bytes(list(zip(part.slice_ids, slices, strict=True)), metadata=metadata)
    destination = table / part.path
    if not destination.create_bytes(data):
        with _unless_deleted():
            assert counts_of_part(destination) == counts
            data = destination.read_bytes()
    return PartFile(part, len(data), sum(one.num_rows for one in slices))


def swap_slices_for_parts(
    table: SliceTable,
    *,
    provenance: dict[str, str],
    write_all: Callable[[Sequence[Part]], Sequence[PartFile]],
    part_bytes: int = PART_BYTES,
) -> int:
    """Replace every slice file of the table by parts and return how many parts came in.

    `write_all` writes parts, wherever the caller wants that work done. When another driver commits meanwhile, the
    parts are planned and written again from what is left.
    """
    swapped = 0

    def actions() -> Sequence[AddAction | RemoveAction]:
        nonlocal swapped
        written = write_all(plan_parts(table.live_files(), part_bytes=part_bytes))
        swapped = len(written)
        adds = [add_action(one.part.path, one.num_bytes, one.num_rows, data_change=False) for one in written]
        return adds + [remove_action(file.path) for one in written for file in one.part.slices]

    table.compare_and_swap(actions, provenance=provenance)
    delete_lost_parts(table)
    return swapped


def delete_lost_parts(table: SliceTable) -> list[str]:
    """Delete top-level files that a stopped or slower driver wrote and can never commit; returns their names.

    A part can be committed only while all of its slices still have their own files in the table. Slices never go
    back to files of their own, so once one of them is part of another file, its part is lost for good.
    """
    live = table.live_files()
    live_paths = {file.path for file in live}
    in_parts = {slice_id for file in live if not file.is_slice for slice_id in table.slices_in(file)}
    candidates = [
        entry.name
        for entry in table.location.list_objects()
        if _PART_NAME.fullmatch(entry.name) and entry.name not in live_paths
    ]
    lost = []
    for name in candidates:
        with _unless_deleted():
            if in_parts.intersection(counts_of_part(table.location / name)):
                (table.location / name).delete()
                lost.append(name)
    return lost


@contextmanager
def _unless_deleted() -> Iterator[None]:
    """Let go of a part that another driver deletes meanwhile: that one found it lost, so no commit can need it."""
    try:
        yield
    except InputError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise


def _reading_order(path: str) -> tuple[str, str, int]:
    slice_id = SliceId.from_path(path)
    return slice_id.scoring_id, slice_id.source_id, slice_id.start
