"""A PyTorch DataLoader loop: worker processes read the zip by ranges and decode, the main process scores."""

from __future__ import annotations

import zipfile
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from benchmarks.ways.plain import PlainModel
from benchmarks.ways.task import Task, filesystem, image_id, pixels_of, write_scores
from skinvae.pipelines.image_scorer import Columns
from skinvae.records import SCORES

Item = tuple[str, NDArray[np.uint8]]


class Scorer(Protocol):
    """Pixels -> scores."""

    def score(self, images_BHWC: NDArray[np.uint8]) -> Columns: ...


class ZippedImages(Dataset[Item]):
    """The members of a zip on S3, decoded. Each worker opens the zip for itself."""

    def __init__(self, uri: str, *, size: int, max_images: int | None) -> None:
        self._uri = uri
        self._size = size
        self._zip: zipfile.ZipFile | None = None
        with zipfile.ZipFile(filesystem().open(uri)) as archive:
            self._names = [name for name in archive.namelist() if name.endswith(".jpg")][:max_images]

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Item:
        if self._zip is None:
            self._zip = zipfile.ZipFile(filesystem().open(self._uri))
        name = self._names[index]
        return image_id(name), pixels_of(self._zip.read(name), size=self._size)


def collate(items: list[Item]) -> tuple[list[str], NDArray[np.uint8]]:
    """Names and (B, H, W, 3)."""
    names, pixels = zip(*items, strict=True)
    return list(names), np.stack(pixels)


def run(task: Task) -> None:
    score_all(task, PlainModel(task))


def score_all(task: Task, scorer: Scorer) -> None:
    """As many workers as cores; scores in one file at the end."""
    size = task.read_bundle().config.model.image_size
    images = ZippedImages(task.archive, size=size, max_images=task.max_images)
    loader = DataLoader(
        images,
        batch_size=task.batch_size,
        num_workers=task.threads,
        collate_fn=collate,
        multiprocessing_context="forkserver",  # a fork has s3fs's locks, and not the thread that would open them
    )
    names: list[str] = []
    pieces = []
    for some, pixels in loader:
        pieces.append(scorer.score(pixels))
        names += some
    write_scores(task.out, names, {name: np.concatenate([piece[name] for piece in pieces]) for name in SCORES})
