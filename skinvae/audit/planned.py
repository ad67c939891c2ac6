"""Which archives a table should hold: those of its run records, and where there are none those that its rows name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from skinvae.audit.file_check import Found, Key
from skinvae.audit.recount import ArchiveToCount
from skinvae.images.decode import DecodeSettings
from skinvae.storage.done import Done
from skinvae.storage.filesystem import Location, StorageSettings
from skinvae.storage.run_records import PlannedArchive, RunPlan, read_archives, read_runs
from skinvae.storage.slice_table import SliceTable


@dataclass(frozen=True, eq=False)
class Target:
    """An archive that is to be in the table, in one scoring or several."""

    to_count: ArchiveToCount
    planned: PlannedArchive | None
    """None where no run record names it: then nothing tells where it ends."""
    done: dict[str, Done] = field(default_factory=dict)
    """By scoring_id."""

    @property
    def uri(self) -> str:
        return self.to_count.location.uri

    @property
    def scoring_ids(self) -> list[str]:
        return sorted(self.done)

    @property
    def num_members_expected(self) -> int:
        """To be walked, as far as it is known."""
        stops = [done.members.stop for done in self.done.values()]
        declared = self.planned.num_members if self.planned is not None else None
        return max(stops) if declared is None else declared

    def num_members(self, scoring_id: str) -> int | None:
        """All members; None where that is not known."""
        if self.planned is None:
            return None
        return self.done[scoring_id].num_members(self.planned.num_members, num_bytes=self.planned.num_bytes)

    def is_complete(self, scoring_id: str) -> bool:
        """Whether every member is covered, images or not, as far as the plan tells."""
        return self.planned is None or len(self.done[scoring_id].members) == self.num_members(scoring_id)

    def progress(self, scoring_id: str) -> str:
        """'60 of 108 members'."""
        num_members = self.num_members(scoring_id)
        total = (
            "members, of a stream whose end was not reached," if num_members is None else f"of {num_members:,} members"
        )
        return f"{len(self.done[scoring_id].members):,} {total}"


def targets(
    table: SliceTable, found: Found, done: Mapping[Key, Done], *, settings: StorageSettings
) -> tuple[list[Target], list[str]]:
    """What the table should hold, by URI; and notes on rows that are left out because their archive was replaced."""
    planned = _planned(table.location)
    of_archive: dict[ArchiveToCount, Target] = {}
    for (scoring_id, _), (archive, plan) in planned.items():
        anonymous = settings.model_copy(update={"anonymous": settings.anonymous or plan.anonymous})
        to_count = ArchiveToCount(
            Location(archive.uri, anonymous), archive.source_id, archive.prepared, plan.images_column, plan.max_bytes
        )
        target = of_archive.setdefault(to_count, Target(to_count, archive))
        target.done[scoring_id] = done.get((archive.source_id, scoring_id), Done())
    known = {(archive.source_id, scoring_id) for (scoring_id, _), (archive, _) in planned.items()}
    num_old_rows = 0
    for source_id, scoring_id in sorted(set(found.rows) - known):
        uri = found.uris[source_id]
        if (scoring_id, uri) in planned:
            num_old_rows += len(found.rows[source_id, scoring_id])
            continue
        to_count = ArchiveToCount(Location(uri, settings), source_id, None, None, DecodeSettings().max_bytes)
        target = of_archive.setdefault(to_count, Target(to_count, None))
        target.done[scoring_id] = done.get((source_id, scoring_id), Done())
    notes = []
    if num_old_rows:
        notes.append(f"{num_old_rows:,} rows are of archives that were replaced, and scored again, since")
    return sorted(of_archive.values(), key=lambda one: one.uri), notes


def _planned(location: Location) -> dict[tuple[str, str], tuple[PlannedArchive, RunPlan]]:
    """By (scoring_id, URI): a later plan for the same URI takes the place of an older one."""
    plans = [run.plan for run in read_runs(location) if run.plan is not None]
    lists = read_archives(location, [plan.archives for plan in plans])
    return {(plan.scoring_id, one.uri): (one, plan) for plan in plans for one in lists[plan.archives]}
