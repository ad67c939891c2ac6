"""Compaction swaps files and changes no row, for any reader, any crash and any number of drivers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from skinvae.errors import TableError
from skinvae.records import SCORE_SCHEMA
from skinvae.storage.commit_protocol import (
    SLICE_OVERHEAD_BYTES,
    Change,
    LiveFile,
    NewFile,
    Part,
    bytes_in_part,
    plan_parts,
)
from skinvae.storage.compaction import (
    delete_expired_slices,
    delete_lost_parts,
    rewrite_part,
    swap_slices_for_parts,
    write_part,
)
from skinvae.storage.filesystem import Location
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.slice_ids import SliceId
from skinvae.storage.slices import slices_written
from tests.unit.storage.rows import PROVENANCE, commit, members, rows_of, slice_id, write

SLICES = [slice_id(start, start + 10) for start in range(0, 120, 10)]
ALL_MEMBERS = [("aaaa", i) for i in range(120)]


@pytest.fixture
def location(tmp_path: Path) -> Location:
    return Location.parse(str(tmp_path / "table"))


@pytest.fixture
def table(location: Location) -> ScoreTable:
    """Twelve slices in three commits."""
    table = ScoreTable.open_or_create(location)
    for start in range(0, 12, 4):
        commit(table, *SLICES[start : start + 4])
    return table


def write_all(location: Location) -> Callable[[Sequence[Part]], list[NewFile]]:
    return lambda parts: [write_part(location, part) for part in parts]


def compact(table: ScoreTable, **options: int) -> int:
    return swap_slices_for_parts(table, provenance=PROVENANCE, write_all=write_all(table.location), **options)


def half(table: ScoreTable) -> int:
    """Bytes that make two parts of the table: half of it, and the slice that would not fit quite."""
    sizes = [bytes_in_part(file) for file in table.live_files()]
    return sum(sizes) // 2 + max(sizes)


def top_level_files(location: Location) -> set[str]:
    return {path.name for path in Path(location.uri).glob("*.parquet")}


def all_rows(location: Location) -> pa.Table:
    rows: pa.Table = ScoreTable.open(location).read(SCORE_SCHEMA.names)
    return rows.sort_by([("source_id", "ascending"), ("scoring_id", "ascending"), ("member_index", "ascending")])


def test_many_slices_become_few_parts_with_the_same_rows_bit_for_bit(table: ScoreTable) -> None:
    before, slices = all_rows(table.location), table.live_slices()
    assert compact(table, part_bytes=half(table)) == 2
    after = ScoreTable.open(table.location)
    assert [file.is_slice for file in after.live_files()] == [False, False]
    assert all_rows(table.location).equals(before)
    assert sorted(after.live_slices()) == sorted(table.live_slices()) == sorted(slices)
    assert after.covered() == table.covered()
    assert compact(table) == 0  # nothing is left to swap


def test_every_reader_agrees_after_and_plain_readers_see_nothing_before(table: ScoreTable) -> None:
    duckdb = pytest.importorskip("duckdb")
    uri = table.location.uri
    expected = [float(i) / 3 for i in range(120) if i % 7 != 6]
    assert top_level_files(table.location) == set()
    compact(table, part_bytes=half(table))
    plain, delta = pd.read_parquet(uri), DeltaTable(uri).to_pandas()
    for frame in (plain, delta, pq.read_table(uri).to_pandas()):
        assert len(frame) == 120
        assert sorted(frame["iwae"].dropna()) == expected
    mean = pytest.approx(sum(expected) / len(expected), rel=1e-12)
    query = "select count(*), count(iwae), avg(iwae) from read_parquet($files)"
    for files in ([f"{uri}/*.parquet"], DeltaTable(uri).file_uris()):
        with duckdb.connect() as connection:
            assert connection.execute(query, {"files": files}).fetchall() == [(120, len(expected), mean)]


def test_parts_keep_every_provenance_and_the_columns_meanings(location: Location) -> None:
    table = ScoreTable.open_or_create(location)
    files = [write(location, one, provenance={"run_id": f"run-{one.start // 50}"}) for one in SLICES]
    table.commit_slices(files, provenance=PROVENANCE)
    compact(table)
    [part] = top_level_files(location)
    schema = pq.read_schema(f"{location}/{part}")
    assert json.loads(schema.metadata[b"skinvae.provenance"]) == [{"run_id": f"run-{i}"} for i in range(3)]
    assert all(schema.field(field.name).metadata.items() >= field.metadata.items() for field in SCORE_SCHEMA)
    assert DeltaTable(location.uri).history(1)[0]["run_id"] == "run-1"


def test_slices_committed_after_a_swap_join_parts_of_their_own(table: ScoreTable) -> None:
    compact(table)
    first = top_level_files(table.location)
    assert commit(table, slice_id(100, 125), slice_id(120, 130)) == [slice_id(120, 130)]
    assert compact(table) == 1
    assert top_level_files(table.location) > first
    assert members(ScoreTable.open(table.location)) == [("aaaa", i) for i in range(130)]


def test_a_covered_range_stays_covered_after_the_swap(table: ScoreTable) -> None:
    lagging = ScoreTable.open(table.location)
    compact(table)
    assert commit(lagging, SLICES[0], slice_id(5, 200)) == []
    assert members(lagging) == ALL_MEMBERS


def test_a_snapshot_opened_before_the_swap_still_reads_after_it(table: ScoreTable) -> None:
    snapshot = ScoreTable.open(table.location)
    foreign = DeltaTable(table.location.uri)
    compact(table)
    assert members(snapshot) == ALL_MEMBERS
    assert len(foreign.to_pandas()) == 120


def test_two_drivers_that_swap_at_once_leave_every_row_once(table: ScoreTable) -> None:
    """Each sees the same slices, but cuts other parts; one wins, the other finds nothing left to do."""
    rows, barrier = all_rows(table.location), threading.Barrier(3)
    sizes = [half(table), half(table) * 2, half(table) // 2]

    def drive(part_bytes: int) -> int:
        handle = ScoreTable.open(table.location)
        barrier.wait()
        return compact(handle, part_bytes=part_bytes)

    with ThreadPoolExecutor(3) as pool:
        swapped = list(pool.map(drive, sizes))
    after = ScoreTable.open(table.location)
    live = {file.path for file in after.live_files()}
    assert sum(count > 0 for count in swapped) == 1
    assert all_rows(table.location).equals(rows)
    # The loser may have written its parts after the winner had cleaned up; the next cleaning takes them.
    delete_lost_parts(after)
    assert top_level_files(table.location) == live
    assert len(pd.read_parquet(table.location.uri)) == 120


def test_a_swap_goes_through_with_what_it_wrote_while_others_commit(table: ScoreTable) -> None:
    """Another driver commits a slice between this one's plan and its commit: it is left to the next swap."""
    other = ScoreTable.open(table.location)
    calls: list[int] = []

    def slow_write(parts: Sequence[Part]) -> list[NewFile | None]:
        calls.append(sum(len(part.slices) for part in parts))
        commit(other, slice_id(120, 130))
        return write_all(table.location)(parts)

    assert swap_slices_for_parts(table, provenance=PROVENANCE, write_all=slow_write) == 1
    assert calls == [12]
    assert members(ScoreTable.open(table.location)) == [*ALL_MEMBERS, *(("aaaa", i) for i in range(120, 130))]
    assert len(pd.read_parquet(table.location.uri)) == 120
    assert compact(ScoreTable.open(table.location)) == 1
    assert len(pd.read_parquet(table.location.uri)) == 130


def test_a_swap_that_loses_to_another_swap_plans_again(table: ScoreTable) -> None:
    other = ScoreTable.open(table.location)
    calls: list[int] = []

    def slow_write(parts: Sequence[Part]) -> list[NewFile | None]:
        calls.append(sum(len(part.slices) for part in parts))
        if len(calls) == 1:
            commit(other, slice_id(120, 130))
            compact(other, part_bytes=half(other))
            commit(other, slice_id(130, 140))
        return write_all(table.location)(parts)

    assert swap_slices_for_parts(table, provenance=PROVENANCE, write_all=slow_write) == 1
    assert calls == [12, 1]
    assert len(members(ScoreTable.open(table.location))) == 140
    # The part of the first attempt can never be committed: plain readers must not count its rows twice.
    assert len(pd.read_parquet(table.location.uri)) == 140


def test_rewriting_touches_the_rows_of_its_own_scoring_only(location: Location) -> None:
    table = ScoreTable.open_or_create(location)
    commit(table, slice_id(0, 10), slice_id(0, 10, scoring="dddd"))
    compact(table)
    [file] = table.live_files()
    again = rows_of(slice_id(0, 10, scoring="dddd"), run_id="again")
    written = rewrite_part(location, file.path, revision="r", rows=again, statuses=["truncated"], provenance=PROVENANCE)
    assert written is not None
    rows = pd.read_parquet(f"{location}/{written.path}")
    assert not rows.duplicated(["scoring_id", "member_index"]).any()
    assert [(row.scoring_id, row.member_index) for row in rows.itertuples() if row.run_id == "again"] == [("dddd", 6)]


def test_a_crashed_driver_s_part_is_kept_while_it_could_still_be_committed(table: ScoreTable) -> None:
    [part] = plan_parts(table.live_files())
    write_part(table.location, part)
    assert delete_lost_parts(table) == []
    assert top_level_files(table.location) == {part.path}
    # The same plan takes it as it is.
    inode = Path(table.location.uri, part.path).stat().st_ino
    assert compact(table) == 1
    assert top_level_files(table.location) == {part.path}
    assert Path(table.location.uri, part.path).stat().st_ino == inode
    assert members(ScoreTable.open(table.location)) == ALL_MEMBERS


def test_a_crashed_driver_s_part_is_deleted_once_one_of_its_slices_went_into_another(table: ScoreTable) -> None:
    [whole] = plan_parts(table.live_files())
    write_part(table.location, whole)
    two = plan_parts(table.live_files(), part_bytes=half(table))
    assert compact(table, part_bytes=half(table)) == 2
    assert top_level_files(table.location) == {part.path for part in two}
    assert len(pd.read_parquet(table.location.uri)) == 120


def test_cleaning_touches_no_file_of_other_names(table: ScoreTable) -> None:
    compact(table)
    for name in ("notes.parquet", "part-old.parquet", "README.md"):
        Path(table.location.uri, name).write_bytes(b"mine")
    assert delete_lost_parts(table) == []
    assert {"notes.parquet", "part-old.parquet"} < top_level_files(table.location)


def test_cleaning_at_once_from_many_drivers_fails_none(table: ScoreTable) -> None:
    """A lost part may vanish, deleted by another driver, between its listing and the look at its footer."""
    lost = [Part(tuple(table.live_files()[: i + 2])) for i in range(8)]
    for part in lost:
        write_part(table.location, part)
    swap_as_a_driver_that_is_killed_after_its_commit(table)
    barrier = threading.Barrier(4)

    def clean(_: int) -> list[str]:
        handle = ScoreTable.open(table.location)
        barrier.wait()
        return delete_lost_parts(handle)

    with ThreadPoolExecutor(4) as pool:
        deleted = list(pool.map(clean, range(4)))
    assert {name for names in deleted for name in names} == {part.path for part in lost}
    assert len(top_level_files(table.location)) == 1


def swap_as_a_driver_that_is_killed_after_its_commit(table: ScoreTable) -> None:
    parts = plan_parts(table.live_files())
    added, removed = write_all(table.location)(parts), [file.path for part in parts for file in part.slices]
    assert table.commit(Change(tuple(added), tuple(removed), changes_rows=False), provenance=PROVENANCE)


def test_parts_are_planned_in_reading_order_and_to_size() -> None:
    ids = [slice_id(s, s + 10, source=source, scoring=scoring) for scoring in "dc" for source in "ba" for s in (90, 5)]
    files = [LiveFile(one.path, SLICE_OVERHEAD_BYTES + 100, 10) for one in ids] + [LiveFile("part-x.parquet", 100, 10)]
    parts = plan_parts(files, part_bytes=250)
    assert [len(part.slices) for part in parts] == [2, 2, 2, 2]
    planned = [one for part in parts for one in part.slice_ids]
    assert planned == sorted(ids, key=lambda one: (one.scoring_id, one.source_id, one.start))
    assert plan_parts(reversed(files), part_bytes=250) == parts
    assert [len(part.slices) for part in plan_parts(files, part_bytes=1)] == [1] * 8  # a slice is never cut
    assert len({part.path for part in parts}) == 4


def test_a_part_is_named_by_its_slices_alone() -> None:
    one, two = slice_id(0, 10), slice_id(10, 20)

    def name(*ids: SliceId, num_bytes: int = 5) -> str:
        return Part(tuple(LiveFile(i.path, num_bytes, 10) for i in ids)).path

    assert name(one, two) == name(one, two, num_bytes=6)
    assert len({name(one), name(two), name(one, two)}) == 3


def test_a_foreign_file_in_the_table_is_named(table: ScoreTable) -> None:
    write_deltalake(table.location.uri, all_rows(table.location), mode="append")
    table.reload()
    with pytest.raises(TableError, match="skinvae did not write it"):
        table.live_slices()


def test_rows_are_counted_by_status_before_and_after_the_swap(location: Location) -> None:
    table = ScoreTable.open_or_create(location)
    commit(table, slice_id(0, 7), slice_id(7, 20), slice_id(0, 9, source="bbbb"), slice_id(0, 5, scoring="dddd"))
    expected = {"ok": 18, "truncated": 2}  # every seventh is rejected
    assert table.count_by_status("cccc", source_ids=["aaaa"]) == expected
    compact(table)
    assert ScoreTable.open(location).count_by_status("cccc", source_ids=["aaaa"]) == expected
    assert table.count_by_status("cccc", source_ids=["aaaa", "bbbb"]) == {"ok": 26, "truncated": 3}
    assert table.count_by_status("eeee", source_ids=["aaaa"]) == {}


def test_slice_files_are_deleted_once_a_part_has_held_their_rows_for_the_retention(table: ScoreTable) -> None:
    snapshot = DeltaTable(table.location.uri)
    compact(table)
    assert delete_expired_slices(table, retention_seconds=60) == 0
    assert len(snapshot.to_pandas()) == 120
    commit(table, slice_id(120, 130))
    time.sleep(0.01)
    assert delete_expired_slices(table, retention_seconds=0) == 12
    assert slices_written(table.location) == [slice_id(120, 130)], "what is in no part yet stays"
    assert len(members(ScoreTable.open(table.location))) == 130
