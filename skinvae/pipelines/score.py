"""score: archives + model bundle -> score table, resumable at any point by the same command."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import pickle
import queue
import secrets
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy
from ray.util.annotations import RayDeprecationWarning

from skinvae.config import Config
from skinvae.errors import Interrupted, RejectLimitExceeded, TableError
from skinvae.model.noise import NOISE_KIND
from skinvae.model.scorer import ScoringSettings
from skinvae.pipelines.failures import user_errors
from skinvae.pipelines.progress import say, shown_progress
from skinvae.pipelines.provenance import library_versions
from skinvae.pipelines.runtime import Resources, available_resources, ray_session
from skinvae.pipelines.slicing import OpenedArchive, Slice, open_archives, plan_slices
from skinvae.pipelines.stages import ScoreStage, ScoringJob, decode_stage, slice_row, write_stage
from skinvae.records import Status
from skinvae.storage.bundle import CONFIG, SPLIT, read_bundle_config, require_same_preprocessing
from skinvae.storage.compaction import Part, PartFile, swap_slices_for_parts, write_part
from skinvae.storage.filesystem import Location
from skinvae.storage.ranges import Ranges
from skinvae.storage.score_table import Coverage, ScoreTable, covered_ranges
from skinvae.storage.slices import SliceFile, adopt_slice, slices_written
from skinvae.storage.sources import Source

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
    """Members that the table, or slice files left by an earlier run, covered at the start."""
    num_images: int = 0
    """Images that this run added, by any status."""
    by_status: dict[str, int] = field(default_factory=dict)
    in_table: dict[str, int] = field(default_factory=dict)
    """Rows of the command's archives that the table now holds, by status; empty after a dry run."""
    num_adopted: int = 0
    """Slices that an earlier run had written and not committed."""
    seconds: float = 0.0
    num_parts: int = 0

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
        return asdict(self) | {"num_scored": self.num_scored, "num_rejected": self.num_rejected}


@dataclass(frozen=True)
class ScorePlan:
    """What is to be done, and what the table covers already."""

    job: ScoringJob
    opened: list[OpenedArchive]
    adoptable: list[SliceFile]
    slices: list[Slice]
    num_members: int

    @property
    def num_missing(self) -> int:
        return sum(one.num_members for one in self.slices)


def score(archives: Sequence[str], *, model: str, table: str, config: Config, dry_run: bool = False) -> ScoreSummary:
    """Score every image of the archives that the table does not hold yet, and commit the rows as they come.

    Raises Interrupted after committing what is done if the user or the scheduler stops the job.
    """
    job = _make_job(Location.parse(model), Location.parse(table), config)
    locations = [Location.parse(archive, config.storage) for archive in archives]
    opened = open_archives(locations, max_bytes=job.decode.max_bytes)
    if dry_run:
        plan = make_plan(job, opened, _existing_table(job.table), slice_size=config.score.slice_size)
        return _new_summary(plan)
    score_table = ScoreTable.open_or_create(job.table)
    _copy_model_files(job)
    plan = make_plan(job, opened, score_table, slice_size=config.score.slice_size)
    summary = _new_summary(plan)
    started = time.monotonic()
    try:
        _run(plan, score_table, summary, config=config)
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"interrupted: {summary.num_images:,} images are committed to '{table}'; run the same command to go on"
        ) from error
    finally:
        summary.seconds = time.monotonic() - started
    source_ids = [one.source.source_id for one in opened]
    summary.in_table = score_table.count_by_status(job.scoring_id, source_ids=source_ids)
    return summary


def check_reject_limit(summary: ScoreSummary, *, max_rejects: float) -> None:
    """Raises RejectLimitExceeded if a larger share of the archives' images was rejected, in this run or before."""
    if summary.in_table and summary.reject_share > max_rejects:
        num_images = sum(summary.in_table.values())
        raise RejectLimitExceeded(
            f"{num_images - summary.in_table.get(Status.OK.value, 0):,} of {num_images:,} images are rejected, more "
            f"than the share of {max_rejects:g} that score.max_rejects allows; see the column 'error' of the table"
        )


def make_plan(job: ScoringJob, opened: list[OpenedArchive], table: ScoreTable | None, *, slice_size: int) -> ScorePlan:
    """Subtract what the table covers, and what an earlier run wrote without committing it, from the archives."""
    covered: Coverage = dict(table.covered()) if table else {}
    adoptable = _adoptable(job, opened, covered) if table else []
    for key, ranges in covered_ranges(one.slice_id for one in adoptable).items():
        covered[key] = covered.get(key, Ranges()).union(ranges)

    def covered_of(source: Source) -> Ranges:
        return covered.get((source.source_id, job.scoring_id), Ranges())

    slices = plan_slices(opened, slice_size=slice_size, covered=covered_of)
    return ScorePlan(job, opened, adoptable, slices, sum(one.archive.num_members for one in opened))


def _adoptable(job: ScoringJob, opened: list[OpenedArchive], covered: Coverage) -> list[SliceFile]:
    keys = {(one.source.source_id, job.scoring_id) for one in opened}
    found = []
    taken = dict(covered)
    for slice_id in slices_written(job.table):
        key = (slice_id.source_id, slice_id.scoring_id)
        if key in keys and not taken.get(key, Ranges()).intersects(slice_id.start, slice_id.stop):
            found.append(adopt_slice(job.table, slice_id))
            taken[key] = taken.get(key, Ranges()).union(Ranges([(slice_id.start, slice_id.stop)]))
    return found


def _run(plan: ScorePlan, table: ScoreTable, summary: ScoreSummary, *, config: Config) -> None:
    job = plan.job
    committer = Committer(table, summary, provenance=job.provenance, seconds=config.score.commit_seconds)
    committer.add(plan.adoptable)
    committer.flush()
    summary.num_adopted = len(plan.adoptable)
    if not plan.slices and not any(file.is_slice for file in table.live_files()):
        return
    with ray_session(config.ray), user_errors():
        for _ in range(MAX_ROUNDS):
            if plan.slices:
                _score_slices(plan, committer, config=config)
            table.reload()
            plan = make_plan(job, plan.opened, table, slice_size=config.score.slice_size)
            if not plan.slices:
                break
        else:
            raise TableError(f"other drivers kept changing '{job.table}': run the command again to score what is left")
        summary.num_parts = swap_slices_for_parts(
            table, provenance=job.provenance, write_all=functools.partial(_write_parts, job.table)
        )


def _score_slices(plan: ScorePlan, committer: Committer, *, config: Config) -> None:
    resources = available_resources(config.ray, num_actors=config.score.num_actors)
    say(f"scoring {plan.num_missing:,} members in {len(plan.slices):,} slices: {resources}")
    with shown_progress("scoring", total=plan.num_missing, unit="images", describe=_describe(committer)) as progress:
        context = DataContext.get_current().copy()
        # A slice leaves a task as soon as it is done instead of waiting for a block of 128 MiB to fill.
        context.target_max_block_size = 1
        with DataContext.current(context), warnings.catch_warnings():
            # max_restarts goes away in Ray 2.64, and 2.60 has no other way to bound restarts.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            dataset = _pipeline(plan, resources, config=config, progress=progress)
        try:
            for file in _polled(dataset, seconds=min(1.0, config.score.commit_seconds)):
                committer.add([file] if file else [])
                committer.flush_if_due()
        finally:
            committer.flush()


def _pipeline(plan: ScorePlan, resources: Resources, *, config: Config, progress: Any) -> Any:
    job, settings = plan.job, config.score
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


class Committer:
    """Collects written slices and commits them to the table every few seconds."""

    def __init__(self, table: ScoreTable, summary: ScoreSummary, *, provenance: dict[str, str], seconds: float) -> None:
        self._table = table
        self._summary = summary
        self._provenance = provenance
        self._seconds = seconds
        self._pending: list[SliceFile] = []
        self._last_commit = time.monotonic()
        self._counts: Counter[str] = Counter()

    @property
    def num_rejected(self) -> int:
        return self._counts.total() - self._counts[Status.OK.value]

    def add(self, files: Sequence[SliceFile]) -> None:
        self._pending += files

    def flush_if_due(self) -> None:
        if self._pending and time.monotonic() - self._last_commit >= self._seconds:
            self.flush()

    def flush(self) -> None:
        """Commit all that is pending; what another driver committed first is not counted as ours."""
        if not self._pending:
            return
        added = self._table.commit_slices(self._pending, provenance=self._provenance)
        self._pending = []
        self._last_commit = time.monotonic()
        for file in added:
            self._counts.update(file.counts)
        self._summary.by_status = dict(self._counts)
        self._summary.num_images = self._counts.total()


def _describe(committer: Committer) -> Any:
    def words(_: dict[str, Any]) -> str:
        return f"{committer.num_rejected:,} rejected" if committer.num_rejected else ""

    return words


@ray.remote(num_cpus=1)
def _write_part_task(table: Location, part: Part) -> PartFile:
    return write_part(table, part)


def _write_parts(table: Location, parts: Sequence[Part]) -> list[PartFile]:
    written: list[PartFile] = ray.get([_write_part_task.remote(table, part) for part in parts])
    return written


def _make_job(model: Location, table: Location, config: Config) -> ScoringJob:
    bundle, digest = read_bundle_config(model)
    require_same_preprocessing(model, bundle)
    scoring = config.score.scoring
    scoring_id = make_scoring_id(digest, bundle.preprocessing_version, scoring)
    now = datetime.datetime.now(datetime.timezone.utc)
    run_id = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    provenance = {
        "model_digest": digest,
        "scoring_id": scoring_id,
        "scoring": scoring.model_dump_json(),
        "preprocessing_version": bundle.preprocessing_version,
        "versions": json.dumps(library_versions()),
    }
    return ScoringJob(
        run_id=run_id,
        model=model,
        model_digest=digest,
        scoring_id=scoring_id,
        scoring=scoring,
        image_size=bundle.model.image_size,
        decode=bundle.decode,
        table=table,
        provenance=provenance,
    )


def make_scoring_id(model_digest: str, preprocessing_version: str, scoring: ScoringSettings) -> str:
    """16 hex digits that stand for all that a score depends on beside the pixels."""
    described = json.dumps([model_digest, preprocessing_version, NOISE_KIND, scoring.model_dump()], sort_keys=True)
    return hashlib.blake2b(described.encode(), digest_size=8).hexdigest()


def _copy_model_files(job: ScoringJob) -> None:
    """Keep the model's split and config beside the scores, for evaluations after the bundle is gone."""
    for name in (SPLIT, CONFIG):
        (job.table / "_skinvae" / job.model_digest[:16] / name).create_bytes((job.model / name).read_bytes())


def _existing_table(location: Location) -> ScoreTable | None:
    return ScoreTable.open(location) if (location / "_delta_log").exists() else None


def _new_summary(plan: ScorePlan) -> ScoreSummary:
    return ScoreSummary(
        table=plan.job.table.uri,
        run_id=plan.job.run_id,
        scoring_id=plan.job.scoring_id,
        num_members=plan.num_members,
        num_already_done=plan.num_members - plan.num_missing,
    )
