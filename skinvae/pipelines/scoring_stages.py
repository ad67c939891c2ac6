"""The stage of a scoring job behind the decoding, one row per slice: uint8 pixels -> scores -> a file of the table."""

from __future__ import annotations

import datetime
import functools
import pickle
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray

from skinvae.errors import JobError
from skinvae.metrics.finite import reject_nonfinite
from skinvae.metrics.p_values import PValues
from skinvae.model.scorer import ScoringSettings
from skinvae.pipelines.bisection import NUM_DEATHS_ALONE, Death
from skinvae.pipelines.deadline import arm_deadlines, deadline
from skinvae.pipelines.decoding import Unreadable
from skinvae.pipelines.image_scorer import Columns, ImageScorer, ScorerRecipe, fatal_errors_end_the_process
from skinvae.pipelines.isolated_scoring import score_isolated
from skinvae.pipelines.progress import answer_of, report_retries, report_seconds
from skinvae.pipelines.slice_job import SliceJob
from skinvae.pipelines.slicing import Slice
from skinvae.pipelines.stage_times import ActorClock
from skinvae.pipelines.stages import Row, SliceHead, image_columns, opened_row
from skinvae.records import SCORE_SCHEMA, SCORES, Status
from skinvae.storage.bundle import ModelBundle
from skinvae.storage.filesystem import Location
from skinvae.storage.slices import write_slice


@dataclass(frozen=True)
class ScoringJob(SliceJob):
    """A job whose rows are scores."""

    model: Location
    model_digest: str
    scoring: ScoringSettings


MAX_DEATHS = 2
"""Of the process that scores a slice. Then the slice is scored in isolation, where the image to blame is found."""

MAX_ATTEMPTS = 20
"""At one slice. A process that ends even while it only watches over the isolation has a reason that is no image's."""


CALLS_AT_ONCE = 2
"""Of one actor: while a slice is written, the next one is scored. So no more than two slices are scored in vain when
the actor or the driver dies, however slow storage is."""


class ScoreStage:
    """The scoring actor: loads the bundle once, then scores decoded slices and writes their rows.

    Its process may die at any time: Ray starts it again for ever, and the ProgressActor counts, slice by slice, how
    often that was in vain.
    """

    def __init__(self, *, job: ScoringJob, recipe: ScorerRecipe, max_seconds: float, progress: Any) -> None:
        arm_deadlines()
        self._job = job
        self._recipe = recipe
        self._max_seconds = max_seconds
        self._progress = progress
        self._scoring = threading.Lock()
        self._clock = ActorClock(num_writes_at_once=CALLS_AT_ONCE)

    @functools.cached_property
    def _bundle(self) -> ModelBundle:
        """Loaded with the first slice: an error here reaches the driver whole, one in a constructor only as text."""
        with self._clock.loading():
            return self._recipe.read_bundle()

    @functools.cached_property
    def _p_values(self) -> PValues:
        return self._bundle.p_values(self._job.scoring)

    @functools.cached_property
    def _scorer(self) -> ImageScorer:
        bundle = self._bundle
        with self._clock.loading():
            return self._recipe.build(bundle)

    def __call__(self, row: Row) -> Row:
        head, pixels = opened_row(row, size=self._job.image_size)
        if isinstance(head, Unreadable):
            return {"result": row["head"]}
        with self._scoring, self._clock.scoring():
            rows = self._scored(head, pixels)
        slice_id = self._job.slice_id(head.slice)
        with self._clock.writing():
            file = write_slice(self._job.table, slice_id, rows, provenance=self._job.provenance)
        self._progress.end.remote(str(slice_id))
        report_retries(self._progress)
        report_seconds(self._progress, self._clock.take())
        return {"result": pickle.dumps(file)}

    def _scored(self, head: SliceHead, pixels: NDArray[np.uint8]) -> pa.Table:
        slice_id = str(self._job.slice_id(head.slice))
        # Rejected images and members that are no images need no scoring: they are done.
        num_done = head.slice.num_members - len(pixels)
        num_begun = answer_of(self._progress.begin.remote(slice_id, num_done), otherwise=1)
        scored = _SliceScores(len(pixels), self._progress, slice_id)
        if num_begun <= MAX_DEATHS:
            self._score(pixels, scored)
        elif num_begun <= MAX_ATTEMPTS:
            self._score_isolated(pixels, scored)
        else:
            raise JobError(
                f"the process that scores the members {head.slice.end.start:,} to {head.slice.end.stop - 1:,} of "
                f"'{head.slice.source.uri}' was lost {MAX_ATTEMPTS} times: see that the nodes have memory enough, then "
                "run the same command again"
            )
        return self._rows(head, scored)

    def _score(self, pixels: NDArray[np.uint8], scored: _SliceScores) -> None:
        start = 0
        with fatal_errors_end_the_process():
            while start < len(pixels):
                batch = np.arange(start, min(start + self._scorer.batch_size, len(pixels)))
                with deadline(seconds=self._max_seconds):
                    columns = self._scorer.score(pixels[batch])
                scored.add(batch, columns)
                start += len(batch)

    def _score_isolated(self, pixels: NDArray[np.uint8], scored: _SliceScores) -> None:
        self.__dict__.pop("_scorer", None)  # the fresh process needs the GPU's memory
        if self._recipe.placement.device != "cpu":
            torch.cuda.empty_cache()
        scored.killers = score_isolated(
            pixels, recipe=self._recipe, max_seconds=self._max_seconds, on_scored=scored.add
        )

    def _rows(self, head: SliceHead, scores: _SliceScores) -> pa.Table:
        frame = image_columns(head)
        scored = np.flatnonzero(frame["status"] == Status.OK.value)
        for name, values in scores.columns.items():
            frame[name] = np.nan
            frame.loc[scored, name] = values
        killers = np.array(sorted(scores.killers), np.intp)
        _reject_killers(frame, {int(scored[index]): scores.killers[index] for index in killers})
        reject_nonfinite(frame, np.delete(scored, killers))
        frame["p_value"] = self._p_values(frame)
        return _with_job_columns(frame, head.slice, self._job, model_id=self._bundle.model_id)


class _SliceScores:
    """The scores of one slice's images as they come in, batch by batch."""

    def __init__(self, num_images: int, progress: Any, slice_id: str) -> None:
        self.columns: Columns = {name: np.full(num_images, np.nan) for name in (*SCORES, "ess")}
        self.killers: dict[int, Death] = {}
        """The images that cannot be scored, by position."""
        self._progress = progress
        self._slice_id = slice_id

    def add(self, images: NDArray[np.intp], columns: Columns) -> None:
        for name, values in self.columns.items():
            values[images] = columns[name]
        self._progress.advance_slice.remote(self._slice_id, len(images))


def _reject_killers(frame: pd.DataFrame, killers: Mapping[int, Death]) -> None:
    for row, death in killers.items():
        frame.loc[row, "status"] = (Status.TIMEOUT if death.is_overdue else Status.CRASHED).value
        frame.loc[row, "error"] = (
            death.reason
            if death.is_overdue
            else f"scoring it, alone, ended the process with {death.reason}, {NUM_DEATHS_ALONE} times"
        )


def _with_job_columns(frame: pd.DataFrame, slice_: Slice, job: ScoringJob, *, model_id: str) -> pa.Table:
    frame["num_samples"] = job.scoring.num_samples
    frame["seed"] = job.scoring.seed
    frame["score_mode"] = job.scoring.mode
    frame["noise"] = job.scoring.noise
    frame["precision"] = job.scoring.precision
    frame["model_id"] = model_id
    frame["scoring_id"] = job.scoring_id
    frame["slice_id"] = str(job.slice_id(slice_))
    frame["run_id"] = job.run_id
    frame["scored_at"] = datetime.datetime.now(datetime.timezone.utc)
    # from_pandas: NaN in a score column is how pandas says null.
    columns = [pa.Array.from_pandas(frame[field.name], type=field.type) for field in SCORE_SCHEMA]
    return pa.Table.from_arrays(columns, schema=SCORE_SCHEMA)
