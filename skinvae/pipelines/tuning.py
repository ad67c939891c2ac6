"""What a job leaves open is settled by one of its machines before the work is cut: the precision and the slice size."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError, RayTaskError

from skinvae.errors import UsageError
from skinvae.model.precision import Precision, fastest_precision, lacks
from skinvae.pipelines.image_scorer import ScorerRecipe
from skinvae.pipelines.progress import say
from skinvae.pipelines.runtime import Resources

SLICE_SECONDS = 4.0
"""Of scoring in a slice: long beside what a slice costs (12 ms), short beside a night."""

MAX_SLICE_SIZE = 1024
"""Pixels of 48 MB at 128x128; larger slices would not be cheaper."""

SLICES_PER_ACTOR = 4
"""At least, so that the actors end at about the same time."""

MIN_SLICE_SIZE = 16

NOT_WORTH_MEASURING = 256
"""Images that are cut without knowing the speed: to find out would take about as long as to score them."""

UNMEASURED_SLICE_SIZE = 256
"""Where the speed is not to be had."""

_MEASURED_SECONDS = 1.0


def precision_of_actors(asked: Precision | None, resources: Resources) -> Precision:
    """What was asked for, if the machines of the actors are able to; None asks for what they are fastest at.

    Raises UsageError.
    """
    task = _task(_settle_precision, resources)
    precision, lack = ray.get(task.remote(asked, resources.device))
    if lack is not None:
        raise UsageError(lack)
    chosen: Precision = precision
    return chosen


def measured_slice_size(recipe: ScorerRecipe, resources: Resources, *, image_size: int, num_members: int | None) -> int:
    """A slice size by the speed of one actor; `num_members` are still to be scored, None if that is not known."""
    if num_members is not None and num_members <= NOT_WORTH_MEASURING:
        return max(MIN_SLICE_SIZE, -(-num_members // (SLICES_PER_ACTOR * resources.num_actors)))
    try:
        rate, batch_size = ray.get(_task(_measure_speed, resources).remote(recipe, image_size))
    except RayTaskError:
        raise
    except RayError:
        # What ended the process will end an actor's too, which knows what to do about it.
        return UNMEASURED_SLICE_SIZE
    size = choose_slice_size(rate, batch_size=batch_size, num_members=num_members, num_actors=resources.num_actors)
    say(f"an actor scores {rate:,.0f} images/s in {recipe.scoring.precision}: slices of {size:,} images")
    return size


def choose_slice_size(rate: float, *, batch_size: int, num_members: int | None, num_actors: int) -> int:
    """As many images as one actor scores in SLICE_SECONDS at `rate` images/s, in whole batches."""
    most: float = MAX_SLICE_SIZE
    if num_members is not None:
        most = min(most, num_members / (SLICES_PER_ACTOR * num_actors))
    images = min(rate * SLICE_SECONDS, most)
    return min(MAX_SLICE_SIZE, max(MIN_SLICE_SIZE, batch_size, int(images // batch_size) * batch_size))


def _task(function: Any, resources: Resources) -> Any:
    """Run where an actor would run."""
    remote: Any = ray.remote(max_retries=1)(function)
    return remote.options(num_cpus=resources.cpus_per_actor, num_gpus=resources.gpus_per_actor)


def _settle_precision(asked: Precision | None, device_name: str) -> tuple[Precision, str | None]:
    device = torch.device(device_name)
    precision = asked or fastest_precision(device)
    return precision, lacks(device, precision)


def _measure_speed(recipe: ScorerRecipe, image_size: int) -> tuple[float, int]:
    scorer = recipe.build(recipe.read_bundle())
    size = scorer.batch_size
    images = np.random.default_rng(0).integers(0, 256, (size, image_size, image_size, 3), dtype=np.uint8)
    scorer.score(images)  # the first call is slower: libraries choose their kernels
    started, num_images = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < _MEASURED_SECONDS:
        scorer.score(images)
        num_images += size
    return num_images / seconds, scorer.batch_size
