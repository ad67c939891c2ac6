"""The swap of slice files for large ones, each written in a fresh process, as a task of Ray would."""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

from benchmarks.scale.commits import AT_ONCE, NUM_WRITERS
from benchmarks.scale.phases import Measured, Phases, alone
from benchmarks.scale.slice_writer import Order, write, writers
from skinvae.pipelines.slice_job import SliceJob
from skinvae.storage.commit_protocol import LiveFile, NewFile, Part
from skinvae.storage.compaction import swap_slices_for_parts, write_part
from skinvae.storage.filesystem import Location
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.slice_ids import SliceId

FULL_SLICES, FULL_ROWS = 1600, 1024
"""About as many slices as join one large file, whose members all have rows."""


def part(table_uri: str, one: Part) -> tuple[NewFile | None, dict[str, Measured]]:
    """One large file, as a task of the swap writes it."""
    phases = Phases()
    with phases.measured("part") as more:
        written = write_part(Location.parse(table_uri), one)
        assert written
        more.update({"num_slices": len(one.slices), "num_bytes": written.num_bytes, "num_rows": written.num_rows})
    return written, phases.found


def full_part(folder: Path, *, num_slices: int) -> Measured:
    """One large file of slices whose members all have rows."""
    table = Location.parse(str(folder))
    ids = [SliceId("e" * 16, "c" * 16, start * FULL_ROWS, (start + 1) * FULL_ROWS) for start in range(num_slices)]
    orders = [Order(table, "an archive", ids[at : at + AT_ONCE], FULL_ROWS) for at in range(0, num_slices, AT_ONCE)]
    with writers(NUM_WRITERS) as pool:
        files = [file for files in pool.map(write, orders, chunksize=1) for file in files]
    live = tuple(LiveFile(one.path, one.num_bytes, one.num_rows) for one in files)
    _, phases = alone(part, table.uri, Part(live))
    return phases["part"] | {"slice_file_bytes": statistics.mean(one.num_bytes for one in files)}


def swapped(job: SliceJob) -> Measured:
    """As a job ends, from a handle of its own; each part is written in a fresh process, as a task would."""
    table = ScoreTable.open(job.table)
    parts: list[Measured] = []

    def write_all(wanted: Sequence[Part]) -> list[NewFile | None]:
        written = []
        with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            for file, phases in pool.imap(functools.partial(part, job.table.uri), wanted, chunksize=1):
                written.append(file)
                parts.append(phases["part"])
        return written

    number = swap_slices_for_parts(table, provenance=job.provenance, write_all=write_all)
    entry = Path(job.table.uri) / "_delta_log" / f"{table.version:020}.json"
    num_removed = sum("remove" in json.loads(line) for line in entry.read_text().splitlines())
    return {"num_parts": number, "parts": parts, "entry_bytes": entry.stat().st_size, "num_removed": num_removed}
