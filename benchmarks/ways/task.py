"""What every way is given, and what all of them share: weights, draws, formulas and marks of what is scored."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import s3fs
from numpy.typing import NDArray

from skinvae.images.decode import DecodeSettings, decode
from skinvae.model.scorer import ScoringSettings
from skinvae.pipelines.image_scorer import Columns, ImageScorer, Placement, make_vae_scorer
from skinvae.records import SCORES
from skinvae.storage.bundle import ModelBundle, read_bundle
from skinvae.storage.filesystem import Location


@dataclass(frozen=True)
class Task:
    """Images and a model on an S3 server, which the environment names, and how to score them."""

    bundle: str
    """URI of the model."""
    archive: str
    """URI of a zip of JPEGs."""
    objects: str
    """URI of a folder with the same JPEGs as objects."""
    out: str
    """URI of a folder for the scores: one Parquet file or several, or a Delta table."""
    marks: str
    """Local file of lines 'time.monotonic() number of images', appended by whoever has scored some."""
    threads: int
    device: str = "cpu"
    batch_size: int = 32
    """Of the ways that are not skinvae."""
    num_actors: int = 0
    """Of skinvae; 0 leaves it to skinvae."""
    max_images: int | None = None
    """For ways that are too slow for all of them."""

    @property
    def scoring(self) -> ScoringSettings:
        """The paper's 15 draws in float32."""
        return ScoringSettings(precision="float32")

    def to_json(self) -> str:
        """What `parse` reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def parse(cls, text: str) -> Task:
        return cls(**json.loads(text))

    def read_bundle(self) -> ModelBundle:
        return read_bundle(Location.parse(self.bundle))

    def scorer(self) -> MarkedScorer:
        """The product's own scorer of the product's bundle."""
        import torch

        torch.set_num_threads(self.threads)
        placement = Placement(self.device, self.threads, batch_size=0, decode_batch_size=0)
        return MarkedScorer(make_vae_scorer(self.read_bundle(), self.scoring, placement), self.marks)


class MarkedScorer:
    """A scorer that marks what it has scored."""

    def __init__(self, scorer: ImageScorer, marks: str) -> None:
        self._scorer = scorer
        self._marks = marks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scorer, name)

    def score(self, images_BHWC: NDArray[np.uint8]) -> Columns:
        columns = self._scorer.score(images_BHWC)
        mark(self._marks, len(images_BHWC))
        return columns


def make_marked_scorer(
    bundle: ModelBundle, scoring: ScoringSettings, placement: Placement, *, marks: str
) -> MarkedScorer:
    """For a scoring job's `make_scorer`."""
    return MarkedScorer(make_vae_scorer(bundle, scoring, placement), marks)


def mark(path: str, num_images: int) -> None:
    """Note that so many more images are scored."""
    line = f"{time.monotonic()} {num_images}\n".encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def read_marks(path: str) -> list[tuple[float, int]]:
    """(time, number of images) of every mark, in time's order."""
    words = [line.split() for line in Path(path).read_text().splitlines()]
    return sorted((float(when), int(count)) for when, count in words)


def marks_of_job(path: str, num_images: int) -> list[tuple[float, int]]:
    """The last marks, which make up `num_images`: before them, a job may have measured its scorer's speed."""
    marks = read_marks(path)
    found: list[tuple[float, int]] = []
    while sum(count for _, count in found) < num_images and marks:
        found.insert(0, marks.pop())
    scored = sum(count for _, count in found)
    assert scored == num_images, f"marks of {scored} images, and {num_images} were scored"
    return found


def pixels_of(data: bytes, *, size: int) -> NDArray[np.uint8]:
    """The product's decoding, so that all ways score the same pixels (size, size, 3)."""
    pixels = decode(data, size=size, settings=DecodeSettings()).pixels
    assert pixels is not None
    return pixels


def image_id(path: str) -> str:
    """The file's name without folder and suffix."""
    return path.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def filesystem() -> s3fs.S3FileSystem:
    """The server's, by the environment."""
    return s3fs.S3FileSystem(use_listings_cache=False)


def write_scores(out: str, image_ids: list[str], columns: Columns) -> None:
    """One Parquet file in the folder."""
    table = pa.table({"image_id": image_ids, **{name: columns[name] for name in SCORES}})
    with filesystem().open(f"{out}/scores.parquet", "wb") as file:
        pq.write_table(table, file)


def read_scores(out: str, *, fs: s3fs.S3FileSystem) -> dict[str, NDArray[np.float64]]:
    """image_id -> the six scores, of all Parquet files that lie in the folder itself."""
    paths = [path for path in fs.ls(out, refresh=True) if path.endswith(".parquet")]
    tables = [pq.read_table(fs.open(path), columns=["image_id", *SCORES]) for path in paths]
    table = pa.concat_tables(tables, promote_options="permissive")
    scores = np.stack([table[name].to_numpy() for name in SCORES], axis=1)
    names = table["image_id"].to_pylist()
    assert len(set(names)) == len(names), f"{out}: an image has two rows"
    return dict(zip(names, scores, strict=True))
