"""Error maps of the most anomalous images: a second pass over just these, into a table of their own.

Which images these are depends on all scores. So a slice holds the chosen images of its range under one selection; what
is chosen later inside of that range belongs to another.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from skinvae.config import Config, ScoreSettings
from skinvae.errors import UsageError
from skinvae.logs import say
from skinvae.metrics.highest import num_highest
from skinvae.pipelines.actor_stage import by_actors
from skinvae.pipelines.completing import Dataset, complete
from skinvae.pipelines.map_selection import Selection, num_scored, select
from skinvae.pipelines.map_stage import Chosen, MapJob, MapStage
from skinvae.pipelines.runtime import Resources
from skinvae.pipelines.scoring_job import recipe_of
from skinvae.pipelines.scoring_stages import ScoringJob
from skinvae.pipelines.slice_job import JobSummary
from skinvae.pipelines.slicing import OpenedArchive
from skinvae.storage.map_table import MapTable, maps_location
from skinvae.storage.score_table import ScoreTable

_IMAGES_PER_SLICE = 64
"""Where `score.slice_size` leaves it open: seconds of a CPU, and 140 KB of maps of 32 x 32 cells."""


@dataclass(kw_only=True)
class MapSummary:
    """What became of the maps that a job was asked for."""

    table: str
    num_chosen: int | None = None
    """Images with a score among the highest; None where a tar has still to tell how many images there are."""
    threshold_nats: float | None = None
    """The lowest vae_reconst among them in nats; None without any, and before all images are scored."""
    num_before: int = 0
    """Maps of them that were there already."""
    num_stored: int = 0
    """By this run."""
    num_rejected: int = 0
    """Images that could not be decoded again."""
    seconds: float = 0.0


def check_map_size(settings: ScoreSettings, *, image_size: int) -> None:
    """Raises UsageError for maps with more cells than the model's images have pixels."""
    if settings.maps and settings.maps_size > image_size:
        raise UsageError(
            f"score.maps_size = {settings.maps_size} is more than the {image_size} pixels a side of the model's "
            f"images: choose {image_size} or less"
        )


def plan_maps(
    job: ScoringJob,
    opened: Sequence[OpenedArchive],
    table: ScoreTable | None,
    *,
    num_left: int | None,
    settings: ScoreSettings,
) -> MapSummary:
    """What `store_maps` would do; only expected where `num_left` members (None: unknown) have to be scored before."""
    if table is not None and num_left == 0:
        return _summary(job, select(job, opened, table, settings=settings))
    summary = MapSummary(table=maps_location(job.table).uri)
    if num_left is not None:
        num_done = 0 if table is None else num_scored(job, opened, table)
        summary.num_chosen = num_highest(num_done + num_left, percent=settings.maps_percent)
    return summary


def store_maps(
    job: ScoringJob, opened: Sequence[OpenedArchive], table: ScoreTable, *, config: Config, summary: JobSummary
) -> None:
    """Make the maps that the highest scores of the archives lack, and add that to the summary.

    Raises as `completing.complete` does.
    """
    begun = time.monotonic()
    selection = select(job, opened, table, settings=config.score)
    summary.maps = maps = _summary(job, selection)
    narrowed = selection.narrowed(opened)
    if not narrowed:
        return
    assert maps.threshold_nats is not None
    say(
        f"error maps of {selection.num_missing:,} images with a vae_reconst of at least {maps.threshold_nats:,.1f} nats"
    )
    map_job = _map_job(job, selection, map_size=config.score.maps_size, begun=begun)
    num_members = sum(len(one.only or ()) for one in narrowed)
    mapped = complete(
        map_job,
        narrowed,
        MapTable.open_or_create(map_job.table),
        # In members, of which few are read: about so many images are in a slice.
        slice_size=max(1, (config.score.slice_size or _IMAGES_PER_SLICE) * num_members // selection.num_missing),
        commit_seconds=config.score.commit_seconds,
        retention_hours=config.score.retention_hours,
        images_column=config.archives.images_column,
        ray_settings=config.ray,
        verb="mapping",
        later_stages=functools.partial(_map_and_write, job=map_job, selection=selection, config=config),
        num_actors=config.score.num_actors,
    )
    maps.num_stored = mapped.num_ok + mapped.num_adopted
    maps.num_rejected = mapped.num_rejected
    maps.seconds = mapped.seconds
    summary.damaged += [one for one in mapped.damaged if one not in summary.damaged]
    summary.num_retries += mapped.num_retries
    summary.num_reattempted += mapped.num_reattempted


def _map_and_write(
    dataset: Dataset, resources: Resources, progress: Any, *, job: MapJob, selection: Selection, config: Config
) -> Dataset:
    return by_actors(
        dataset,
        MapStage,
        resources,
        job=job,
        num_actors=config.score.num_actors,
        recipe=recipe_of(job.scores, resources, settings=config.score),
        max_seconds=config.score.max_seconds,
        progress=progress,
        chosen=Chosen.keep(selection.by_source()),
    )


def _map_job(job: ScoringJob, selection: Selection, *, map_size: int, begun: float) -> MapJob:
    assert selection.threshold_nats is not None
    maps = {"map_size": map_size, "num_chosen": len(selection.rows), "threshold_nats": selection.threshold_nats}
    return MapJob(
        run_id=job.run_id,
        scoring_id=selection.selection_id,
        preparation=job.preparation,
        max_seconds=job.max_seconds,
        table=maps_location(job.table),
        provenance=job.provenance | {"maps": json.dumps(maps)},
        scores=job,
        map_size=map_size,
        threshold_nats=selection.threshold_nats,
        verb="map",
        begun=begun,
    )


def _summary(job: ScoringJob, selection: Selection) -> MapSummary:
    return MapSummary(
        table=maps_location(job.table).uri,
        num_chosen=len(selection.rows),
        threshold_nats=selection.threshold_nats,
        num_before=len(selection.rows) - selection.num_missing,
    )
