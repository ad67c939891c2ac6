"""The stage of a map job behind the decoding, one row per slice: uint8 pixels -> error maps -> a slice file."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray

from skinvae.model.error_map import ErrorMapper
from skinvae.pipelines.actor_stage import ActorStage
from skinvae.pipelines.deadline import deadline
from skinvae.pipelines.image_scorer import ScorerRecipe, fatal_errors_end_the_process
from skinvae.pipelines.scoring_stages import ScoringJob
from skinvae.pipelines.slice_job import SliceJob
from skinvae.pipelines.stages import SliceHead, image_columns, table_of
from skinvae.records import MAP_SCHEMA, Status
from skinvae.storage.map_table import packed


@dataclass(frozen=True)
class MapJob(SliceJob):
    """A job whose rows are error maps; its scoring_id is what their table calls selection_id."""

    scores: ScoringJob
    map_size: int
    threshold_nats: float
    """The lowest vae_reconst that was chosen, in nats."""


@dataclass(frozen=True)
class ChosenMembers:
    """The chosen images of one archive."""

    members: NDArray[np.int64]
    """Ascending."""
    vae_reconst: NDArray[np.float64]

    def scores_of(self, members: NDArray[np.int64]) -> NDArray[np.float64]:
        """vae_reconst of some of the members."""
        return self.vae_reconst[np.searchsorted(self.members, members)]


@dataclass(frozen=True)
class Chosen:
    """The chosen images by source_id, kept once for all actors of a node."""

    reference: ray.ObjectRef[dict[str, ChosenMembers]]

    @staticmethod
    def keep(by_source: Mapping[str, ChosenMembers]) -> Chosen:
        """Needs Ray at work."""
        return Chosen(ray.put(dict(by_source)))

    def by_source(self) -> dict[str, ChosenMembers]:
        found: dict[str, ChosenMembers] = ray.get(self.reference)
        return found


class MapStage(ActorStage):
    """The mapping actor."""

    def __init__(self, *, job: MapJob, recipe: ScorerRecipe, max_seconds: float, progress: Any, chosen: Chosen) -> None:
        super().__init__(job=job, recipe=recipe, max_seconds=max_seconds, progress=progress)
        self._job = job
        self._chosen = chosen.by_source()

    @functools.cached_property
    def _mapper(self) -> ErrorMapper:
        bundle, placement = self._bundle, self._recipe.placement
        with self._clock.loading():
            torch.set_num_threads(placement.num_threads)
            return ErrorMapper(
                bundle.build_model(),
                variance=bundle.config.variance,
                settings=self._recipe.scoring,
                device=placement.device,
                decode_batch_size=placement.decode_batch_size,
            )

    def _made(self, head: SliceHead, pixels: NDArray[np.uint8]) -> pa.Table:
        self._begun(head, num_images=len(pixels))
        slice_id = str(self._job.slice_id(head.slice))
        pieces = [np.empty((0, self._job.map_size, self._job.map_size))]
        with fatal_errors_end_the_process():
            for start in range(0, len(pixels), self._mapper.batch_size):
                batch = pixels[start : start + self._mapper.batch_size]
                with deadline(seconds=self._max_seconds):
                    pieces.append(self._mapper.maps(batch, size=self._job.map_size))
                self._progress.advance_slice.remote(slice_id, len(batch))
        return self._rows(head, np.concatenate(pieces))

    def _rows(self, head: SliceHead, maps_BSS: NDArray[np.float64]) -> pa.Table:
        frame = image_columns(head)
        mapped = np.flatnonzero(frame["status"] == Status.OK.value)
        is_finite = np.isfinite(maps_BSS).all((1, 2))
        frame.loc[mapped[~is_finite], "status"] = Status.NONFINITE.value
        frame.loc[mapped[~is_finite], "error"] = "the model's error map of this image is not finite"
        maps, nats = packed(maps_BSS[is_finite])
        frame["map"] = pd.Series(maps, index=mapped[is_finite], dtype=object).reindex(frame.index)
        frame["map_nats"] = pd.Series(nats, index=mapped[is_finite], dtype=float).reindex(frame.index)
        its = self._chosen[head.slice.source.source_id]
        frame["vae_reconst"] = its.scores_of(frame["member_index"].to_numpy(np.int64))
        frame["map_size"] = self._job.map_size
        frame["threshold_nats"] = self._job.threshold_nats
        frame["model_id"] = self._bundle.model_id
        frame["scoring_id"] = self._job.scores.scoring_id
        frame["selection_id"] = self._job.scoring_id
        frame["slice_id"] = str(self._job.slice_id(head.slice))
        frame["run_id"] = self._job.run_id
        frame["made_at"] = datetime.datetime.now(datetime.timezone.utc)
        return table_of(frame, schema=MAP_SCHEMA)
