"""Rows of a score table, made from arithmetic: every row tells which member it is of."""

from __future__ import annotations

import datetime

import pyarrow as pa

from skinvae.records import SCORE_SCHEMA
from skinvae.storage.filesystem import Location
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.slice_ids import SliceFile, SliceId
from skinvae.storage.slices import write_slice

PROVENANCE = {"run_id": "run-1", "model": "m"}


def slice_id(start: int, stop: int, *, source: str = "aaaa", scoring: str = "cccc") -> SliceId:
    return SliceId(source, scoring, start, stop)


def rows_of(one: SliceId, *, run_id: str = "run-1") -> pa.Table:
    """One row per member; every seventh is rejected and has nulls."""
    indices = range(one.start, one.stop)
    good = [index % 7 != 6 for index in indices]
    score = [index / 3 if ok else None for index, ok in zip(indices, good, strict=True)]
    values = {
        "image_id": [f"{one.source_id}-{index}" for index in indices],
        "member_index": list(indices),
        "status": ["ok" if ok else "truncated" for ok in good],
        "error": [None if ok else "ends early" for ok in good],
        "num_bytes": [1000 + index for index in indices],
    }
    constants = {
        "source_id": one.source_id, "scoring_id": one.scoring_id, "slice_id": str(one), "run_id": run_id,
        "scored_at": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
    }  # fmt: skip

    def column(field: pa.Field) -> pa.Array:
        if field.name in values:
            return pa.array(values[field.name], field.type)
        if field.name in constants:
            return pa.array([constants[field.name]] * len(indices), field.type)
        if field.type == pa.float64():
            return pa.array(score, field.type)
        return pa.array(["x" if field.type == pa.string() else 7] * len(indices), field.type)

    return pa.Table.from_arrays([column(field) for field in SCORE_SCHEMA], schema=SCORE_SCHEMA)


def write(table: Location, one: SliceId, *, provenance: dict[str, str] | None = None) -> SliceFile:
    return write_slice(table, one, rows_of(one), provenance=provenance or PROVENANCE)


def commit(table: ScoreTable, *slices: SliceId) -> list[SliceId]:
    """Write and commit; the slices that this call brought in."""
    files = [write(table.location, one) for one in slices]
    return [file.slice_id for file in table.commit_slices(files, provenance=PROVENANCE)]


def members(table: ScoreTable) -> list[tuple[str, int]]:
    """(source_id, member_index) of every row of the handle's snapshot, sorted."""
    rows = table.read(["source_id", "member_index"]).to_pydict()
    return sorted(zip(rows["source_id"], rows["member_index"], strict=True))
