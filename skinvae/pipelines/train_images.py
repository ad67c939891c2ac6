"""The normals of a training run, decoded once and kept in Ray's object store as uint8."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import ray
import ray.data
from ray.data import DataContext, TaskPoolStrategy
from ray.data.dataset import MaterializedDataset

from skinvae.errors import TrainingError
from skinvae.images.archives import Member, image_id
from skinvae.images.decode import DecodeSettings
from skinvae.logs import say
from skinvae.pipelines.decoding import Unreadable, decode_slices
from skinvae.pipelines.runtime import Resources
from skinvae.pipelines.train_plan import TrainPlan


@dataclass(frozen=True)
class TrainImages:
    """The decoded normals of both sides."""

    dataset: MaterializedDataset[Any]
    """Rows of image (uint8), image_id and held_out, in archive order."""
    split: pd.DataFrame
    """records.SPLIT_SCHEMA, of the images that could be decoded."""
    num_rejected: int

    @property
    def num_train(self) -> int:
        return int((self.split["split"] == "train").sum())

    @property
    def num_validation(self) -> int:
        return int((self.split["split"] == "validation").sum())


def decode_normals(plan: TrainPlan, resources: Resources) -> TrainImages:
    """Decode what the plan names; what cannot be decoded is left out. Raises TrainingError if a side is empty then."""
    counts = plan.split["split"].value_counts()
    say(f"decoding {len(plan.split):,} normals: {counts['train']:,} to train on, {counts['validation']:,} held out")
    dataset = _decoded_dataset(plan, resources)
    decoded = dataset.select_columns(["image_id"]).to_pandas()["image_id"]
    num_rejected = len(plan.split) - decoded.nunique()
    if num_rejected:
        say(f"{num_rejected:,} normals cannot be decoded and are left out")
    split = plan.split[plan.split["image_id"].isin(decoded)].reset_index(drop=True)
    if split["split"].nunique() < 2:
        raise TrainingError("too few normal images could be decoded: `skinvae score` lists the reasons image by image")
    return TrainImages(dataset, split, num_rejected)


def _decoded_dataset(plan: TrainPlan, resources: Resources) -> MaterializedDataset[Any]:
    side_of = dict(zip(plan.split["image_id"], plan.split["split"] == "validation", strict=True))
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    with DataContext.current(context):
        decode = functools.partial(
            _decode_batch, size=plan.config.model.image_size, settings=plan.config.images, held_out_ref=ray.put(side_of)
        )
        rows = ray.data.from_items([{"part": one} for one in plan.parts], override_num_blocks=len(plan.parts))
        decoded: MaterializedDataset[Any] = rows.map_batches(
            decode, batch_size=1, compute=TaskPoolStrategy(), **resources.of_task
        ).materialize()
    return decoded


def _decode_batch(
    batch: dict[str, Any], *, size: int, settings: DecodeSettings, held_out_ref: ray.ObjectRef[dict[str, bool]]
) -> Iterator[dict[str, Any]]:
    held_out = ray.get(held_out_ref)

    def wanted(member: Member) -> bool:
        return image_id(member.name) in held_out

    for part in batch["part"]:
        # Slice by slice: a whole tar of them would not fit into a task's memory.
        for item in decode_slices(part, size=size, settings=settings, wanted=wanted):
            if isinstance(item, Unreadable):
                raise item.error
            names = [image_id(one.name) for one in item.members if one.image.pixels is not None]
            yield {
                "image": item.stacked_pixels(size=size),
                "image_id": np.array(names, dtype=object),
                "held_out": np.array([held_out[name] for name in names], dtype=bool),
            }
