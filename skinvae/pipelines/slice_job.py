"""What a job that turns archives into a table of slices is to do, and what is left of it to do."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from skinvae.errors import ArchiveError
from skinvae.images.decode import DecodeSettings
from skinvae.pipelines.bottleneck import bottleneck_of
from skinvae.pipelines.slicing import ArchivePart, OpenedArchive, Slice, missing_parts
from skinvae.pipelines.usage import Usage
from skinvae.records import Status
from skinvae.storage.done import Done
from skinvae.storage.filesystem import Location
from skinvae.storage.pixel_table import Preparation
from skinvae.storage.ranges import Ranges
from skinvae.storage.slice_ids import SliceFile, SliceId, covered_ranges, stream_offsets
from skinvae.storage.slice_table import SliceTable
from skinvae.storage.slices import adopt_slices, slices_written

if TYPE_CHECKING:
    from skinvae.pipelines.maps import MapSummary

_MAX_NAMED = 5
"""Damaged archives that one message names."""


@dataclass(frozen=True)
class SliceJob:
    """What every stage of a job knows; small and picklable."""

    run_id: str
    scoring_id: str
    """Of all that a row depends on beside the image."""
    preparation: Preparation
    """How the originals' bytes become pixels."""
    max_seconds: float
    """To decode one image."""
    table: Location
    provenance: dict[str, str]
    verb: str = field(kw_only=True, compare=False)
    """What the job is for: score, prepare, map, or retry."""
    begun: float = field(default_factory=time.monotonic, kw_only=True, compare=False)
    """By the driver's time.monotonic()."""

    @property
    def image_size(self) -> int:
        return self.preparation.image_size

    @property
    def decode(self) -> DecodeSettings:
        """The preparation's, and how long it may take."""
        return self.preparation.decode.model_copy(update={"max_seconds": self.max_seconds})

    def slice_id(self, slice_: Slice) -> SliceId:
        """The name of the slice in the table."""
        end = slice_.end
        return SliceId(slice_.source.source_id, self.scoring_id, end.start, end.stop, end.byte_range)


@dataclass(frozen=True)
class WorkPlan:
    """What is left to do of a job's archives, seen from one snapshot of the table."""

    adoptable: list[SliceFile]
    """Slices that an earlier run wrote and did not commit."""
    parts: list[ArchivePart]
    """What nobody has read, in archive order."""
    num_members: int
    """Members in `parts`, but for streams whose end is not known."""
    num_stream_bytes: int
    """Bytes of those streams that are still to be read."""

    @property
    def num_streams(self) -> int:
        """Parts that one task each reads from front to end."""
        return sum(one.part.is_stream for one in self.parts)


@dataclass(kw_only=True)
class JobSummary:
    """What one run of a job did, and what the table now holds of its archives."""

    table: str
    run_id: str
    scoring_id: str
    num_members: int = 0
    """Of the archives, as far as it is known: a tar tells only at its end."""
    num_already_done: int = 0
    """Members that the table covered at the start."""
    num_stream_bytes: int = 0
    """Bytes of tars that were unread at the start, beside the members."""
    num_adopted: int = 0
    """Rows that an earlier run had written, and this one committed."""
    num_reattempted: int = 0
    """Slices that were begun again because the process that scored them, or a node, was lost; at least so many."""
    by_status: dict[str, int] = field(default_factory=dict)
    """Images that this run did or rejected."""
    in_table: dict[str, int] = field(default_factory=dict)
    """Rows of the command's archives that the table now holds, by status; empty after a dry run."""
    retried: dict[str, int] = field(default_factory=dict)
    """What became of rejected images that were tried again, by status."""
    maps: MapSummary | None = None
    """What became of the error maps, where they were asked for."""
    damaged: list[str] = field(default_factory=list)
    """Of each archive that could not be read to its end, what is wrong with it."""
    num_retries: int = 0
    """Requests to storage that were made again, as far as the processes that made them lived to tell."""
    seconds: float = 0.0
    """From the job's begin, and so with the opening of the archives."""
    usage: Usage = field(default_factory=Usage)
    """Where they went."""

    @property
    def num_images(self) -> int:
        return sum(self.by_status.values())

    @property
    def num_ok(self) -> int:
        return self.by_status.get(Status.OK.value, 0)

    @property
    def num_rejected(self) -> int:
        return self.num_images - self.num_ok

    @property
    def reject_share(self) -> float:
        """Of the command's archives as the table now holds them, whichever run wrote the rows."""
        return 1 - self.in_table.get(Status.OK.value, 0) / max(1, sum(self.in_table.values()))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        counts = {name: getattr(self, name) for name in ("num_images", "num_ok", "num_rejected", "reject_share")}
        bottleneck = bottleneck_of(self.usage)
        usage = self.usage.as_dict() | {"bottleneck": None if bottleneck is None else bottleneck.value}
        fields = asdict(self) | counts | usage
        del fields["usage"]
        return fields


def check_damage(summary: JobSummary) -> None:
    """Raises ArchiveError if archives could not be read to their ends, in this run; the rest is done."""
    if not summary.damaged:
        return
    if len(summary.damaged) == 1:
        raise ArchiveError(summary.damaged[0])
    named = "; ".join(one.rstrip(".") for one in summary.damaged[:_MAX_NAMED])
    more = f"; and {len(summary.damaged) - _MAX_NAMED} more" if len(summary.damaged) > _MAX_NAMED else ""
    raise ArchiveError(f"{len(summary.damaged)} archives could not be read to their ends: {named}{more}")


def summarise(job: SliceJob, opened: Sequence[OpenedArchive], table: SliceTable | None) -> JobSummary:
    """What there is to do, before anything is done."""
    done = done_by_source(job, table)
    num_members, num_done = count_members(opened, done)
    unread = sum(one.num_bytes_unread(done.get(one.source.source_id, Done())) for one in opened)
    return JobSummary(
        table=job.table.uri,
        run_id=job.run_id,
        scoring_id=job.scoring_id,
        num_members=num_members,
        num_already_done=num_done,
        num_stream_bytes=unread,
    )


def make_plan(job: SliceJob, opened: Sequence[OpenedArchive], table: SliceTable | None, *, slice_size: int) -> WorkPlan:
    """Subtract from the archives what the table covers and what an earlier run wrote; None is an empty table."""
    done = done_by_source(job, table)
    adoptable = _adoptable(job, opened, done, schema=table.schema) if table else []
    if adoptable:
        done |= _done([one.slice_id for one in adoptable], before=done)
    parts = missing_parts(opened, slice_size=slice_size, done=done)
    return WorkPlan(
        adoptable,
        parts,
        num_members=sum(one.part.num_members for one in parts),
        num_stream_bytes=sum(one.num_bytes_unread(done.get(one.source.source_id, Done())) for one in opened),
    )


def done_by_source(job: SliceJob, table: SliceTable | None) -> dict[str, Done]:
    """What the table holds of each archive, by source_id."""
    if table is None:
        return {}
    offsets = table.offsets()
    return {
        source_id: Done(ranges, offsets.get((source_id, scoring_id), {}))
        for (source_id, scoring_id), ranges in table.covered().items()
        if scoring_id == job.scoring_id
    }


def count_members(opened: Sequence[OpenedArchive], done: dict[str, Done]) -> tuple[int, int]:
    """Members of the archives, as far as they are known, and how many of them are done."""
    of_each = [(one, done.get(one.source.source_id, Done())) for one in opened]
    num_done = sum(len(its.members) for _, its in of_each)
    return sum(one.num_members(its) or its.members.stop for one, its in of_each), num_done


def _done(slice_ids: Sequence[SliceId], *, before: dict[str, Done]) -> dict[str, Done]:
    merged = {}
    offsets = stream_offsets(slice_ids)
    for (source_id, scoring_id), ranges in covered_ranges(slice_ids).items():
        earlier = before.get(source_id, Done())
        more = offsets.get((source_id, scoring_id), {})
        merged[source_id] = Done(earlier.members.union(ranges), {**earlier.offsets, **more})
    return merged


def _adoptable(
    job: SliceJob, opened: Sequence[OpenedArchive], done: dict[str, Done], *, schema: pa.Schema
) -> list[SliceFile]:
    sources = {one.source.source_id for one in opened}
    taken: dict[str, Ranges] = defaultdict(Ranges, {source_id: its.members for source_id, its in done.items()})
    found = []
    for slice_id in slices_written(job.table):
        wanted = slice_id.source_id in sources and slice_id.scoring_id == job.scoring_id
        if wanted and not taken[slice_id.source_id].intersects(slice_id.start, slice_id.stop):
            found.append(slice_id)
            taken[slice_id.source_id] = taken[slice_id.source_id].union(Ranges([(slice_id.start, slice_id.stop)]))
    return adopt_slices(job.table, found, schema=schema)
