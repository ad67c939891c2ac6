"""Daft with its own decoding and resizing, whose pixels differ from all others': for its speed alone."""

from __future__ import annotations

from daft.functions import decode_image, image_to_tensor, resize

from benchmarks.ways.dataframe import score_all
from benchmarks.ways.task import Task


def run(task: Task) -> None:
    size = task.read_bundle().config.model.image_size
    score_all(task, lambda data: image_to_tensor(resize(decode_image(data, mode="RGB"), size, size)))
