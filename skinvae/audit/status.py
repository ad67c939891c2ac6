"""How far the jobs on a table are: planned, done, rejected, how fast, how long still, and whether a driver is alive."""

from __future__ import annotations

import datetime
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from skinvae.audit.tables import open_table, table_kind
from skinvae.errors import TableError, UsageError
from skinvae.storage.commit_protocol import LiveFile
from skinvae.storage.done import Done
from skinvae.storage.filesystem import Location
from skinvae.storage.run_records import Heartbeat, PlannedArchive, RunRecord, planned_archives, read_runs
from skinvae.storage.slice_ids import Counts, SliceId, covered_ranges, stream_offsets
from skinvae.storage.slice_table import SliceTable

RATE_SECONDS = 300.0
"""'The last minutes' of a rate."""

_CATCH_UP_SECONDS, _MAX_LOOKS = 1.0, 4
"""A driver tells what it committed a moment after the commit: so long, and so often, its next sign is waited for."""


@dataclass(frozen=True)
class ArchiveStatus:
    """How far one planned archive is."""

    uri: str
    source_id: str
    num_bytes: int
    num_members: int | None
    """None of a stream whose end is not read yet."""
    num_done: int
    """Members that the table covers, images or not."""
    num_bytes_unread: int
    """Of such a stream."""

    @property
    def is_complete(self) -> bool:
        return self.num_done == self.num_members


@dataclass(frozen=True)
class ScoringStatus:
    """How far one scoring, or preparation, of a table is."""

    scoring_id: str
    archives: list[ArchiveStatus]
    """Of the newest plan for each URI, ordered by URI."""
    by_status: Counts
    """Rows, of all archives."""
    num_rows_unplanned: int
    """Rows of archives that no run record names, or that were replaced since."""
    heartbeats: list[Heartbeat]
    """The last sign of each run, the oldest run first."""
    commit_rate: float | None
    """Images/s in the minutes before the last commit; None where the commits do not tell."""
    now: datetime.datetime

    @property
    def num_rows(self) -> int:
        return sum(self.by_status.values())

    @property
    def num_members(self) -> int:
        """Planned, as far as it is known: of a stream whose end is not read yet, what is done."""
        return sum(one.num_done if one.num_members is None else one.num_members for one in self.archives)

    @property
    def num_done(self) -> int:
        """Of the planned members."""
        return sum(one.num_done for one in self.archives)

    @property
    def num_bytes_unread(self) -> int:
        return sum(one.num_bytes_unread for one in self.archives)

    @property
    def is_complete(self) -> bool:
        """Whether every planned member is done; never without a plan."""
        return bool(self.archives) and all(one.is_complete for one in self.archives)

    @property
    def alive(self) -> list[Heartbeat]:
        """The drivers that are at work."""
        return [one for one in self.heartbeats if one.is_alive(self.now)]

    @property
    def images_per_second(self) -> float | None:
        """Of all drivers at work, over the last minutes; None without one, or before its first commits."""
        return sum(one.images_per_second for one in self.alive) or None

    @property
    def num_members_expected(self) -> float | None:
        """Planned, with a guess at what streams hold still, by their bytes so far; None before there are any."""
        streams = [one for one in self.archives if one.num_members is None]
        num_unread = sum(one.num_bytes_unread for one in streams)
        num_read = sum(one.num_bytes for one in streams) - num_unread
        if not streams:
            return self.num_members
        return self.num_members + num_unread * sum(one.num_done for one in streams) / num_read if num_read else None

    @property
    def eta_seconds(self) -> float | None:
        """Until all is done at the present rate; None where that cannot be told."""
        expected, rate = self.num_members_expected, self.images_per_second
        if expected is None or rate is None or not self.num_done:
            return None
        images_per_member = (self.num_rows - self.num_rows_unplanned) / self.num_done
        return (expected - self.num_done) * images_per_member / rate


@dataclass(frozen=True)
class TableStatus:
    """How far a table is."""

    uri: str
    noun: str
    version: int | None
    """Of the snapshot; None before the table's first commit."""
    scorings: list[ScoringStatus]


def read_status(
    location: Location,
    *,
    scoring_id: str | None = None,
    clock: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.timezone.utc),
    sleep: Callable[[float], None] = time.sleep,
) -> TableStatus:
    """Of all scorings, or of one. Raises TableError if no job ever began there, UsageError for an unknown scoring."""
    table, runs = open_table(location), read_runs(location)
    if table is None and not runs:
        kind = table_kind(location)
        raise TableError(
            f"no {kind.noun} at '{location}': check the path or URI, or run `skinvae {kind.command}` first"
        )
    snapshot = _Snapshot(table)
    for _ in range(_MAX_LOOKS - 1):
        if table is None or snapshot.is_told_by(runs) or not any(_is_alive(run, clock()) for run in runs):
            break
        sleep(_CATCH_UP_SECONDS)
        table.reload()
        snapshot, runs = _Snapshot(table), read_runs(location)
    found = sorted({*snapshot.scoring_ids, *(run.heartbeat.scoring_id for run in runs if run.heartbeat)})
    if scoring_id is not None and scoring_id not in found:
        raise UsageError(f"'{location}' holds no scoring '{scoring_id}': --scoring-id takes one of {', '.join(found)}")
    chosen = found if scoring_id is None else [scoring_id]
    now = clock()
    return TableStatus(
        uri=location.uri,
        noun=table_kind(location).noun if table is None else table.noun,
        version=None if table is None else table.version,
        scorings=[_scoring_status(location, snapshot, runs, scoring_id=one, now=now) for one in chosen],
    )


class _Snapshot:
    """What one snapshot of a table says, by scoring; None is a table without a commit."""

    def __init__(self, table: SliceTable | None) -> None:
        self._table = table
        self._rows: dict[str, dict[SliceId, int]] = defaultdict(dict)
        self._alone: dict[str, list[LiveFile]] = defaultdict(list)
        """Slices that have their own files still."""
        self._in_parts: dict[str, Counter[str]] = defaultdict(Counter)
        """Rows in large files, by status."""
        self._last_part_ms = 0
        for file in table.live_files() if table is not None else ():
            self._add(file)

    def _add(self, file: LiveFile) -> None:
        assert self._table is not None
        if file.is_slice:
            slice_id = SliceId.from_path(file.path)
            self._rows[slice_id.scoring_id][slice_id] = file.num_rows
            self._alone[slice_id.scoring_id].append(file)
            return
        self._last_part_ms = max(self._last_part_ms, file.modified_ms)
        for slice_id, contents in self._table.contents_in_part(file).items():
            self._rows[slice_id.scoring_id][slice_id] = contents.num_rows
            self._in_parts[slice_id.scoring_id].update(contents.counts)

    @property
    def scoring_ids(self) -> set[str]:
        return set(self._rows)

    def rows_by_slice(self, scoring_id: str) -> dict[SliceId, int]:
        """Every slice of the scoring."""
        return self._rows.get(scoring_id, {})

    def files(self, scoring_id: str) -> list[LiveFile]:
        """The slice files of the scoring."""
        return self._alone.get(scoring_id, [])

    def is_told_by(self, runs: Sequence[RunRecord]) -> bool:
        """Whether `count` needs no footers of slices."""
        return all(self._told(runs, one) is not None for one in self.scoring_ids)

    def count(self, scoring_id: str, runs: Sequence[RunRecord]) -> Counts:
        """Rows by status, exactly: large files say it, and of the slices beside them the runs do, or their footers."""
        told = self._told(runs, scoring_id)
        if told is None:
            assert self._table is not None
            told = self._table.count_rows(self.files(scoring_id))
        return dict(told + self._in_parts.get(scoring_id, Counter()))

    def _told(self, runs: Sequence[RunRecord], scoring_id: str) -> Counter[str] | None:
        """What the runs say of the slices that have their own files; None where it does not add up.

        A run counts rows only once it has committed them, so its count of each status is never too high: if the sum
        is right, every one is. A run that was killed between a commit and its sign leaves it too low. Runs that began
        before the newest large file do not count: what they committed may be part of it.
        """
        told: Counter[str] = Counter()
        for one in runs:
            sign = one.heartbeat
            if sign and sign.scoring_id == scoring_id and 1000 * sign.started_at.timestamp() > self._last_part_ms:
                told.update(sign.made)
                told.update(sign.adopted)
        return told if told.total() == sum(file.num_rows for file in self.files(scoring_id)) else None


def _scoring_status(
    location: Location,
    snapshot: _Snapshot,
    runs: Sequence[RunRecord],
    *,
    scoring_id: str,
    now: datetime.datetime,
) -> ScoringStatus:
    planned = planned_archives(location, runs, scoring_id=scoring_id)
    rows = snapshot.rows_by_slice(scoring_id)
    covered, offsets = covered_ranges(rows), stream_offsets(rows)
    archives = []
    for archive in sorted(planned.values(), key=lambda one: one.uri):
        key = archive.source_id, scoring_id
        archives.append(archive_status(archive, Done(covered[key], offsets[key]) if key in covered else Done()))
    current = {one.source_id for one in archives}
    return ScoringStatus(
        scoring_id=scoring_id,
        archives=archives,
        by_status=snapshot.count(scoring_id, runs),
        num_rows_unplanned=sum(count for slice_id, count in rows.items() if slice_id.source_id not in current),
        heartbeats=[one.heartbeat for one in runs if one.heartbeat and one.heartbeat.scoring_id == scoring_id],
        commit_rate=commit_rate(snapshot.files(scoring_id)),
        now=now,
    )


def archive_status(archive: PlannedArchive, done: Done) -> ArchiveStatus:
    """How far an archive is, given what the table holds of it."""
    return ArchiveStatus(
        uri=archive.uri,
        source_id=archive.source_id,
        num_bytes=archive.num_bytes,
        num_members=done.num_members(archive.num_members, num_bytes=archive.num_bytes),
        num_done=len(done.members),
        num_bytes_unread=done.num_bytes_unread(archive.num_members, num_bytes=archive.num_bytes),
    )


def commit_rate(files: Sequence[LiveFile], *, seconds: float = RATE_SECONDS) -> float | None:
    """Rows/s in the `seconds` before the last commit; None if they hold a single commit, which has no duration."""
    last = max((file.modified_ms for file in files), default=0)
    recent = [file for file in files if file.modified_ms > last - 1000 * seconds]
    first = min((file.modified_ms for file in recent), default=0)
    # The files of one commit are stamped within milliseconds; what the first brought was made before it.
    behind_first = [file for file in recent if file.modified_ms > first + 1000]
    return 1000 * sum(file.num_rows for file in behind_first) / (last - first) if behind_first else None


def _is_alive(run: RunRecord, now: datetime.datetime) -> bool:
    return run.heartbeat is not None and run.heartbeat.is_alive(now)
