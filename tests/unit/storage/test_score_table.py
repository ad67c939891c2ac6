"""The score table holds every slice exactly once, whoever commits at the same time and however often."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from pyarrow import dataset

from skinvae.errors import TableError
from skinvae.records import SCORE_SCHEMA
from skinvae.storage.filesystem import Location
from skinvae.storage.ranges import Ranges
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.slices import write_slice
from tests.unit.storage.rows import PROVENANCE, commit, members, rows_of, slice_id, write


@pytest.fixture
def location(tmp_path: Path) -> Location:
    return Location.parse(str(tmp_path / "table"))


def test_a_new_table_is_empty_and_creating_it_twice_is_fine(location: Location) -> None:
    first, second = ScoreTable.open_or_create(location), ScoreTable.open_or_create(location)
    assert first.live_slices() == second.live_slices() == []
    assert first.covered() == {}
    assert members(ScoreTable.open(location)) == []


def test_committed_slices_are_rows_for_every_new_handle(location: Location) -> None:
    table = ScoreTable.open_or_create(location)
    one, two = slice_id(0, 10), slice_id(10, 25)
    assert commit(table, one, two) == [one, two]
    again = ScoreTable.open(location)
    assert again.live_slices() == table.live_slices() == [one, two]
    assert again.covered() == {("aaaa", "cccc"): Ranges([(0, 25)])}
    assert members(again) == [("aaaa", i) for i in range(25)]
    assert again.scoring_ids() == ["cccc"]


def test_batches_hold_the_rows_of_one_scoring_and_only_those_asked_for(location: Location) -> None:
    table = ScoreTable.open_or_create(location)
    commit(table, slice_id(0, 10), slice_id(10, 25), slice_id(0, 5, scoring="dddd"))

    def indices(**only: object) -> list[int]:
        batches = table.batches(["member_index", "status"], scoring_id="cccc", **only)
        return sorted(index for batch in batches for index in batch["member_index"].to_pylist())

    assert indices() == list(range(25))
    assert indices(only=dataset.field("member_index").isin([3, 11, 99])) == [3, 11]
    assert indices(only=dataset.field("status") != "ok") == [6, 13, 20]


def test_a_written_slice_is_invisible_until_it_is_committed(location: Location) -> None:
    table = ScoreTable.open_or_create(location)
    write(location, slice_id(0, 10))
    assert members(ScoreTable.open(location)) == []
    assert commit(table, slice_id(0, 10)) == [slice_id(0, 10)]
    assert len(members(ScoreTable.open(location))) == 10


def test_committing_again_adds_nothing(location: Location) -> None:
    table, one = ScoreTable.open_or_create(location), slice_id(0, 10)
    commit(table, one)
    version = table.version
    assert commit(table, one) == []
    assert commit(ScoreTable.open(location), one) == []
    assert table.version == version
    table.reload()
    assert len(members(table)) == 10


def test_a_handle_that_lags_behind_adds_only_what_is_missing(location: Location) -> None:
    fast, slow = ScoreTable.open_or_create(location), ScoreTable.open_or_create(location)
    same, other = slice_id(0, 10), slice_id(10, 20)
    assert commit(fast, same) == [same]
    assert commit(slow, same, other) == [other]
    fast.reload()
    assert members(fast) == members(slow) == [("aaaa", i) for i in range(20)]


def test_overlapping_ranges_with_other_borders_are_left_out(location: Location) -> None:
    fast, slow = ScoreTable.open_or_create(location), ScoreTable.open_or_create(location)
    commit(fast, slice_id(0, 10), slice_id(20, 30))
    candidates = [slice_id(5, 12), slice_id(9, 10), slice_id(12, 20), slice_id(0, 40), slice_id(30, 31)]
    assert commit(slow, *candidates) == [slice_id(12, 20), slice_id(30, 31)]
    assert members(slow) == [("aaaa", i) for i in [*range(10), *range(12, 31)]]


def test_slices_that_overlap_within_one_commit_count_once(location: Location) -> None:
    table = ScoreTable.open_or_create(location)
    assert commit(table, slice_id(0, 10), slice_id(5, 15), slice_id(0, 10)) == [slice_id(0, 10)]
    assert len(members(table)) == 10


def test_other_archives_and_other_scorings_share_no_members(location: Location) -> None:
    table = ScoreTable.open_or_create(location)
    every = [slice_id(0, 10), slice_id(0, 10, source="bbbb"), slice_id(0, 10, scoring="dddd")]
    assert commit(table, *every) == every
    assert table.scoring_ids() == ["cccc", "dddd"]
    assert table.read(["member_index"], scoring_id="dddd").num_rows == 10
    assert table.read(["member_index"]).num_rows == 30


def test_racing_handles_commit_every_member_once(location: Location) -> None:
    """Four drivers with other slice sizes do the same archive at the same time."""
    ScoreTable.open_or_create(location)
    barrier = threading.Barrier(4)

    def drive(size: int) -> int:
        table = ScoreTable.open(location)
        mine = [slice_id(start, min(start + size, 60)) for start in range(0, 60, size)]
        barrier.wait()
        return sum(len(commit(table, *mine[i : i + 3])) for i in range(0, len(mine), 3))

    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(drive, [10, 10, 6, 15]))
    table = ScoreTable.open(location)
    found = members(table)
    assert len(found) == len(set(found))
    assert len(table.live_slices()) == sum(added)
    # Whatever the race left uncovered, a later run does.
    gaps = table.covered()["aaaa", "cccc"].gaps(0, 60)
    commit(table, *(slice_id(start, stop) for start, stop in gaps))
    assert members(table) == [("aaaa", i) for i in range(60)]


def test_a_slice_without_images_is_covered_all_the_same(location: Location) -> None:
    table, one = ScoreTable.open_or_create(location), slice_id(0, 5)
    file = write_slice(location, one, rows_of(one).slice(0, 0), provenance=PROVENANCE)
    assert table.commit_slices([file], provenance=PROVENANCE) == [file]
    assert table.covered() == {("aaaa", "cccc"): Ranges([(0, 5)])}
    assert members(table) == []


def test_a_commit_carries_its_provenance(location: Location) -> None:
    commit(ScoreTable.open_or_create(location), slice_id(0, 10))
    last = DeltaTable(location.uri).history(1)[0]
    assert last["run_id"] == "run-1"
    assert last["model"] == "m"


def test_files_keep_units_and_meanings(location: Location) -> None:
    commit(ScoreTable.open_or_create(location), slice_id(0, 10))
    schema = pq.read_schema(f"{location}/{slice_id(0, 10).path}")
    assert schema.names == SCORE_SCHEMA.names
    assert schema.field("iwae").metadata.items() >= {b"unit": b"nats"}.items()
    assert schema.field("member_index").metadata.items() >= SCORE_SCHEMA.field("member_index").metadata.items()
    stored = {field.name: field for field in DeltaTable(location.uri).schema().fields}
    assert stored["iwae"].metadata["unit"] == "nats"


def test_a_missing_table_says_what_to_do(location: Location) -> None:
    with pytest.raises(
        TableError, match=r"no score table at .*/table': check the path or URI, or run `skinvae score` first"
    ):
        ScoreTable.open(location)


def test_a_folder_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(TableError, match="no score table"):
        ScoreTable.open(Location.parse(str(tmp_path)))


def test_a_delta_table_with_other_columns_is_refused(location: Location) -> None:
    write_deltalake(location.uri, pa.table({"x": [1]}))
    with pytest.raises(TableError, match="other columns than a score table"):
        ScoreTable.open_or_create(location)


def test_plain_readers_see_nothing_of_a_running_job(location: Location) -> None:
    commit(ScoreTable.open_or_create(location), slice_id(0, 10))
    assert list(Path(location.uri).glob("*.parquet")) == []
    assert len(pd.read_parquet(location.uri)) == 0
