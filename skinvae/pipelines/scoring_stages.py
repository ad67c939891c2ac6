"""The stages of a scoring job behind the decoding, one row per slice: uint8 pixels -> scores -> a file of the table."""

from __future__ import annotations

import datetime
import functools
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray

from skinvae.errors import BundleError
from skinvae.metrics.join import SAME_SCORE_TOLERANCE
from skinvae.model.noise import NOISE_KIND
from skinvae.model.scorer import Scorer, ScoringSettings
from skinvae.pipelines.decoding import Unreadable
from skinvae.pipelines.slice_job import SliceJob
from skinvae.pipelines.slicing import Slice
from skinvae.pipelines.stages import Row, SliceHead, image_columns, opened_row
from skinvae.records import SCORE_SCHEMA, SCORES, Status
from skinvae.storage.bundle import ModelBundle, read_bundle
from skinvae.storage.filesystem import Location
from skinvae.storage.slices import write_slice

Columns = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class ScoringJob(SliceJob):
    """A job whose rows are scores."""

    model: Location
    model_digest: str
    scoring: ScoringSettings


class ScoreStage:
    """The scoring actor: loads the bundle once, then turns decoded slices into rows of the score table."""

    def __init__(
        self,
        *,
        job: ScoringJob,
        device: str,
        num_threads: int,
        batch_size: int,
        decode_batch_size: int,
        progress: Any,
    ) -> None:
        torch.set_num_threads(num_threads)
        self._job = job
        self._progress = progress
        self._device = device
        self._batch_size = batch_size
        self._decode_batch_size = decode_batch_size

    @functools.cached_property
    def _bundle(self) -> ModelBundle:
        """Loaded with the first slice: an error here reaches the driver whole, one in a constructor only as text."""
        bundle = read_bundle(self._job.model)
        if bundle.digest != self._job.model_digest:
            raise BundleError(f"'{self._job.model}' was replaced while the job ran: run the command again")
        return bundle

    @functools.cached_property
    def _p_values(self) -> PValues:
        return PValues(self._bundle, scoring=self._job.scoring)

    @functools.cached_property
    def _scorer(self) -> Scorer:
        return Scorer(
            self._bundle.build_model(),
            variance=self._bundle.config.beta,
            settings=self._job.scoring,
            device=self._device,
            batch_size=self._batch_size,
            decode_batch_size=self._decode_batch_size,
        )

    def __call__(self, row: Row) -> Row:
        head, pixels = opened_row(row, size=self._job.image_size)
        if isinstance(head, Unreadable):
            return {"head": row["head"], "rows": b""}
        # Rejected images and members that are no images need no scoring: they are done.
        self._progress.advance.remote(head.slice.num_members - len(pixels))
        rows = self._rows(head, self._score(pixels))
        return {"head": pickle.dumps(head.slice), "rows": _to_ipc(rows)}

    def _score(self, pixels: NDArray[np.uint8]) -> Columns:
        step = self._scorer.batch_size
        pieces = [self._scorer.score(pixels[:0])]
        for start in range(0, len(pixels), step):
            pieces.append(self._scorer.score(pixels[start : start + step]))
            self._progress.advance.remote(len(pixels[start : start + step]))
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in (*SCORES, "ess")}

    def _rows(self, head: SliceHead, scores: Columns) -> pa.Table:
        frame = image_columns(head)
        scored = np.flatnonzero(frame["status"] == Status.OK.value)
        for name, values in scores.items():
            frame[name] = np.nan
            frame.loc[scored, name] = values
        _reject_nonfinite(frame, scored)
        frame["p_value"] = self._p_values(frame)
        return _with_job_columns(frame, head.slice, self._job, model_id=self._bundle.model_id)


class PValues:
    """P(S >= s) for the score vae_reconst, by its rank among the bundle's held-out normals."""

    def __init__(self, bundle: ModelBundle, *, scoring: ScoringSettings) -> None:
        comparable = bundle.config.calibration == scoring and len(bundle.calibration) > 0
        self._normals = np.sort(bundle.calibration["vae_reconst"].to_numpy()) if comparable else None
        self._trained_on = frozenset(bundle.split.loc[bundle.split["split"] == "train", "image_id"])

    def __call__(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """(1 + number of normals with a score >= s) / (1 + number of normals), never below 1/(n+1).

        NaN where there is no score, where the model was trained on the image, and where the normals were scored
        with other settings than these.
        """
        if self._normals is None:
            return np.full(len(frame), np.nan)
        scores = frame["vae_reconst"].to_numpy()
        # The same picture in another batch differs in the last digits, and must have the same rank.
        lowest = scores - SAME_SCORE_TOLERANCE * np.abs(scores)
        at_least = len(self._normals) - np.searchsorted(self._normals, lowest, side="left")
        p_values = (1 + at_least) / (1 + len(self._normals))
        return np.where(np.isnan(scores) | frame["image_id"].isin(self._trained_on), np.nan, p_values)


def write_stage(row: Row, *, job: SliceJob) -> Row:
    """Create the slice's Parquet file, or adopt the one that an earlier attempt left."""
    head: Slice | Unreadable = pickle.loads(row["head"])
    if isinstance(head, Unreadable):
        return {"result": row["head"]}
    rows = pa.ipc.open_stream(row["rows"]).read_all()
    return {"result": pickle.dumps(write_slice(job.table, job.slice_id(head), rows, provenance=job.provenance))}


def _reject_nonfinite(frame: pd.DataFrame, scored: NDArray[np.intp]) -> None:
    names = [*SCORES, "ess"]
    bad = scored[~np.isfinite(frame.loc[scored, names].to_numpy()).all(axis=1)]
    frame.loc[bad, names] = np.nan
    frame.loc[bad, "status"] = Status.NONFINITE.value
    frame.loc[bad, "error"] = "the model's scores of this image are not finite"


def _with_job_columns(frame: pd.DataFrame, slice_: Slice, job: ScoringJob, *, model_id: str) -> pa.Table:
    frame["num_samples"] = job.scoring.num_samples
    frame["seed"] = job.scoring.seed
    frame["score_mode"] = job.scoring.mode
    frame["noise"] = NOISE_KIND
    frame["precision"] = job.scoring.precision
    frame["model_id"] = model_id
    frame["scoring_id"] = job.scoring_id
    frame["slice_id"] = str(job.slice_id(slice_))
    frame["run_id"] = job.run_id
    frame["scored_at"] = datetime.datetime.now(datetime.timezone.utc)
    # from_pandas: NaN in a score column is how pandas says null.
    columns = [pa.Array.from_pandas(frame[field.name], type=field.type) for field in SCORE_SCHEMA]
    return pa.Table.from_arrays(columns, schema=SCORE_SCHEMA)


def _to_ipc(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())
