"""The stage of a scoring job behind the decoding, one row per slice: uint8 pixels -> scores -> a file of the table."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray

from skinvae.metrics.finite import reject_nonfinite
from skinvae.metrics.p_values import PValues
from skinvae.model.scorer import ScoringSettings
from skinvae.pipelines.actor_stage import ActorStage
from skinvae.pipelines.bisection import NUM_DEATHS_ALONE, Death
from skinvae.pipelines.deadline import deadline
from skinvae.pipelines.image_scorer import Columns, ImageScorer, ScorerRecipe, fatal_errors_end_the_process
from skinvae.pipelines.isolated_scoring import score_isolated
from skinvae.pipelines.slice_job import SliceJob
from skinvae.pipelines.slicing import Slice
from skinvae.pipelines.stages import SliceHead, image_columns, table_of
from skinvae.records import SCORE_SCHEMA, SCORES, Status
from skinvae.storage.filesystem import Location


@dataclass(frozen=True)
class ScoringJob(SliceJob):
    """A job whose rows are scores."""

    model: Location
    model_digest: str
    scoring: ScoringSettings


MAX_DEATHS = 2
"""Of the process that scores a slice. Then the slice is scored in isolation, where the image to blame is found."""


class ScoreStage(ActorStage):
    """The scoring actor: scores decoded slices, in isolation where that keeps ending its process."""

    def __init__(self, *, job: ScoringJob, recipe: ScorerRecipe, max_seconds: float, progress: Any) -> None:
        super().__init__(job=job, recipe=recipe, max_seconds=max_seconds, progress=progress)
        self._job = job

    @functools.cached_property
    def _p_values(self) -> PValues:
        return self._bundle.p_values(self._job.scoring)

    @functools.cached_property
    def _scorer(self) -> ImageScorer:
        bundle = self._bundle
        with self._clock.loading():
            return self._recipe.build(bundle)

    def _made(self, head: SliceHead, pixels: NDArray[np.uint8]) -> pa.Table:
        num_begun = self._begun(head, num_images=len(pixels))
        scored = _SliceScores(len(pixels), self._progress, str(self._job.slice_id(head.slice)))
        if num_begun <= MAX_DEATHS:
            self._score(pixels, scored)
        else:
            self._score_isolated(pixels, scored)
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
    return table_of(frame, schema=SCORE_SCHEMA)
