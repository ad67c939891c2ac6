"""Run a job on archives until its table covers every member, whatever earlier runs and other drivers did of it."""

from __future__ import annotations

import functools
import pickle
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.data import DataContext, TaskPoolStrategy
from ray.data.context import AutoscalingConfig
from ray.exceptions import RayError

from skinvae.config import RaySettings
from skinvae.errors import InputError, Interrupted, TableError
from skinvae.logs import note, say, tell
from skinvae.pipelines.cluster import describe
from skinvae.pipelines.committing import Committer
from skinvae.pipelines.decoding import Unreadable
from skinvae.pipelines.failures import at_work
from skinvae.pipelines.job_metrics import JobMetrics
from skinvae.pipelines.lost_nodes import LostNodes, end_actors
from skinvae.pipelines.nodes import alive_nodes, off_the_head
from skinvae.pipelines.progress import answer_of, reported_retries, shown_progress
from skinvae.pipelines.run_recording import RunRecorder
from skinvae.pipelines.runtime import Resources, available_resources, options_of_part_task
from skinvae.pipelines.slice_job import (
    JobSummary,
    SliceJob,
    WorkPlan,
    count_members,
    done_by_source,
    make_plan,
    summarise,
)
from skinvae.pipelines.slicing import OpenedArchive
from skinvae.pipelines.stage_times import Stage
from skinvae.pipelines.stages import decode_stage, input_row, read_stage
from skinvae.pipelines.usage import Usage, measured_round
from skinvae.records import Status
from skinvae.storage.commit_protocol import NewFile, Part
from skinvae.storage.compaction import delete_expired_slices, delete_lost_parts, swap_slices_for_parts, write_part
from skinvae.storage.filesystem import Location
from skinvae.storage.retries import take_retries
from skinvae.storage.slice_ids import SliceFile
from skinvae.storage.slice_table import SliceTable
from skinvae.storage.sources import Source

MAX_INPUT_BLOCKS = 2000
"""Ray tracks every block of the input; beyond this many, blocks hold several parts instead."""

MAX_ROUNDS = 5
"""Another driver with other slice borders can win some of a round's commits; what it did not cover is planned anew."""

MAX_INIT_DEATHS = 10
"""Actors in a row that may die before they are ready."""

BUSY = 1.0
"""Slices that an actor has or will have at once, as a share of those it works at, from which another actor helps: all
of its two calls are taken. Where all have three, the pool grows by half; Ray's own 1.75 would never be reached."""

_MAX_NAMED = 5
"""Damaged archives that one message names."""

Dataset = Any
"""ray.data.Dataset, whose methods Ray leaves untyped."""

LaterStages = Callable[[Dataset, Resources, Any], Dataset]
"""What a job does behind the decoding, given the cluster's resources and the ProgressActor."""


def complete(
    job: SliceJob,
    opened: Sequence[OpenedArchive],
    table: SliceTable,
    *,
    slice_size: int,
    commit_seconds: float,
    retention_hours: float,
    images_column: str | None,
    ray_settings: RaySettings,
    verb: str,
    later_stages: LaterStages,
    num_actors: int | None = None,
) -> JobSummary:
    """Adopt, run and commit until the table covers every member; then swap slice files for large ones, and clean up.

    `num_actors` are the actors of the later stages: 0 leaves it to the cluster's size, None says there are none.
    Raises Interrupted after committing what is done if the user or the scheduler stops the job, InputError if the
    archives hold no image at all. Archives that could not be read to their ends are in the summary.
    """
    summary = summarise(job, opened, table)
    committer = Committer(table, provenance=job.provenance, seconds=commit_seconds)
    completion = _Completion(
        job,
        opened,
        committer,
        slice_size=slice_size,
        ray_settings=ray_settings,
        verb=verb,
        later_stages=later_stages,
        num_actors=num_actors,
    )
    recorder = RunRecorder(job, opened, committer, slice_size=slice_size, images_column=images_column)
    with recorder:
        try:
            completion.run()
            delete_expired_slices(table, retention_seconds=3600 * retention_hours)
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"interrupted: {committer.made.total():,} images of this run are committed to '{job.table}'; "
                "run the same command to go on"
            ) from error
        say_what_stays(table)
        summary.by_status = dict(committer.made)
        summary.seconds = time.monotonic() - job.begun
        summary.usage = completion.usage
        summary.usage.finish(
            summary.seconds, num_images=summary.num_images, commit_seconds=sum(committer.commit_seconds)
        )
        summary.num_adopted = committer.adopted.total()
        summary.num_members, _ = count_members(opened, done_by_source(job, table))
        source_ids = {one.source.source_id for one in opened}
        summary.in_table = table.count_by_status(job.scoring_id, source_ids=source_ids)
        summary.damaged = completion.damaged()
        summary.num_reattempted = completion.num_reattempted
        summary.num_retries = completion.num_retries + take_retries()
        if not summary.in_table and not summary.damaged:
            archives = ", ".join(one.source.uri for one in opened[:_MAX_NAMED])
            raise InputError(f"none of the {summary.num_members:,} members of {archives} is an image")
        recorder.message, recorder.usage = "; ".join(summary.damaged), summary.usage
    return summary


class _Completion:
    """The state of `complete`, round by round."""

    def __init__(
        self,
        job: SliceJob,
        opened: Sequence[OpenedArchive],
        committer: Committer,
        *,
        slice_size: int,
        ray_settings: RaySettings,
        verb: str,
        later_stages: LaterStages,
        num_actors: int | None,
    ) -> None:
        self._job, self._committer = job, committer
        self._metrics = JobMetrics(job, committer)
        self._opened = list(opened)
        self._table: SliceTable = committer.table
        self._slice_size, self._num_actors = slice_size, num_actors
        self._ray_settings = ray_settings
        self._verb = verb
        self._later_stages = later_stages
        self._unreadable: dict[str, InputError] = {}
        """By source_id."""
        self.num_reattempted = 0
        self.num_retries = 0
        """Of requests to storage, by workers and the driver."""
        self.usage = Usage()

    def run(self) -> None:
        """Work until nothing is missing but what cannot be read."""
        plan = self._adopt_and_plan()
        if not plan.parts and not any(file.is_slice for file in self._table.live_files()):
            # A run that was killed behind its last commit may have left a large file that lost.
            delete_lost_parts(self._table)
            return
        with at_work(self._ray_settings):
            num_rounds = 0
            while plan.parts and num_rounds < MAX_ROUNDS:
                # A round that lost nodes is no sign of another driver; each needs nodes to lose.
                num_rounds += self._run_round(plan)
                self._table.reload()
                plan = self._adopt_and_plan()
            with self.usage.measured(Stage.SWAP):
                swap_slices_for_parts(self._table, provenance=self._job.provenance, write_all=self._write_parts)
            self._count_retries(take_retries())
            self._metrics.finish(self.usage)
        if plan.parts:
            raise TableError(f"other drivers kept changing '{self._job.table}': run the command again for the rest")

    def _adopt_and_plan(self) -> WorkPlan:
        readable = [one for one in self._opened if one.source.source_id not in self._unreadable]
        plan = make_plan(self._job, readable, self._table, slice_size=self._slice_size)
        while plan.adoptable:
            self._committer.adopt(plan.adoptable)
            # Another driver may have covered a part of it, or written more: what is open is seen only now.
            plan = make_plan(self._job, readable, self._table, slice_size=self._slice_size)
        return plan

    def _run_round(self, plan: WorkPlan) -> bool:
        """False if it was ended because nodes are gone, before the end of its work."""
        resources = available_resources(self._ray_settings, num_actors=self._num_actors or 0)
        say(f"{self._verb} {describe_work(plan)}", event="round_begun", num_members=plan.num_members)
        say(f"cluster: {describe(alive_nodes(), resources, num_actors=0 if self._num_actors is None else None)}")
        expected = Expectation(plan)
        with (
            shown_progress(self._verb, total=expected, unit="images", describe=self._describe) as progress,
            self._metrics.watching(progress, expected=expected),
            measured_round(
                self.usage,
                progress,
                begun=self._job.begun,
                resources=resources,
                num_actors=0 if self._num_actors is None else resources.num_actors,
                num_streams=plan.num_streams,
            ),
        ):
            context = DataContext.get_current().copy()
            # A slice leaves a task as soon as it is done instead of waiting for a block of 128 MiB to fill.
            context.target_max_block_size = 1
            # An actor whose process is killed while it starts says nothing of the job; one kill ends it by default.
            context.max_consecutive_actor_init_deaths = MAX_INIT_DEATHS
            context.autoscaling_config = AutoscalingConfig(actor_pool_util_upscaling_threshold=BUSY)
            with DataContext.current(context):
                decoded = _decoded(self._job, plan, resources, progress)
                dataset = self._later_stages(decoded, resources, progress)
            lost_nodes = None
            if self._num_actors is not None:
                lost_nodes = LostNodes(
                    resources, run_id=self._job.run_id, settings=self._ray_settings, num_actors=self._num_actors
                )
            try:
                return self._take_results(dataset, expected, progress, lost_nodes)
            finally:
                self._committer.flush()
                self.num_reattempted += answer_of(progress.num_reattempted.remote(), otherwise=0)
                self.num_retries += reported_retries(progress)

    def _take_results(
        self, dataset: Dataset, expected: Expectation, progress: Any, lost_nodes: LostNodes | None
    ) -> bool:
        """Commit what comes in; as `_run_round`."""
        is_ended = False
        num_results = 0
        try:
            for result in _polled(dataset, seconds=self._committer.poll_seconds):
                if isinstance(result, SliceFile):
                    _tell_of_slice(result)
                    self._committer.add(result)
                    expected.add(result)
                elif result is not None:
                    self._note(result.source, result.error)
                self._committer.flush_if_due()
                num_results += result is not None
                if result is None and lost_nodes is not None and lost_nodes.is_stuck(self._seen(num_results, progress)):
                    note("nodes are lost and others have no room for their work: planning it anew", event="nodes_lost")
                    is_ended = True
                    end_actors(self._job.run_id)
        except RayError:
            if not is_ended:
                raise
        return not is_ended

    @staticmethod
    def _seen(num_results: int, progress: Any) -> tuple[int, int | None]:
        """What changes as long as something moves."""
        nothing: tuple[int | None, dict[str, Any], list[str]] = (None, {}, [])
        num_done, _, _ = answer_of(progress.state.remote(0), otherwise=nothing)
        return num_results, num_done

    def _write_parts(self, parts: Sequence[Part]) -> list[NewFile | None]:
        task = _write_part_task.options(**options_of_part_task())
        written = ray.get([task.remote(self._job.table, part) for part in parts])
        self._count_retries(sum(num_retries for _, num_retries in written))
        return [file for file, _ in written]

    def _count_retries(self, count: int) -> None:
        self.num_retries += count
        self._metrics.count_retries(count)

    def _note(self, source: Source, error: InputError) -> None:
        if source.source_id not in self._unreadable:
            self._unreadable[source.source_id] = error
            say(str(error), event="archive_damaged", source_id=source.source_id)

    def _describe(self, _: dict[str, Any]) -> str:
        rejected = f"{self._committer.num_rejected:,} rejected" if self._committer.num_rejected else ""
        unreadable = f"{len(self._unreadable)} archives damaged" if self._unreadable else ""
        return ", ".join(one for one in (rejected, unreadable) if one)

    def damaged(self) -> list[str]:
        """What is wrong with each archive that could not be read to its end, or was prepared in part only."""
        for one in self._opened:
            if one.lack is not None:
                self._note(one.source, one.lack)
        return [str(error) for error in self._unreadable.values()]


class Expectation:
    """How many members a round will have done at its end; of streams a guess, by their bytes so far."""

    def __init__(self, plan: WorkPlan) -> None:
        self._num_known = plan.num_members
        self._bytes_left = plan.num_stream_bytes
        self._members_read = self._bytes_read = 0

    def add(self, file: SliceFile) -> None:
        """A slice came in."""
        slice_id = file.slice_id
        if slice_id.byte_range is not None:
            self._members_read += slice_id.stop - slice_id.start
            self._bytes_read += slice_id.byte_range[1] - slice_id.byte_range[0]

    def __call__(self) -> int | None:
        """None as long as there is nothing to guess by."""
        if not self._bytes_left:
            return self._num_known
        if not self._bytes_read:
            return None
        return self._num_known + round(self._members_read * max(1.0, self._bytes_left / self._bytes_read))


def _tell_of_slice(file: SliceFile) -> None:
    rejected = {status: count for status, count in file.counts.items() if status != Status.OK.value}
    tell(
        f"slice written: {file.num_rows:,} rows, {sum(rejected.values()):,} rejected",
        event="slice_written",
        slice_id=str(file.slice_id),
        num_rows=file.num_rows,
        rejected=rejected,
    )


def say_what_stays(table: SliceTable) -> None:
    """Name what should have been deleted and was not allowed to be."""
    if not table.undeleted:
        return
    what = f"access denied to delete {len(table.undeleted):,} files of '{table.location}' that are not needed"
    parts = [path for path in table.undeleted if "/" not in path]
    danger = f"; readers of plain Parquet see the rows of {', '.join(parts)} twice until it is deleted" if parts else ""
    note(f"{what}, such as '{table.undeleted[0]}'{danger}")
    table.undeleted.clear()


def describe_work(plan: WorkPlan) -> str:
    """'1,200 members and 3.2 GB of tar'."""
    members = f"{plan.num_members:,} members" if plan.num_members or not plan.num_stream_bytes else ""
    streams = f"{plan.num_stream_bytes / 1e9:,.3g} GB of tar" if plan.num_stream_bytes else ""
    return " and ".join(one for one in (members, streams) if one)


def _decoded(job: SliceJob, plan: WorkPlan, resources: Resources, progress: Any) -> Dataset:
    rows = [input_row(one) for one in plan.parts]
    dataset: Dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_INPUT_BLOCKS))
    if any(one.part.is_stream for one in plan.parts):
        # Reading waits for the network: it takes no CPU from decoding, which other tasks do.
        read = functools.partial(read_stage, job=job, progress=progress)
        cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's omission
        num_readers = min(len(rows), max(1, int(cluster.get("CPU", 1))))
        dataset = dataset.flat_map(read, num_cpus=0, compute=TaskPoolStrategy(size=num_readers), **off_the_head())
    decode = functools.partial(decode_stage, job=job, progress=progress)
    return dataset.flat_map(decode, compute=TaskPoolStrategy(), **resources.of_task)


def _polled(dataset: Dataset, *, seconds: float) -> Iterator[SliceFile | Unreadable | None]:
    """What the last stage says as it comes, and None whenever `seconds` pass without anything."""
    results: queue.Queue[SliceFile | Unreadable | BaseException | None] = queue.Queue()

    def consume() -> None:
        try:
            for row in dataset.iter_rows():
                results.put(pickle.loads(row["result"]))
            results.put(None)
        except BaseException as error:  # noqa: BLE001 handed over to the thread that waits for the results
            results.put(error)

    threading.Thread(target=consume, daemon=True, name="job-results").start()
    while True:
        try:
            result = results.get(timeout=seconds)
        except queue.Empty:
            yield None
            continue
        if result is None:
            return
        if isinstance(result, BaseException):
            raise result
        yield result


@ray.remote(num_cpus=1, max_retries=10)
def _write_part_task(table: Location, part: Part) -> tuple[NewFile | None, int]:
    """The part, and what this process tried again."""
    return write_part(table, part), take_retries()
