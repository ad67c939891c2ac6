"""Try rejected images again and put what becomes of them in the place of their rows, in one commit.

What is scored again is gathered in a table of its own below `_retries/`, made as any score table is, so that a stopped
retry goes on where it was. Then every large file with such rows is rewritten, and all of them are swapped at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from skinvae.config import RaySettings
from skinvae.errors import InputError, UsageError
from skinvae.logs import note
from skinvae.pipelines.completing import say_what_stays
from skinvae.pipelines.failures import at_work
from skinvae.pipelines.runtime import options_of_part_task
from skinvae.pipelines.scoring_stages import ScoringJob
from skinvae.pipelines.slice_job import JobSummary
from skinvae.pipelines.slicing import OpenedArchive
from skinvae.records import SCORE_SCHEMA, Status
from skinvae.storage.commit_protocol import NewFile
from skinvae.storage.compaction import replace_parts, rewrite_part
from skinvae.storage.filesystem import Location
from skinvae.storage.ranges import Ranges
from skinvae.storage.score_table import ScoreTable

_FOLDER = "_retries"

_BRIDGED = 8
"""Images that are scored once more, and not used, rather than to begin another slice behind them."""

CompleteTable = Callable[[ScoringJob, Sequence[OpenedArchive], ScoreTable], JobSummary]


@dataclass(frozen=True)
class _Rejected:
    """The rows to be tried again of one large file."""

    path: str
    members: dict[str, Ranges]
    """By source_id."""


def parse_statuses(text: str) -> frozenset[str]:
    """'timeout,crashed' as status codes. Raises UsageError for one that no rejected image has."""
    known = [status.value for status in Status if status is not Status.OK]
    statuses = frozenset(one.strip() for one in text.split(","))
    if unknown := sorted(statuses - set(known)):
        raise UsageError(f"--retry: '{unknown[0]}' is no reason for rejecting an image; there are {', '.join(known)}")
    return statuses


def retry(
    job: ScoringJob,
    opened: Sequence[OpenedArchive],
    table: ScoreTable,
    *,
    statuses: Collection[str],
    limits: Sequence[float],
    ray_settings: RaySettings,
    complete_table: CompleteTable,
    summary: JobSummary,
) -> None:
    """Score the archives' images with these status codes again, replace their rows, and add that to the summary.

    `table` must be complete and swapped: the rows are looked for in large files. `complete_table` scores what a table
    lacks of archives, under the `limits`. Where another driver did the same at the same time, nothing is left to do.
    """
    source_ids = {one.source.source_id for one in opened}
    paths = _files_with(statuses, job, table, source_ids)
    if not paths:
        return
    try:
        with at_work(ray_settings):
            _retry_files(paths, job, opened, table, statuses, limits, complete_table, summary)
    except InputError:
        table.reload()
        if set(paths) <= {file.path for file in table.live_files()}:
            raise
        note("another driver has replaced these rows meanwhile")
    say_what_stays(table)
    summary.in_table = table.count_by_status(job.scoring_id, source_ids=source_ids)


def _retry_files(
    paths: Sequence[str],
    job: ScoringJob,
    opened: Sequence[OpenedArchive],
    table: ScoreTable,
    statuses: Collection[str],
    limits: Sequence[float],
    complete_table: CompleteTable,
    summary: JobSummary,
) -> None:
    source_ids = {one.source.source_id for one in opened}
    found: list[_Rejected] = ray.get([_find_rejected.remote(job, path, statuses, source_ids) for path in paths])
    revision = _revision(job, paths, statuses, limits)
    staged = ScoreTable.open_or_create(job.table / _FOLDER / revision)
    its_job = dataclasses.replace(job, table=staged.location, verb="retry", begun=time.monotonic())
    scored = complete_table(its_job, _only(opened, found), staged)
    summary.damaged += [one for one in scored.damaged if one not in summary.damaged]
    summary.num_retries += scored.num_retries
    summary.num_reattempted += scored.num_reattempted
    summary.usage.add(scored.usage)

    def rewrite_all(chosen: Sequence[str]) -> list[NewFile | None]:
        task = _rewrite_part.options(**options_of_part_task())
        tasks = [task.remote(job, path, staged.location, revision, statuses) for path in chosen]
        written: list[NewFile | None] = ray.get(tasks)
        return written

    replaced = replace_parts(table, paths, provenance=job.provenance, rewrite_all=rewrite_all)
    summary.retried = dict(_what_became([one for one in found if one.path in replaced], staged))
    table.delete_folder(f"{_FOLDER}/{revision}")


def _files_with(
    statuses: Collection[str], job: ScoringJob, table: ScoreTable, source_ids: Collection[str]
) -> list[str]:
    """The large files that hold such rows, by what their footers say."""
    return [
        file.path
        for file in table.live_files()
        if not file.is_slice
        and any(
            one.scoring_id == job.scoring_id
            and one.source_id in source_ids
            and not its.counts.keys().isdisjoint(statuses)
            for one, its in table.contents_in_part(file).items()
        )
    ]


@ray.remote(num_cpus=1, max_retries=10)
def _find_rejected(job: ScoringJob, path: str, statuses: Collection[str], source_ids: Collection[str]) -> _Rejected:
    columns = ["source_id", "scoring_id", "member_index", "status"]
    frame = pq.read_table(pa.BufferReader((job.table / path).read_bytes()), columns=columns).to_pandas()
    chosen = frame[
        frame["status"].isin(statuses) & frame["source_id"].isin(source_ids) & (frame["scoring_id"] == job.scoring_id)
    ]
    by_source = chosen.groupby("source_id")["member_index"]
    return _Rejected(path, {str(source): Ranges((index, index + 1) for index in its) for source, its in by_source})


@ray.remote(num_cpus=1, max_retries=10)
def _rewrite_part(
    job: ScoringJob, path: str, staged: Location, revision: str, statuses: Collection[str]
) -> NewFile | None:
    rows = ScoreTable.open(staged).read(SCORE_SCHEMA.names)
    return rewrite_part(job.table, path, revision=revision, rows=rows, statuses=statuses, provenance=job.provenance)


def _revision(job: ScoringJob, paths: Sequence[str], statuses: Collection[str], limits: Sequence[float]) -> str:
    """Names this retry of these very rows: the same command, run again after a fault, goes on with it.

    With other limits it is another one, for they decide what becomes of the images.
    """
    described = "\n".join([job.scoring_id, *map(str, limits), *sorted(statuses), *sorted(paths)])
    return hashlib.blake2b(described.encode(), digest_size=8).hexdigest()


def _only(opened: Sequence[OpenedArchive], found: Sequence[_Rejected]) -> list[OpenedArchive]:
    """The archives that have such rows, narrowed to them."""
    narrowed = []
    for one in opened:
        ranges = [pair for rejected in found for pair in rejected.members.get(one.source.source_id, ())]
        if ranges:
            narrowed.append(dataclasses.replace(one, only=Ranges(ranges).bridged(_BRIDGED)))
    return narrowed


def _what_became(found: Sequence[_Rejected], staged: ScoreTable) -> Counter[str]:
    frame = staged.read(["source_id", "member_index", "status"]).to_pandas()
    became: Counter[str] = Counter()
    for source_id, its in frame.groupby("source_id"):
        wanted = Ranges(pair for one in found for pair in one.members.get(str(source_id), ()))
        became.update(its["status"][[wanted.intersects(index, index + 1) for index in its["member_index"]]])
    return became
