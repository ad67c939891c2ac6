"""A limit: the scorer on pixels that lie in memory."""

from __future__ import annotations

import zipfile

import numpy as np

from benchmarks.ways.task import Task, filesystem, pixels_of


def run(task: Task) -> None:
    scorer = task.scorer()
    size = task.read_bundle().config.model.image_size
    with zipfile.ZipFile(filesystem().open(task.archive)) as archive:
        pixels = np.stack([pixels_of(archive.read(name), size=size) for name in archive.namelist()])
    for start in range(0, len(pixels), scorer.batch_size):
        scorer.score(pixels[start : start + scorer.batch_size])
