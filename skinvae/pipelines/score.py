"""score: archives + model bundle -> score table, resumable at any point by the same command."""

from __future__ import annotations

import functools
import pickle
import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy
from ray.util.annotations import RayDeprecationWarning

from skinvae.config import Config
from skinvae.errors import InputError, Interrupted, RejectLimitExceeded, TableError
from skinvae.pipelines.committing import Committer
from skinvae.pipelines.failures import user_errors
from skinvae.pipelines.progress import say, shown_progress
from skinvae.pipelines.runtime import Resources, available_resources, ray_session
from skinvae.pipelines.score_plan import ScorePlan, count_covered, make_job, make_plan
from skinvae.pipelines.slicing import OpenedArchive, open_archives
from skinvae.pipelines.stages import ScoreStage, ScoringJob, decode_stage, slice_row, write_stage
from skinvae.records import Status
from skinvae.storage.bundle import CONFIG, SPLIT
from skinvae.storage.compaction import Part, PartFile, delete_lost_parts, swap_slices_for_parts, write_part
from skinvae.storage.filesystem import Location
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.slices import SliceFile

MAX_INPUT_BLOCKS = 2000
"""Ray tracks every block of the input; beyond this many, blocks hold several slices instead."""

MAX_ROUNDS = 5
"""Another driver with other slice borders can win some of a round's commits; what it did not cover is planned anew."""


@dataclass
class ScoreSummary:
    """What one run of `score` did, and what the table now holds of its archives."""

    table: str
    run_id: str
    scoring_id: str
    num_members: int
    num_already_done: int
    """Members that the table covered at the start."""
    num_adopted: int = 0
    """Rows that an earlier run had written, and this one committed."""
    by_status: dict[str, int] = field(default_factory=dict)
    """Images that this run scored or rejected."""
    in_table: dict[str, int] = field(default_factory=dict)
    """Rows of the command's archives that the table now holds, by status; empty after a dry run."""
    seconds: float = 0.0

    @property
    def num_images(self) -> int:
        return sum(self.by_status.values())

    @property
    def num_scored(self) -> int:
        return self.by_status.get(Status.OK.value, 0)

    @property
    def num_rejected(self) -> int:
        return self.num_images - self.num_scored

    @property
    def reject_share(self) -> float:
        """Of the command's archives as the table now holds them, whichever run wrote the rows."""
        return 1 - self.in_table.get(Status.OK.value, 0) / max(1, sum(self.in_table.values()))

    def as_dict(self) -> dict[str, Any]:
        counts = {name: getattr(self, name) for name in ("num_images", "num_scored", "num_rejected", "reject_share")}
        return asdict(self) | counts


def score(archives: Sequence[str], *, model: str, table: str, config: Config, dry_run: bool = False) -> ScoreSummary:
    """Score every image of the archives that the table does not hold yet, and commit the rows as they come.

    Raises Interrupted after committing what is done if the user or the scheduler stops the job, InputError if the
    archives hold no image at all.
    """
    job = make_job(Location.parse(model), Location.parse(table), config)
    locations = [Location.parse(archive, config.storage) for archive in archives]
    opened = open_archives(locations, max_bytes=job.decode.max_bytes)
    if dry_run:
        score_table = ScoreTable.open_if_exists(job.table)
        return _new_summary(job, opened, score_table)
    score_table = ScoreTable.open_or_create(job.table)
    _copy_model_files(job)
    summary = _new_summary(job, opened, score_table)
    committer = Committer(score_table, provenance=job.provenance, seconds=config.score.commit_seconds)
    started = time.monotonic()
    try:
        _complete(job, opened, score_table, committer, config=config)
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"interrupted: {committer.scored.total():,} images of this run are committed to '{table}'; "
            "run the same command to go on"
        ) from error
    summary.seconds = time.monotonic() - started
    summary.by_status = dict(committer.scored)
    summary.num_adopted = committer.num_adopted
    source_ids = [one.source.source_id for one in opened]
    summary.in_table = score_table.count_by_status(job.scoring_id, source_ids=source_ids)
    if not summary.in_table:
        raise InputError(f"none of the {summary.num_members:,} members of {', '.join(archives)} is an image")
    return summary


def check_reject_limit(summary: ScoreSummary, *, max_rejects: float) -> None:
    """Raises RejectLimitExceeded if a larger share of the archives' images was rejected, in this run or before."""
    if summary.in_table and summary.reject_share > max_rejects:
        num_images = sum(summary.in_table.values())
        raise RejectLimitExceeded(
            f"{num_images - summary.in_table.get(Status.OK.value, 0):,} of {num_images:,} images are rejected, more "
            f"than the share of {max_rejects:g} that score.max_rejects allows; see the column 'error' of the table"
        )


def _complete(
    job: ScoringJob, opened: list[OpenedArchive], table: ScoreTable, committer: Committer, *, config: Config
) -> None:
    """Adopt, score and commit until the table covers every member; then swap slice files for large ones."""

    def adopt_and_plan() -> ScorePlan:
        plan = make_plan(job, opened, table, slice_size=config.score.slice_size)
        committer.adopt(plan.adoptable)
        # Another driver may have covered a part of what was adoptable: what it left open is seen only now.
        return make_plan(job, opened, table, slice_size=config.score.slice_size) if plan.adoptable else plan

    plan = adopt_and_plan()
    if not plan.slices and not any(file.is_slice for file in table.live_files()):
        # A run that was killed behind its last commit may have left a large file that lost.
        delete_lost_parts(table)
        return
    with ray_session(config.ray), user_errors():
        for _ in range(MAX_ROUNDS):
            if not plan.slices:
                break
            _score_slices(job, plan, committer, config=config)
            table.reload()
            plan = adopt_and_plan()
        if count_covered(job, opened, table) != sum(one.archive.num_members for one in opened):
            raise TableError(f"other drivers kept changing '{job.table}': run the command again to score what is left")
        write_parts = functools.partial(_write_parts, job.table)
        swap_slices_for_parts(table, provenance=job.provenance, write_all=write_parts)


def _score_slices(job: ScoringJob, plan: ScorePlan, committer: Committer, *, config: Config) -> None:
    resources = available_resources(config.ray, num_actors=config.score.num_actors)
    say(f"scoring {plan.num_missing:,} members in {len(plan.slices):,} slices: {resources}")
    with shown_progress("scoring", total=plan.num_missing, unit="images", describe=_describe(committer)) as progress:
        context = DataContext.get_current().copy()
        # A slice leaves a task as soon as it is done instead of waiting for a block of 128 MiB to fill.
        context.target_max_block_size = 1
        with DataContext.current(context), warnings.catch_warnings():
            # max_restarts goes away in Ray 2.64, and 2.60 has no other way to bound restarts.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            dataset = _pipeline(job, plan, resources, config=config, progress=progress)
        try:
            for file in _polled(dataset, seconds=min(1.0, config.score.commit_seconds)):
                if file is not None:
                    committer.add(file)
                committer.flush_if_due()
        finally:
            committer.flush()


def _pipeline(job: ScoringJob, plan: ScorePlan, resources: Resources, *, config: Config, progress: Any) -> Any:
    settings = config.score
    tasks = TaskPoolStrategy()
    rows = [slice_row(one) for one in plan.slices]
    dataset: Any = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_INPUT_BLOCKS))
    dataset = dataset.map(functools.partial(decode_stage, job=job), num_cpus=resources.cpus_per_task, compute=tasks)
    dataset = dataset.map(
        ScoreStage,
        fn_constructor_kwargs={
            "job": job,
            "device": resources.device,
            "num_threads": resources.threads_per_actor,
            "batch_size": settings.batch_size,
            "decode_batch_size": settings.decode_batch_size,
            "progress": progress,
        },
        num_cpus=resources.cpus_per_actor,
        num_gpus=resources.gpus_per_actor or None,
        compute=ActorPoolStrategy(size=resources.num_actors, max_tasks_in_flight_per_actor=2),
        # Ray Data's own default restarts an actor for ever, even one that its input kills each time.
        max_restarts=3,
        max_task_retries=3,
    )
    return dataset.map(functools.partial(write_stage, job=job), num_cpus=resources.cpus_per_task, compute=tasks)


def _polled(dataset: Any, *, seconds: float) -> Iterator[SliceFile | None]:
    """The written slices as they come, and None whenever `seconds` pass without one."""
    results: queue.Queue[SliceFile | BaseException | None] = queue.Queue()

    def consume() -> None:
        try:
            for row in dataset.iter_rows():
                results.put(pickle.loads(row["file"]))
            results.put(None)
        except BaseException as error:  # noqa: BLE001 handed over to the thread that waits for the results
            results.put(error)

    threading.Thread(target=consume, daemon=True, name="score-results").start()
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


def _describe(committer: Committer) -> Callable[[dict[str, Any]], str]:
    def words(_: dict[str, Any]) -> str:
        return f"{committer.num_rejected:,} rejected" if committer.num_rejected else ""

    return words


@ray.remote(num_cpus=1)
def _write_part_task(table: Location, part: Part) -> PartFile:
    return write_part(table, part)


def _write_parts(table: Location, parts: Sequence[Part]) -> list[PartFile]:
    written: list[PartFile] = ray.get([_write_part_task.remote(table, part) for part in parts])
    return written


def _copy_model_files(job: ScoringJob) -> None:
    """Keep the model's split and config beside the scores, for evaluations after the bundle is gone."""
    for name in (SPLIT, CONFIG):
        (job.table / "_skinvae" / job.model_digest[:16] / name).create_bytes((job.model / name).read_bytes())


def _new_summary(job: ScoringJob, opened: list[OpenedArchive], table: ScoreTable | None) -> ScoreSummary:
    return ScoreSummary(
        table=job.table.uri,
        run_id=job.run_id,
        scoring_id=job.scoring_id,
        num_members=sum(one.archive.num_members for one in opened),
        num_already_done=count_covered(job, opened, table) if table else 0,
    )
