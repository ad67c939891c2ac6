"""What a job leaves open is settled by one of its machines before the work is cut: the precision and the slice size."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError, RayTaskError

from skinvae.errors import JobError, UsageError
from skinvae.logs import note, say
from skinvae.model.precision import Precision, emulates, fastest_precision, lacks
from skinvae.pipelines.deadline import arm_deadlines, deadline
from skinvae.pipelines.image_scorer import ScorerRecipe, fatal_errors_end_the_process
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

MEASURED_SECONDS = 1.0
"""Of scoring, to know the speed."""

_ROOM_SECONDS = 300.0
"""That a machine may take to have room and to answer."""

_MANY = 10
"""images/s below which digits behind the point matter."""


def precision_of_actors(asked: Precision | None, resources: Resources) -> Precision:
    """What was asked for, or what the table was begun in, if the machines of the actors are able to; None asks for what
    they are fastest at.

    Raises UsageError where they are not able to, JobError where none of them has room.
    """
    asking = _task(_settle_precision, resources).remote(asked, resources.device)
    try:
        settled = ray.get(asking, timeout=_ROOM_SECONDS)
    except ray.exceptions.GetTimeoutError as error:
        ray.cancel(asking, force=True)
        raise JobError(
            f"within {_ROOM_SECONDS / 60:.0f} minutes no machine of the cluster had room for {resources}: see what "
            "else runs there, then run the same command again"
        ) from error
    precision, lack, is_slow = settled
    if lack is not None:
        raise UsageError(lack)
    if is_slow:
        note(
            f"scoring goes on in {precision}, for which these machines have no units: it will be slow; "
            "score.precision=float32 makes a scoring of its own"
        )
    chosen: Precision = precision
    return chosen


def measured_slice_size(
    recipe: ScorerRecipe, resources: Resources, *, image_size: int, num_members: int | None, max_seconds: float
) -> int:
    """A slice size by the speed of one actor; `num_members` are still to be scored, None if that is not known."""
    if num_members is not None and num_members <= NOT_WORTH_MEASURING:
        return max(MIN_SLICE_SIZE, -(-num_members // (SLICES_PER_ACTOR * resources.num_actors)))
    speed = actor_speed(recipe, resources, image_size=image_size, max_seconds=max_seconds)
    if speed is None:
        return UNMEASURED_SLICE_SIZE
    rate, batch_size = speed
    size = choose_slice_size(rate, batch_size=batch_size, num_members=num_members, num_actors=resources.num_actors)
    shown = f"{rate:,.0f}" if rate >= _MANY else f"{rate:.2g}"
    say(
        f"an actor scores {shown} images/s in {recipe.scoring.precision}: slices of {size:,} images",
        event="slice_size",
        slice_size=size,
    )
    return size


def actor_speed(
    recipe: ScorerRecipe,
    resources: Resources,
    *,
    image_size: int,
    max_seconds: float,
    measured_seconds: float = MEASURED_SECONDS,
) -> tuple[float, int] | None:
    """Images/s of one actor, and its batch size; None where that could not be found out."""
    measuring = _task(_measure_speed, resources).remote(
        recipe, image_size, max_seconds=max_seconds, measured_seconds=measured_seconds
    )
    try:
        speed: tuple[float, int] = ray.get(measuring, timeout=_ROOM_SECONDS)
    except RayTaskError:
        raise
    except RayError:
        # What ended the process, or kept it, will do so with an actor's, which knows what to do about it.
        ray.cancel(measuring, force=True)
        return None
    return speed


def choose_slice_size(rate: float, *, batch_size: int, num_members: int | None, num_actors: int) -> int:
    """As many images as one actor scores in SLICE_SECONDS at `rate` images/s, in whole batches if there are enough."""
    size = max(batch_size, int(rate * SLICE_SECONDS // batch_size) * batch_size)
    if num_members is not None:
        fair = num_members // (SLICES_PER_ACTOR * num_actors)
        size = min(size, fair // batch_size * batch_size or fair)
    return min(MAX_SLICE_SIZE, max(MIN_SLICE_SIZE, size))


def _task(function: Any, resources: Resources) -> Any:
    """Run where an actor would run, in a process that ends with it if it holds a GPU's memory."""
    return ray.remote(max_retries=1, num_cpus=resources.cpus_per_actor, num_gpus=resources.gpus_per_actor)(function)


def _settle_precision(asked: Precision | None, device_name: str) -> tuple[Precision, str | None, bool]:
    device = torch.device(device_name)
    precision = asked or fastest_precision(device)
    return precision, lacks(device, precision), emulates(device, precision)


def _measure_speed(
    recipe: ScorerRecipe, image_size: int, *, max_seconds: float, measured_seconds: float
) -> tuple[float, int]:
    arm_deadlines()
    with fatal_errors_end_the_process(), deadline(seconds=max_seconds):
        scorer = recipe.build(recipe.read_bundle())
        size = scorer.batch_size
        images = np.random.default_rng(0).integers(0, 256, (size, image_size, image_size, 3), dtype=np.uint8)
        num_images, seconds = size, _seconds(lambda: scorer.score(images))
        if seconds < measured_seconds:
            # The first call is slower: libraries choose their kernels.
            num_images, seconds = 0, 0.0
        while seconds < measured_seconds:
            seconds += _seconds(lambda: scorer.score(images))
            num_images += size
    return num_images / seconds, scorer.batch_size


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
