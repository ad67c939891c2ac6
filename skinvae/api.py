"""skinvae for notebooks and programs: load a model, score images, read a table; without Ray, in this process.

    import skinvae

    model = skinvae.load_model("out/isic/model")
    skinvae.score_images(model, ["ISIC_0024306.jpg", array, picture])
    skinvae.read_scores("s3://bucket/scores", labels="GroundTruth.csv")

What is wrong with an argument is an `errors.SkinvaeError` of one sentence. Shapes in names: N images of a batch, H
height, W width, S the model's image_size.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from pyarrow import dataset
from pydantic import ValidationError

from skinvae.errors import UsageError
from skinvae.images.archives.candidates import image_id
from skinvae.images.decode import Decoded
from skinvae.metrics.finite import reject_nonfinite
from skinvae.metrics.labelling import LABEL_SCHEMA
from skinvae.model.bounds import ScoreMode
from skinvae.model.error_map import mean_error_maps
from skinvae.model.noise import Noise
from skinvae.model.precision import Precision, lacks
from skinvae.model.scorer import BATCH_SIZES, Scorer, ScoringSettings
from skinvae.model.vae import to_uint8
from skinvae.records import SCORE_SCHEMA, SCORES, Status
from skinvae.storage.bundle import BundleConfig, ModelBundle, read_bundle
from skinvae.storage.filesystem import Location
from skinvae.storage.labels import read_labelling
from skinvae.storage.map_table import read_maps as read_maps_at
from skinvae.storage.pictures import Picture, decode_pictures
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.table_rows import reading

__all__ = ["Model", "Picture", "load_model", "read_maps", "read_scores", "score_images"]


class Model:
    """A model bundle on one device; see `load_model`."""

    def __init__(self, bundle: ModelBundle, *, device: str) -> None:
        self.bundle = bundle
        self.device = device
        """'cpu', 'cuda' or 'cuda:1'."""
        self._scorer: tuple[tuple[ScoringSettings, int], Scorer] | None = None

    def __repr__(self) -> str:
        size, normal = self.image_size, ", ".join(self.config.normal_classes)
        return f"<skinvae model {self.model_id}: {size}x{size} pixels, normal = {normal}, on {self.device}>"

    @property
    def model_id(self) -> str:
        """16 hex digits: the column `model_id` of tables."""
        return self.bundle.model_id

    @property
    def config(self) -> BundleConfig:
        """All that config.json says: network, sigma, training, data."""
        return self.bundle.config

    @property
    def image_size(self) -> int:
        """S: pixels a side of what the model sees."""
        return self.config.model.image_size

    def pixels(self, images: Picture | Iterable[Picture]) -> NDArray[np.uint8]:
        """What the model sees of the images: RGB, uint8 (N, S, S, 3). Raises UsageError if one cannot be decoded."""
        decoded = list(self._decoded(_pictures(images)))
        bad = next(((number, one) for number, one in enumerate(decoded) if one.pixels is None), None)
        if bad is not None:
            raise UsageError(f"image {bad[0]} cannot be shown: {bad[1].status}: {bad[1].error}")
        return _stacked(decoded, size=self.image_size)

    def reconstruct(self, images: Picture | Iterable[Picture]) -> NDArray[np.uint8]:
        """What the model makes of them, from the mean of each posterior: RGB, uint8 (N, S, S, 3)."""
        pixels_NSS3 = self.pixels(images)
        pieces = [np.empty((0, *pixels_NSS3.shape[1:]), np.uint8)]
        return np.concatenate(pieces + [to_uint8(m_BCHW).numpy() for _, m_BCHW in self._reconstructed(pixels_NSS3)])

    def error_map(self, images: Picture | Iterable[Picture]) -> NDArray[np.float64]:
        """Where `reconstruct` goes wrong: ||x - m(mu)||^2 / (2 sigma^2) of each pixel, in nats, (N, S, S).

        Close to the part of `vae_reconst` that depends on the image, which is of draws around the mean instead.
        """
        pixels_NSS3 = self.pixels(images)
        pieces = [np.empty((0, self.image_size, self.image_size))]
        for some_BSS3, m_BCHW in self._reconstructed(pixels_NSS3):
            pieces.append(mean_error_maps(some_BSS3, m_BCHW=m_BCHW, variance=self.config.variance))
        return np.concatenate(pieces)

    def _reconstructed(self, pixels_NSS3: NDArray[np.uint8]) -> Iterator[tuple[NDArray[np.uint8], torch.Tensor]]:
        """Batches of pixels and m(mu), float32 (B, 3, S, S) in (-1, 1)."""
        scorer = self._scorer_for(ScoringSettings(), num_images=len(pixels_NSS3))
        for start in range(0, len(pixels_NSS3), scorer.batch_size):
            some_BSS3 = pixels_NSS3[start : start + scorer.batch_size]
            yield some_BSS3, scorer.reconstruct(some_BSS3)

    def _decoded(self, pictures: Iterable[Picture]) -> Iterator[Decoded]:
        return decode_pictures(pictures, size=self.image_size, settings=self.config.decode)

    def _scorer_for(self, settings: ScoringSettings, *, num_images: int | None) -> Scorer:
        """The last one is kept. For a few images it takes smaller batches: every batch is filled up to one size."""
        batch_size = BATCH_SIZES[torch.device(self.device).type][0]
        while num_images is not None and batch_size >= 2 * max(1, num_images):
            batch_size //= 2
        key = (settings, batch_size)
        if self._scorer is None or self._scorer[0] != key:
            scorer = Scorer(
                self.bundle.build_model(),
                variance=self.config.variance,
                settings=settings,
                device=self.device,
                batch_size=batch_size,
            )
            self._scorer = key, scorer
        return self._scorer[1]


def load_model(uri: str | os.PathLike[str], *, device: str = "auto") -> Model:
    """Read the bundle that `skinvae train` wrote, from a path or s3:// URI, and verify its digests.

    `device`: 'cpu', 'cuda', 'cuda:1', or 'auto' for a GPU where there is one. Raises BundleError if there is no bundle
    or one that was altered.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in BATCH_SIZES:
        raise UsageError(f"device = '{device}': it takes auto, cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device = '{device}', but torch finds no GPU: use auto or cpu")
    return Model(read_bundle(Location.parse(os.fspath(uri))), device=device)


def score_images(
    model: Model,
    images: Picture | Iterable[Picture],
    *,
    ids: Sequence[str] | None = None,
    num_samples: int = 15,
    seed: int = 0,
    noise: Noise = "independent",
    mode: ScoreMode = "exact",
    precision: Precision = "float32",
) -> pd.DataFrame:
    """Score images as `skinvae score` does with the same settings: one row for each, in order.

    `images`: an array (N, H, W, 3) or (H, W, 3) of uint8 RGB; or any iterable of such images, images of Pillow, bytes
    of files, and paths or s3:// URIs, mixed, of any size. They are decoded and resized as a job does it; what Pillow
    decoded from a JPEG may differ from that by a level here and there. Only a batch is in memory at a time.

    `ids`: one an image, by default the file's name without folder and suffix, else its position. An image whose id is
    one that the model was trained on gets no p_value.

    `num_samples`: draws of z an image. `seed`, `noise` ('independent', 'lhs') and `mode` ('exact', 'released') as in
    the section [score] of the settings. `precision` of the decoder: a job picks bfloat16 where it is faster, a notebook
    only if it is asked to.

    Columns: image_id; status ('ok' or a reason's code) and error (the reason); width and height of the original in
    pixels; the six scores (vae, vae_reconst, vae_kl, iwae, iwae_reconst, iwae_kl) in nats, higher = more anomalous;
    ess, from 1 to num_samples; p_value, null where the held-out normals were scored with other settings than these.
    """
    settings = _settings(num_samples=num_samples, seed=seed, noise=noise, mode=mode, precision=precision)
    if (reason := lacks(torch.device(model.device), settings.precision)) is not None:
        raise UsageError(f"precision = '{precision}': {reason}")
    pictures = _pictures(images)
    num_images = len(pictures) if isinstance(pictures, Sequence) else None
    if ids is not None and num_images not in (None, len(ids)):
        raise UsageError(f"there are {num_images:,} images and {len(ids):,} ids: give one id for each image")
    scorer = model._scorer_for(settings, num_images=num_images)
    names: list[str] = []
    decoded = model._decoded(_named(pictures, names))
    pieces = iter(lambda: list(islice(decoded, scorer.batch_size)), [])
    frames = [_scored_rows(some, scorer, size=model.image_size) for some in pieces]
    frame = pd.concat(frames or [_scored_rows([], scorer, size=model.image_size)], ignore_index=True)
    if ids is not None and len(ids) != len(frame):
        raise UsageError(f"there are {len(frame):,} images and {len(ids):,} ids: give one id for each image")
    frame.insert(0, "image_id", list(map(str, names if ids is None else ids)))
    reject_nonfinite(frame, np.flatnonzero(frame["status"] == Status.OK.value))
    frame["p_value"] = model.bundle.p_values(settings)(frame)
    return frame


def read_scores(
    table: str | os.PathLike[str],
    *,
    scoring_id: str | None = None,
    columns: Sequence[str] | None = None,
    status: str | None = "ok",
    labels: str | os.PathLike[str] | None = None,
    normal: Sequence[str] = (),
) -> pd.DataFrame:
    """The rows of one scoring of a score table, from its newest snapshot, also while a job writes it.

    `scoring_id`: by default the only one; UsageError lists them where there are several. `columns`: of
    docs/score-table.md, by default all. `status`: rows with this code only; None for all.

    `labels`: CSV, Parquet or Delta table as for `skinvae evaluate`; adds the columns `label`, `is_normal` (by `normal`,
    else the classes that training called normal) and `split` ('train', 'validation' or null). Rows are never dropped
    for want of a label. Leave those with split 'train' out of what you compute.
    """
    unknown = [name for name in columns or () if name not in SCORE_SCHEMA.names]
    if unknown:
        raise UsageError(f"columns: there is no '{unknown[0]}'; there are {', '.join(SCORE_SCHEMA.names)}")
    if status is not None and status not in [one.value for one in Status]:
        raise UsageError(f"status = '{status}': there are {', '.join(Status)}, and None for all rows")
    scores = ScoreTable.open(Location.parse(os.fspath(table)))
    scores.check_schema()
    chosen = scores.choose_scoring(scoring_id)
    wanted = list(SCORE_SCHEMA.names if columns is None else columns)
    schema = pa.schema([SCORE_SCHEMA.field(name) for name in dict.fromkeys([*wanted, "image_id"])])
    only = None if status is None else dataset.field("status") == status
    with reading(scores.location):
        rows = pa.Table.from_batches(scores.batches(schema.names, scoring_id=chosen, only=only), schema)
    frame: pd.DataFrame = rows.to_pandas()
    found = frame[wanted]
    if labels is None:
        return found
    labelling = read_labelling(scores, chosen, Location.parse(os.fspath(labels)), normal=normal)
    added = labelling.columns(frame["image_id"])
    return found.assign(**{name: column.to_pandas() for name, column in zip(LABEL_SCHEMA.names, added, strict=True)})


def read_maps(
    table: str | os.PathLike[str],
    *,
    limit: int | None = None,
    scoring_id: str | None = None,
    map_size: int | None = None,
) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """The error maps that `skinvae score` stored with `score.maps`, the highest vae_reconst first, or `limit` of them.

    Returns their rows, with the columns of docs/score-table.md but for `map`, and the maps in nats a cell, (N,
    map_size, map_size). Raises TableError if there are none, UsageError where the table holds maps of several
    scorings or sizes and none is chosen.
    """
    return read_maps_at(Location.parse(os.fspath(table)), limit=limit, scoring_id=scoring_id, map_size=map_size)


def _settings(**values: Any) -> ScoringSettings:
    try:
        return ScoringSettings(**values)
    except ValidationError as error:
        problem = error.errors()[0]
        raise UsageError(f"{problem['loc'][0]} = {problem['input']!r}: {problem['msg']}") from error


def _pictures(images: Picture | Iterable[Picture]) -> Iterable[Picture]:
    """One picture as a list of one; iterables as they are, so that they may be longer than memory."""
    if isinstance(images, Image.Image | bytes | str | os.PathLike):
        return [images]
    if isinstance(images, np.ndarray):
        return [images] if images.ndim == 3 else list(images)
    return images


def _named(pictures: Iterable[Picture], names: list[str]) -> Iterator[Picture]:
    """The pictures, whose ids go to `names` as they pass."""
    for number, picture in enumerate(pictures):
        names.append(image_id(os.fspath(picture)) if isinstance(picture, str | os.PathLike) else str(number))
        yield picture


def _scored_rows(some: list[Decoded], scorer: Scorer, *, size: int) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "status": [one.status.value for one in some],
            "error": pd.array([one.error for one in some], dtype=object),
            "width": pd.array([one.width for one in some], dtype="Int32"),
            "height": pd.array([one.height for one in some], dtype="Int32"),
        }
    )
    is_ok = np.array([one.pixels is not None for one in some], bool)
    scores = scorer.score(_stacked(some, size=size)) if is_ok.any() else {}
    for name in (*SCORES, "ess"):
        frame[name] = np.nan
        frame.loc[is_ok, name] = scores.get(name, np.nan)
    return frame


def _stacked(decoded: list[Decoded], *, size: int) -> NDArray[np.uint8]:
    """The pixels of those that have some, uint8 (N, S, S, 3)."""
    pixels = [one.pixels for one in decoded if one.pixels is not None]
    return np.stack(pixels) if pixels else np.empty((0, size, size, 3), np.uint8)
