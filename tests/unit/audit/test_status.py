"""What a status says is arithmetic on one snapshot and the run records, at one time."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from skinvae.audit.status import ScoringStatus, TableStatus, commit_rate, read_status
from skinvae.errors import TableError, UsageError
from skinvae.report.status import status_document, status_page
from skinvae.storage.commit_protocol import LiveFile
from skinvae.storage.compaction import swap_slices_for_parts, write_part
from skinvae.storage.filesystem import Location
from skinvae.storage.run_records import HEARTBEAT_SECONDS, RunState
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.slice_ids import SliceId
from tests.unit.audit.runs import NOON, archive, heartbeat, plan, seconds
from tests.unit.storage.rows import PROVENANCE, commit, slice_id


@pytest.fixture
def location(tmp_path: Path) -> Location:
    return Location.parse(str(tmp_path / "table"))


def at(time: datetime.datetime) -> Callable[[], datetime.datetime]:
    return lambda: time


def no_sleep(_: float) -> None:
    raise AssertionError("there is nothing to wait for")


def status_of(location: Location, *, now: datetime.datetime = NOON) -> TableStatus:
    return read_status(location, clock=at(now), sleep=no_sleep)


def only(status: TableStatus) -> ScoringStatus:
    (one,) = status.scorings
    return one


def page(status: TableStatus) -> str:
    console = Console(width=160, highlight=False)
    with console.capture() as capture:
        console.print(status_page(status))
    return capture.get()


def swap(table: ScoreTable) -> None:
    swap_slices_for_parts(
        table,
        provenance=PROVENANCE,
        write_all=lambda parts: [write_part(table.location, part) for part in parts],
    )


def test_half_way_with_a_driver_at_work(location: Location) -> None:
    table = ScoreTable.open_or_create(location)
    plan(location, archive("s3://b/one.zip"), archive("s3://b/two.zip", source="bbbb", members=50))
    commit(table, slice_id(0, 70), slice_id(0, 5, source="bbbb"))
    heartbeat(location, made={"ok": 65, "truncated": 10}, images_per_second=5.0, heartbeat_at=NOON - seconds(4))
    one = only(status_of(location))
    assert (one.num_members, one.num_done, one.is_complete) == (150, 75, False)
    assert one.by_status == {"ok": 65, "truncated": 10}
    assert one.eta_seconds == (150 - 75) / 5.0
    text = page(status_of(location))
    assert "50 % 75 of 150 members" in text
    assert "65 ok, 10 rejected: 10 truncated" in text
    assert "5.0 images/s over the last 5 minutes, ETA 15 s" in text
    assert "at work, last heartbeat 4 s ago: run run-1 on gpu-1, pid 4711" in text
    assert "0 of 2 complete" in text


def test_counts_come_from_footers_where_a_killed_driver_did_not_tell_all(location: Location) -> None:
    table = ScoreTable.open_or_create(location)
    plan(location, archive("one.zip"))
    commit(table, slice_id(0, 14))
    heartbeat(location, made={"ok": 7, "crashed": 1})  # killed behind its last commit
    later = NOON + seconds(100)
    one = only(status_of(location, now=later))
    assert one.by_status == {"ok": 12, "truncated": 2}
    assert not one.alive
    text = page(status_of(location, now=later))
    assert "dead or cut off, last heartbeat 1:40 ago" in text
    assert "run the same command to go on" in text


def test_a_living_driver_is_given_a_moment_to_tell(location: Location) -> None:
    table = ScoreTable.open_or_create(location)
    plan(location, archive("one.zip"))
    commit(table, slice_id(0, 14))
    heartbeat(location, made={})
    waited: list[float] = []

    def sleep(duration: float) -> None:
        waited.append(duration)
        # Such numbers as no footer says show which of the two is asked.
        heartbeat(location, made={"ok": 10, "truncated": 1, "timeout": 3})

    one = only(read_status(location, clock=at(NOON), sleep=sleep))
    assert one.by_status == {"ok": 10, "truncated": 1, "timeout": 3}
    assert len(waited) == 1


def test_rows_in_large_files_are_counted_exactly_whatever_the_records_say(location: Location) -> None:
    table = ScoreTable.open_or_create(location)
    commit(table, slice_id(0, 14), slice_id(0, 7, scoring="dddd"))
    swap(table)
    commit(table, slice_id(14, 28))
    first, second = status_of(location).scorings
    assert first.by_status == {"ok": 24, "truncated": 4}
    assert second.by_status == {"ok": 6, "truncated": 1}


def test_runs_tell_of_slices_beside_large_files_only_if_they_began_behind_them(location: Location) -> None:
    """What an earlier run counted may have been rewritten since: `score --retry` replaces rows of large files."""
    table = ScoreTable.open_or_create(location)
    now = datetime.datetime.now(datetime.timezone.utc)
    heartbeat(location, run_id="run-1", started_at=now - seconds(60), made={"ok": 9, "timeout": 1})
    commit(table, slice_id(0, 7))
    swap(table)
    commit(table, slice_id(7, 17))
    assert only(status_of(location, now=now + seconds(3600))).by_status == {"ok": 15, "truncated": 2}
    heartbeat(location, run_id="run-2", started_at=now + seconds(60), made={"ok": 9, "timeout": 1})
    assert only(status_of(location, now=now + seconds(3600))).by_status == {"ok": 15, "truncated": 1, "timeout": 1}


def test_a_driver_counts_as_alive_for_three_beats(location: Location) -> None:
    plan(location, archive("one.zip"))
    heartbeat(location)
    beats = 3 * HEARTBEAT_SECONDS
    assert only(status_of(location, now=NOON + seconds(beats))).alive
    assert not only(status_of(location, now=NOON + seconds(beats + 0.1))).alive
    assert only(status_of(location, now=NOON - seconds(60))).alive, "its clock may be ahead"
    for state in (RunState.DONE, RunState.INTERRUPTED, RunState.FAILED):
        heartbeat(location, state=state, message="why")
        assert not only(status_of(location)).alive
        assert f"{state.value} 0 s ago: run run-1 on gpu-1, pid 4711: why" in page(status_of(location))


def test_two_drivers_at_once_add_up(location: Location) -> None:
    table = ScoreTable.open_or_create(location)
    plan(location, archive("one.zip"), run_id="run-1")
    plan(location, archive("one.zip"), run_id="run-2")
    commit(table, slice_id(0, 20))
    heartbeat(location, run_id="run-1", made={"ok": 8}, adopted={"truncated": 1}, images_per_second=2.0)
    heartbeat(location, run_id="run-2", made={"ok": 10, "truncated": 1}, images_per_second=6.0, host="gpu-2")
    one = only(status_of(location))
    assert one.by_status == {"ok": 18, "truncated": 2}
    assert (one.images_per_second, one.eta_seconds) == (8.0, 10.0)
    assert "2 at once" in page(status_of(location))
    assert "gpu-2" in page(status_of(location))


def test_a_stream_is_guessed_by_its_bytes_until_its_end_is_known(location: Location) -> None:
    table = ScoreTable.open_or_create(location)
    plan(location, archive("a.tar", members=None, num_bytes=5000))
    heartbeat(location, images_per_second=1.0, made={"ok": 9, "truncated": 1})
    commit(table, SliceId("aaaa", "cccc", 0, 10, (0, 1000)))
    one = only(status_of(location))
    assert (one.num_members, one.num_bytes_unread, one.num_members_expected) == (10, 4000, 50)
    assert one.eta_seconds == 40.0
    assert not one.is_complete
    text = page(status_of(location))
    assert "20 %" in text
    assert "4.0 kB of tar unread" in text
    commit(table, SliceId("aaaa", "cccc", 10, 30, (1000, 5000)))
    heartbeat(location, state=RunState.DONE, made={"ok": 26, "truncated": 4})
    one = only(status_of(location))
    assert (one.num_members, one.num_bytes_unread, one.is_complete) == (30, 0, True)


def test_an_archive_that_was_replaced_is_planned_once_and_its_old_rows_told_apart(location: Location) -> None:
    table = ScoreTable.open_or_create(location)
    plan(location, archive("one.zip", source="aaaa"), archive("two.zip", source="bbbb"), run_id="run-1")
    commit(table, slice_id(0, 30))
    plan(location, archive("one.zip", source="eeee", members=120), run_id="run-2")
    one = read_status(location, clock=at(NOON)).scorings[0]
    assert {archive.uri: archive.source_id for archive in one.archives} == {"one.zip": "eeee", "two.zip": "bbbb"}
    assert (one.num_members, one.num_done, one.num_rows_unplanned) == (220, 0, 30)
    assert "30 of the rows are of archives" in page(status_of(location))


def test_without_run_records_it_says_what_the_table_tells(location: Location) -> None:
    table = ScoreTable.open_or_create(location)
    assert "no rows, and no run has left a record" in page(status_of(location))
    commit(table, slice_id(0, 14))
    one = only(status_of(location))
    assert (one.by_status, one.is_complete, one.eta_seconds) == ({"ok": 12, "truncated": 2}, False, None)
    assert "no run has left a record of its archives" in page(status_of(location))


def test_before_the_first_commit_it_says_what_is_planned(location: Location) -> None:
    plan(location, archive("one.zip"))
    heartbeat(location)
    (Path(location.uri) / "_delta_log").mkdir()
    status = status_of(location)
    assert status.version is None
    assert (only(status).num_members, only(status).num_done) == (100, 0)
    assert "nothing committed yet" in page(status)


def test_what_is_no_table_of_ours_is_refused(location: Location, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no score table at"):
        status_of(location)
    ScoreTable.open_or_create(location)
    plan(location, archive("one.zip"))
    heartbeat(location)
    with pytest.raises(UsageError, match="takes one of cccc"):
        read_status(location, scoring_id="zzzz")
    record = next(Path(location.uri).glob("_skinvae/runs/*/heartbeat.json"))
    record.write_text("{}")
    with pytest.raises(TableError, match="is damaged"):
        status_of(location)


def test_records_of_a_later_version_are_read(location: Location) -> None:
    heartbeat(location)
    record = next(Path(location.uri).glob("_skinvae/runs/*/heartbeat.json"))
    record.write_text(record.read_text().replace("{", '{"mood": "fine",', 1))
    assert only(status_of(location)).alive


def test_of_many_archives_the_open_ones_are_shown(location: Location) -> None:
    table = ScoreTable.open_or_create(location)
    plan(location, *(archive(f"{index:04}.zip", source=f"{index:04x}", members=3) for index in range(1000)))
    commit(table, *(slice_id(0, 3, source=f"{index:04x}") for index in range(95)))
    heartbeat(location, made={"ok": 285})
    lines = page(status_of(location)).splitlines()
    assert "95 of 1,000 complete" in "\n".join(lines)
    assert [lines[-21].split()[0], lines[-2].split()[0]] == ["0095.zip", "0114.zip"]
    assert lines[-1].strip() == "... and 95 more complete and 885 more not complete"
    document = status_document(status_of(location))["scorings"][0]
    assert (len(document["archives"]), document["num_archives_complete"]) == (1000, 95)


def test_a_status_writes_nothing(location: Location) -> None:
    """Read-only credentials suffice."""
    table = ScoreTable.open_or_create(location)
    commit(table, slice_id(0, 14))
    before = {path: os.stat(path).st_mtime_ns for path in Path(location.uri).rglob("*")}
    status_of(location)
    assert {path: os.stat(path).st_mtime_ns for path in Path(location.uri).rglob("*")} == before


def test_the_rate_of_commits_leaves_out_the_first_of_the_window() -> None:
    def file(second: float) -> LiveFile:
        return LiveFile("_slices/x", 1, 30, int(1000 * second))

    assert commit_rate([]) is None
    assert commit_rate([file(5), file(5.004)]) is None, "one commit has no duration"
    assert commit_rate([file(0), file(0.004), file(10), file(20)]) == 60 / 20
    assert commit_rate([file(0), file(1000), file(1010)]) == 30 / 10, "what lies before the window does not count"
