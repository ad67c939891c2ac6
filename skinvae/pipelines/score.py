"""score: archives + model bundle -> score table, resumable at any point by the same command."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Sequence
from typing import Any

from skinvae.config import Config
from skinvae.errors import RejectLimitExceeded
from skinvae.logs import begin_run
from skinvae.pipelines.actor_stage import by_actors
from skinvae.pipelines.completing import Dataset, complete
from skinvae.pipelines.failures import at_work
from skinvae.pipelines.image_scorer import MakeScorer, make_vae_scorer
from skinvae.pipelines.maps import plan_maps, store_maps
from skinvae.pipelines.retrying import retry
from skinvae.pipelines.runtime import Resources, available_resources
from skinvae.pipelines.scoring_command import open_scoring
from skinvae.pipelines.scoring_job import recipe_of
from skinvae.pipelines.scoring_stages import ScoreStage, ScoringJob
from skinvae.pipelines.slice_job import JobSummary, summarise
from skinvae.pipelines.slicing import OpenedArchive
from skinvae.pipelines.tuning import UNMEASURED_SLICE_SIZE, measured_slice_size, precision_of_actors
from skinvae.records import Status
from skinvae.storage.bundle import CONFIG, SPLIT
from skinvae.storage.score_table import ScoreTable


def score(
    archives: Sequence[str],
    *,
    model: str,
    table: str,
    config: Config,
    retry_statuses: Collection[str] = (),
    dry_run: bool = False,
    make_scorer: MakeScorer = make_vae_scorer,
) -> JobSummary:
    """Score every image of the archives that the table does not hold yet, and commit the rows as they come.

    Then score again the rejected images whose status codes are in `retry_statuses`, and replace their rows; and with
    `score.maps` store error maps of the highest scores.
    `make_scorer` builds the scorer in each actor, by default the bundle's VAE; it must be picklable.
    Raises as `completing.complete` does; see also `check_damage` and `check_reject_limit`.
    """
    command = open_scoring(archives, model=model, table=table, config=config, make_table=not dry_run)
    opened, score_table = command.opened, command.table
    if dry_run:
        job = command.job_from_here()
        summary = summarise(job, opened, score_table)
        if config.score.maps:
            num_left = _num_left(job, opened, score_table)
            summary.maps = plan_maps(job, opened, score_table, num_left=num_left, settings=config.score)
        return summary
    assert score_table is not None
    asked = command.asked_precision
    with contextlib.ExitStack() as session:
        if asked is None or (
            asked in ("tf32", "bfloat16") and _num_left(command.job_in(asked), opened, score_table) != 0
        ):
            session.enter_context(at_work(config.ray))
            asked = precision_of_actors(asked, _resources(config))
        job = command.job_in(asked)
        begin_run(job.run_id, scoring_id=job.scoring_id)
        _copy_model_files(job)
        slice_size = config.score.slice_size or UNMEASURED_SLICE_SIZE
        num_left = _num_left(job, opened, score_table)
        if not config.score.slice_size and num_left != 0:
            session.enter_context(at_work(config.ray))
            slice_size = _measured_slice_size(job, num_left, config=config, make_scorer=make_scorer)
        complete_table = functools.partial(_complete, config=config, slice_size=slice_size, make_scorer=make_scorer)
        summary = complete_table(job, opened, score_table)
        if retry_statuses:
            retry(
                job,
                opened,
                score_table,
                statuses=retry_statuses,
                limits=(config.images.max_seconds, config.score.max_seconds),
                ray_settings=config.ray,
                complete_table=complete_table,
                summary=summary,
            )
        if config.score.maps:
            store_maps(job, opened, score_table, config=config, summary=summary)
    return summary


def _num_left(job: ScoringJob, opened: Sequence[OpenedArchive], table: ScoreTable | None) -> int | None:
    """Members that the table does not cover; None where a stream does not tell."""
    summary = summarise(job, opened, table)
    return None if summary.num_stream_bytes else summary.num_members - summary.num_already_done


def _measured_slice_size(job: ScoringJob, num_left: int | None, *, config: Config, make_scorer: MakeScorer) -> int:
    resources = _resources(config)
    return measured_slice_size(
        recipe_of(job, resources, settings=config.score, make_scorer=make_scorer),
        resources,
        image_size=job.image_size,
        num_members=num_left,
        max_seconds=config.score.max_seconds,
    )


def _resources(config: Config) -> Resources:
    return available_resources(config.ray, num_actors=config.score.num_actors)


def _complete(
    job: ScoringJob,
    opened: Sequence[OpenedArchive],
    table: ScoreTable,
    *,
    config: Config,
    slice_size: int,
    make_scorer: MakeScorer,
) -> JobSummary:
    return complete(
        job,
        opened,
        table,
        slice_size=slice_size,
        commit_seconds=config.score.commit_seconds,
        retention_hours=config.score.retention_hours,
        images_column=config.archives.images_column,
        ray_settings=config.ray,
        verb="scoring",
        later_stages=functools.partial(score_and_write, job=job, config=config, make_scorer=make_scorer),
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


def score_and_write(
    dataset: Dataset,
    resources: Resources,
    progress: Any,
    *,
    job: ScoringJob,
    config: Config,
    make_scorer: MakeScorer = make_vae_scorer,
) -> Dataset:
    """The `later_stages` of a scoring job: decoded slices -> scores -> files of the table, by actors."""
    return by_actors(
        dataset,
        ScoreStage,
        resources,
        job=job,
        num_actors=config.score.num_actors,
        recipe=recipe_of(job, resources, settings=config.score, make_scorer=make_scorer),
        max_seconds=config.score.max_seconds,
        progress=progress,
    )


def _copy_model_files(job: ScoringJob) -> None:
    """Keep the model's split and config beside the scores, for evaluations after the bundle is gone."""
    for name in (SPLIT, CONFIG):
        (job.table / "_skinvae" / job.model_digest[:16] / name).create_bytes((job.model / name).read_bytes())
