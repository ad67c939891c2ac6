"""score: archives + model bundle -> score table, resumable at any point by the same command."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Collection, Sequence
from typing import Any

from ray.data import ActorPoolStrategy, TaskPoolStrategy
from ray.util.annotations import RayDeprecationWarning

from skinvae.config import Config
from skinvae.errors import RejectLimitExceeded
from skinvae.pipelines.completing import Dataset, complete
from skinvae.pipelines.retrying import retry
from skinvae.pipelines.runtime import Resources
from skinvae.pipelines.scoring_job import make_job
from skinvae.pipelines.scoring_stages import ScoreStage, ScoringJob, write_stage
from skinvae.pipelines.slice_job import JobSummary, summarise
from skinvae.pipelines.slicing import OpenedArchive, open_archives
from skinvae.records import Status
from skinvae.storage.bundle import CONFIG, SPLIT
from skinvae.storage.filesystem import Location
from skinvae.storage.score_table import ScoreTable


def score(
    archives: Sequence[str],
    *,
    model: str,
    table: str,
    config: Config,
    retry_statuses: Collection[str] = (),
    dry_run: bool = False,
) -> JobSummary:
    """Score every image of the archives that the table does not hold yet, and commit the rows as they come.

    Then score again the rejected images whose status codes are in `retry_statuses`, and replace their rows.
    Raises as `completing.complete` does; see also `check_damage` and `check_reject_limit`.
    """
    job = make_job(Location.parse(model), Location.parse(table), config)
    opened = open_archives(archives, config=config, preparation=job.preparation)
    if dry_run:
        return summarise(job, opened, ScoreTable.open_if_exists(job.table))
    score_table = ScoreTable.open_or_create(job.table)
    _copy_model_files(job)
    summary = _complete(job, opened, score_table, config=config)
    if retry_statuses:
        summary.retried = retry(
            job,
            opened,
            score_table,
            statuses=retry_statuses,
            ray_settings=config.ray,
            complete_table=functools.partial(_complete, config=config),
        )
        source_ids = {one.source.source_id for one in opened}
        summary.in_table = score_table.count_by_status(job.scoring_id, source_ids=source_ids)
    return summary


def _complete(job: ScoringJob, opened: Sequence[OpenedArchive], table: ScoreTable, *, config: Config) -> JobSummary:
    return complete(
        job,
        opened,
        table,
        slice_size=config.score.slice_size,
        commit_seconds=config.score.commit_seconds,
        retention_hours=config.score.retention_hours,
        images_column=config.archives.images_column,
        ray_settings=config.ray,
        verb="scoring",
        later_stages=functools.partial(_score_and_write, job=job, config=config),
        num_actors=config.score.num_actors,
    )


def check_reject_limit(summary: JobSummary, *, max_rejects: float) -> None:
    """Raises RejectLimitExceeded if a larger share of the archives' images was rejected, in this run or before."""
    if summary.in_table and summary.reject_share > max_rejects:
        num_images = sum(summary.in_table.values())
        raise RejectLimitExceeded(
            f"{num_images - summary.in_table.get(Status.OK.value, 0):,} of {num_images:,} images are rejected, more "
            f"than the share of {max_rejects:g} that score.max_rejects allows; see the column 'error' of the table"
        )


def _score_and_write(
    dataset: Dataset, resources: Resources, progress: Any, *, job: ScoringJob, config: Config
) -> Dataset:
    settings = config.score
    with warnings.catch_warnings():
        # max_restarts goes away in Ray 2.64, and 2.60 has no other way to bound restarts.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        scored = dataset.map(
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
    write = functools.partial(write_stage, job=job)
    return scored.map(write, num_cpus=resources.cpus_per_task, compute=TaskPoolStrategy())


def _copy_model_files(job: ScoringJob) -> None:
    """Keep the model's split and config beside the scores, for evaluations after the bundle is gone."""
    for name in (SPLIT, CONFIG):
        (job.table / "_skinvae" / job.model_digest[:16] / name).create_bytes((job.model / name).read_bytes())
