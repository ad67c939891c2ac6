"""Thousands of small files become a few large ones, below readers who never look away, by two drivers at once."""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from skinvae.storage.commit_protocol import PART_BYTES, NewFile, Part
from skinvae.storage.compaction import delete_expired_slices, swap_slices_for_parts, write_part
from skinvae.storage.filesystem import Location
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.slice_ids import SliceId
from skinvae.storage.slices import write_slice
from tests.unit.storage.rows import PROVENANCE, rows_of, slice_id

DOUBLES = ["vae", "vae_reconst", "vae_kl", "iwae", "iwae_reconst", "iwae_kl", "ess", "p_value"]
SLICES_PER_COMMIT = 50


def scored_rows(one: SliceId) -> pa.Table:
    """With doubles that no compression makes smaller, as real scores are."""
    rows, chance = rows_of(one), np.random.default_rng(one.start)
    for name in DOUBLES:
        index = rows.schema.get_field_index(name)
        rows = rows.set_column(index, rows.schema.field(index), pa.array(chance.random(rows.num_rows)))
    return rows


def drive(slices: Sequence[SliceId], *, uri: str, part_bytes: int) -> int:
    """What a driver and its workers do from the first slice to the swap; returns how many parts it brought in."""
    location = Location.parse(uri)
    table = ScoreTable.open_or_create(location)
    for first in range(0, len(slices), SLICES_PER_COMMIT):
        missing = [one for one in slices[first : first + SLICES_PER_COMMIT] if not is_covered(table, one)]
        files = [write_slice(location, one, scored_rows(one), provenance=PROVENANCE) for one in missing]
        table.commit_slices(files, provenance=PROVENANCE)

    def write_all(parts: Sequence[Part]) -> list[NewFile | None]:
        return [write_part(location, part) for part in parts]

    return swap_slices_for_parts(table, provenance=PROVENANCE, write_all=write_all, part_bytes=part_bytes)


def is_covered(table: ScoreTable, one: SliceId) -> bool:
    ranges = table.covered().get((one.source_id, one.scoring_id))
    return ranges is not None and ranges.intersects(one.start, one.stop)


class PollingReader:
    """Follows the table by Delta, and reads the keys of every row of every snapshot it comes by."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.num_rows: list[int] = []
        self.complaints: list[str] = []

    def __enter__(self) -> PollingReader:
        ScoreTable.open_or_create(Location.parse(self._uri))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        handle = DeltaTable(self._uri)
        while not self._stop.wait(0.05):
            handle.update_incremental()
            keys = handle.to_pyarrow_dataset().to_table(columns=["source_id", "member_index"]).to_pandas()
            if keys.duplicated().any():
                self.complaints.append(f"version {handle.version()}: rows are there twice")
            if self.num_rows and len(keys) < self.num_rows[-1]:
                self.complaints.append(f"version {handle.version()}: {self.num_rows[-1] - len(keys)} rows are gone")
            self.num_rows.append(len(keys))


@pytest.mark.parametrize(
    ("num_slices", "rows_per_slice", "part_bytes"),
    [(300, 16, 200_000), pytest.param(10_000, 256, PART_BYTES, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_small_files_become_large_ones_under_two_drivers_and_a_reader(
    tmp_path: Path, num_slices: int, rows_per_slice: int, part_bytes: int
) -> None:
    uri = str(tmp_path / "scores")
    slices = [
        slice_id(first, first + rows_per_slice) for first in range(0, num_slices * rows_per_slice, rows_per_slice)
    ]
    halfway = num_slices // 2 // SLICES_PER_COMMIT * SLICES_PER_COMMIT
    started = time.monotonic()
    with PollingReader(uri) as reader:
        drive_one = functools.partial(drive, uri=uri, part_bytes=part_bytes)
        with get_context("spawn").Pool(2) as pool:
            pending = pool.map_async(drive_one, [slices, slices[halfway:] + slices[:halfway]])
            old = snapshot_with_slices(uri)
            num_parts = pending.get()
    seconds = time.monotonic() - started

    files = [path.stat().st_size for path in Path(uri).glob("*.parquet")]
    sys.stderr.write(f"{num_slices:,} slices, {len(files)} parts of {min(files):,} to {max(files):,} bytes, ")
    sys.stderr.write(f"{len(reader.num_rows)} snapshots read, {seconds:.0f} s\n")
    num_rows = num_slices * rows_per_slice
    assert reader.complaints == []
    assert len(reader.num_rows) > 3
    # The largest that fit: only the last of one swap is smaller.
    assert sum(size < 0.7 * part_bytes for size in files) <= sum(count > 0 for count in num_parts)
    assert max(files) < 1.1 * part_bytes
    columns = ["member_index", "iwae"]
    by_plain = pd.read_parquet(uri, columns=columns)
    by_delta = ScoreTable.open(Location.parse(uri)).read(columns).to_pandas()
    for rows in (by_plain, by_delta):
        assert len(rows) == num_rows
        assert not rows["member_index"].duplicated().any()
        last = rows.set_index("member_index")["iwae"].loc[slices[-1].start : slices[-1].stop - 1]
        assert sorted(last) == sorted(scored_rows(slices[-1])["iwae"].to_pylist())

    num_old = len(old.to_pyarrow_dataset().to_table(columns=["member_index"]))
    assert 0 < num_old <= num_rows, "a snapshot from before the swap stays readable within the retention time"
    assert delete_expired_slices(ScoreTable.open(Location.parse(uri)), retention_seconds=3600) == 0
    assert delete_expired_slices(ScoreTable.open(Location.parse(uri)), retention_seconds=-1) == num_slices
    assert not list(Path(uri, "_slices").glob("*.parquet"))
    assert len(pd.read_parquet(uri, columns=["member_index"])) == num_rows


def snapshot_with_slices(uri: str) -> DeltaTable:
    """One that holds slice files, as a reader opens it in the middle of a job."""
    while True:
        handle = DeltaTable(uri)
        if any("_slices" in path for path in handle.file_uris()):
            return handle
        time.sleep(0.01)
