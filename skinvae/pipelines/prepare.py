"""prepare: archives -> a prepared archive, the pixels decoded and resized once; resumable by the same command."""

from __future__ import annotations

import datetime
import functools
import json
import pickle
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
from ray.data import TaskPoolStrategy

from skinvae.config import Config
from skinvae.images.decode import PREPROCESSING_VERSION
from skinvae.logs import begin_run
from skinvae.pipelines.completing import Dataset, complete
from skinvae.pipelines.decoding import Unreadable
from skinvae.pipelines.progress import report_retries, report_seconds
from skinvae.pipelines.provenance import library_versions, new_run_id
from skinvae.pipelines.runtime import Resources
from skinvae.pipelines.slice_job import JobSummary, SliceJob, summarise
from skinvae.pipelines.slicing import open_archives
from skinvae.pipelines.stage_times import Stage, StageClock
from skinvae.pipelines.stages import Row, SliceHead, image_columns, opened_row, table_of
from skinvae.records import PIXEL_SCHEMA, Status
from skinvae.storage.filesystem import Location
from skinvae.storage.pixel_table import PixelTable, Preparation, write_preparation, write_sources
from skinvae.storage.slices import write_slice


def prepare(archives: Sequence[str], *, out: str, config: Config, dry_run: bool = False) -> JobSummary:
    """Decode and resize every image of the archives that `out` does not hold yet, and keep its pixels.

    Raises as `completing.complete` does, and UsageError if `out` was begun with other settings; see also
    `slice_job.check_damage`.
    """
    preparation = Preparation(
        image_size=config.model.image_size, preprocessing_version=PREPROCESSING_VERSION, decode=config.images
    )
    job = _make_job(
        preparation, Location.parse(out, config.storage.with_credentials), max_seconds=config.images.max_seconds
    )
    begin_run(job.run_id, scoring_id=job.scoring_id)
    opened = open_archives(archives, config=config, preparation=preparation)
    if dry_run:
        return summarise(job, opened, PixelTable.open_if_exists(job.table))
    write_preparation(job.table, preparation)
    table = PixelTable.open_or_create(job.table)
    write_sources(job.table, [(one.source, one.archive.num_members) for one in opened])
    return complete(
        job,
        opened,
        table,
        slice_size=config.prepare.slice_size,
        commit_seconds=config.prepare.commit_seconds,
        retention_hours=config.prepare.retention_hours,
        images_column=config.archives.images_column,
        ray_settings=config.ray,
        verb="preparing",
        later_stages=functools.partial(_keep_pixels, job=job),
    )


def pixels_stage(row: Row, *, job: SliceJob, progress: Any) -> Row:
    """Create the Parquet file of a decoded slice, or adopt the one that an earlier attempt left."""
    head, pixels = opened_row(row, size=job.image_size)
    if isinstance(head, Unreadable):
        return {"result": row["head"]}
    slice_id = str(job.slice_id(head.slice))
    progress.begin.remote(slice_id)
    clock = StageClock()
    with clock.measured(Stage.WRITE):
        kept = iter(pixels)
        frame = image_columns(head)
        frame["pixels"] = pd.Series(
            [next(kept).tobytes() if ok else None for ok in frame["status"] == Status.OK.value], dtype=object
        )
        file = write_slice(job.table, job.slice_id(head.slice), _rows(frame, head, job), provenance=job.provenance)
    report_retries(progress)
    report_seconds(progress, clock.take())
    progress.advance_slice.remote(slice_id, head.slice.num_members)
    progress.end.remote(slice_id)
    return {"result": pickle.dumps(file)}


def _rows(frame: pd.DataFrame, head: SliceHead, job: SliceJob) -> pa.Table:
    frame["preparation_id"] = job.scoring_id
    frame["slice_id"] = str(job.slice_id(head.slice))
    frame["run_id"] = job.run_id
    frame["prepared_at"] = datetime.datetime.now(datetime.timezone.utc)
    return table_of(frame, schema=PIXEL_SCHEMA)


def _keep_pixels(dataset: Dataset, resources: Resources, progress: Any, *, job: SliceJob) -> Dataset:
    keep = functools.partial(pixels_stage, job=job, progress=progress)
    return dataset.map(keep, compute=TaskPoolStrategy(), **resources.of_task)


def _make_job(preparation: Preparation, table: Location, *, max_seconds: float) -> SliceJob:
    provenance = {
        "preparation": preparation.model_dump_json(),
        "preparation_id": preparation.digest,
        "versions": json.dumps(library_versions()),
    }
    return SliceJob(
        run_id=new_run_id(),
        scoring_id=preparation.digest,
        preparation=preparation,
        max_seconds=max_seconds,
        table=table,
        provenance=provenance,
        verb="prepare",
    )
