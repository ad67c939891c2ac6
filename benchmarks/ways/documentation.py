"""Batch inference as Ray Data's documentation shows it: read_images, a map that transforms to float32, map_batches with
a class that holds the model, write_parquet."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import ray
import ray.data
import torch

from benchmarks.ways.plain import PlainModel
from benchmarks.ways.task import Task, image_id
from skinvae.model.vae import to_uint8, to_unit_range

Row = dict[str, Any]


def transform(row: Row, *, size: int) -> Row:
    """Full-size pixels -> float32 (3, size, size), resized by the kernel that torchvision and skinvae use."""
    image_CHW = torch.from_numpy(row["image"]).permute(2, 0, 1)
    resized_BCHW = torch.nn.functional.interpolate(image_CHW[None], size=(size, size), mode="bilinear", antialias=True)
    x_BCHW = to_unit_range(resized_BCHW.permute(0, 2, 3, 1)).contiguous()
    return {"image_id": image_id(row["path"]), "x": x_BCHW[0].numpy()}


class Model:
    """The plain module, built once in the actor."""

    def __init__(self, task: Task) -> None:
        self._model = PlainModel(task)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        x_BCHW = torch.from_numpy(np.array(batch["x"]))
        columns = self._model.score(to_uint8(x_BCHW).numpy())
        return {"image_id": batch["image_id"], **columns}


def run(task: Task) -> None:
    """One actor with the model; everything else as Ray Data chooses."""
    ray.init(address="local", num_cpus=task.threads, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    size = task.read_bundle().config.model.image_size
    images = ray.data.read_images(task.objects, mode="RGB", include_paths=True)
    scores = images.map(functools.partial(transform, size=size)).map_batches(
        Model,
        fn_constructor_args=(task,),
        batch_size=task.batch_size,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_gpus=1 if task.device == "cuda" else None,
    )
    scores.write_parquet(task.out)
