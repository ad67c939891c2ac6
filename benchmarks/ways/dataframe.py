"""Daft: paths -> download -> decode -> a class UDF with the model -> Parquet. The decoding is the product's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import daft
import numpy as np
from daft import DataType, Series, col
from daft.functions import download

from benchmarks.ways.plain import PlainModel
from benchmarks.ways.task import Task, image_id, pixels_of
from skinvae.records import SCORES

BATCH_SIZE = 32
"""It stands in a decorator, so it is no task's to choose."""
SCORE_TYPE = DataType.struct({name: DataType.float64() for name in SCORES})


@daft.func(return_dtype=DataType.string())
def name_of(path: str) -> str:
    """image_id of a path."""
    return image_id(path)


def decoder(size: int) -> Any:
    """bytes -> uint8 (size, size, 3), a row at a time."""

    @daft.func(return_dtype=DataType.tensor(DataType.uint8(), (size, size, 3)))
    def decoded(data: bytes) -> np.ndarray:
        return pixels_of(data, size=size)

    return decoded


@daft.cls(max_concurrency=1)
class Model:
    """The plain module, built once in the process that runs it."""

    def __init__(self, task: Task) -> None:
        self._model = PlainModel(task)

    @daft.method.batch(return_dtype=SCORE_TYPE, unnest=True, batch_size=BATCH_SIZE)
    def score(self, pixels: Series) -> list[dict[str, float]]:
        stacked = np.stack([np.asarray(one) for one in pixels.to_pylist()]).astype(np.uint8, copy=False)
        columns = self._model.score(stacked)
        return [{name: float(columns[name][row]) for name in SCORES} for row in range(len(stacked))]


def run(task: Task) -> None:
    """On Daft's own runner."""
    size = task.read_bundle().config.model.image_size
    score_all(task, decoder(size))


def score_all(task: Task, pixels_from: Callable[[Any], Any]) -> None:
    """Everything but how bytes become pixels, which is an expression of theirs."""
    assert task.batch_size == BATCH_SIZE
    frame = daft.from_glob_path(f"{task.objects}/*.jpg")
    frame = frame.select(name_of(col("path")).alias("image_id"), pixels_from(download(col("path"))).alias("pixels"))
    model: Any = Model(task)  # its methods take columns, whatever their signatures say
    frame.select(col("image_id"), model.score(col("pixels"))).write_parquet(task.out)
