"""The stage behind the decoding that actors with a model carry out, one row per slice: uint8 pixels -> a slice file."""

from __future__ import annotations

import functools
import pickle
import threading
import warnings
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy
from ray.util.annotations import RayDeprecationWarning

from skinvae.errors import JobError
from skinvae.pipelines.completing import Dataset
from skinvae.pipelines.deadline import arm_deadlines
from skinvae.pipelines.decoding import Unreadable
from skinvae.pipelines.image_scorer import ScorerRecipe
from skinvae.pipelines.lost_nodes import named_actor
from skinvae.pipelines.progress import answer_of, report_retries, report_seconds
from skinvae.pipelines.runtime import Resources
from skinvae.pipelines.slice_job import SliceJob
from skinvae.pipelines.stage_times import ActorClock
from skinvae.pipelines.stages import Row, SliceHead, opened_row
from skinvae.storage.bundle import ModelBundle
from skinvae.storage.slices import write_slice

MAX_ATTEMPTS = 20
"""At one slice. A process that ends even while it only watches over an isolation has a reason that is no image's."""

CALLS_AT_ONCE = 2
"""Of one actor: while a slice is written, the next one is computed. So no more than two slices are computed in vain
when the actor or the driver dies, however slow storage is."""


class ActorStage(ABC):
    """An actor: loads the bundle once, then makes rows of decoded slices and writes them.

    Its process may die at any time: Ray starts it again for ever, and the ProgressActor counts, slice by slice, how
    often that was in vain.
    """

    def __init__(self, *, job: SliceJob, recipe: ScorerRecipe, max_seconds: float, progress: Any) -> None:
        arm_deadlines()
        self._slice_job = job
        self._recipe = recipe
        self._max_seconds = max_seconds
        self._progress = progress
        self._computing = threading.Lock()
        self._clock = ActorClock(num_writes_at_once=CALLS_AT_ONCE)

    @abstractmethod
    def _made(self, head: SliceHead, pixels: NDArray[np.uint8]) -> pa.Table:
        """The rows of a slice, from its good images' pixels (B, size, size, 3)."""

    @functools.cached_property
    def _bundle(self) -> ModelBundle:
        """Loaded with the first slice: an error here reaches the driver whole, one in a constructor only as text."""
        with self._clock.loading():
            return self._recipe.read_bundle()

    def __call__(self, row: Row) -> Row:
        head, pixels = opened_row(row, size=self._slice_job.image_size)
        if isinstance(head, Unreadable):
            return {"result": row["head"]}
        with self._computing, self._clock.scoring():
            rows = self._made(head, pixels)
        slice_id = self._slice_job.slice_id(head.slice)
        with self._clock.writing():
            file = write_slice(self._slice_job.table, slice_id, rows, provenance=self._slice_job.provenance)
        self._progress.end.remote(str(slice_id))
        report_retries(self._progress)
        report_seconds(self._progress, self._clock.take())
        return {"result": pickle.dumps(file)}

    def _begun(self, head: SliceHead, *, num_images: int) -> int:
        """How often the slice was begun, with this time. Raises JobError if that is too often."""
        # Rejected images and members that are no images need no model: they are done.
        num_done = head.slice.num_members - num_images
        begun = self._progress.begin.remote(str(self._slice_job.slice_id(head.slice)), num_done)
        num_begun: int = answer_of(begun, otherwise=1)
        if num_begun > MAX_ATTEMPTS:
            raise JobError(
                f"the process that scores the members {head.slice.end.start:,} to {head.slice.end.stop - 1:,} of "
                f"'{head.slice.source.uri}' was lost {MAX_ATTEMPTS} times: see that the nodes have memory enough, then "
                "run the same command again"
            )
        return num_begun


def by_actors(
    dataset: Dataset, stage: type[ActorStage], resources: Resources, *, job: SliceJob, num_actors: int, **arguments: Any
) -> Dataset:
    """The dataset, its slices handed to a pool of actors that live through deaths; `arguments` are the stage's.

    With `num_actors` = 0, GPUs that join the cluster get actors, too.
    """
    # GPUs that join bring their own CPUs; further actors on CPUs would take those of the tasks.
    may_grow = bool(resources.gpus_per_actor) and not num_actors
    with warnings.catch_warnings():
        # max_restarts goes away in Ray 2.64, and 2.60 has no other way to bound restarts.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return dataset.map(
            stage,
            fn_constructor_kwargs={"job": job, **arguments},
            num_cpus=resources.cpus_per_actor,
            num_gpus=resources.gpus_per_actor or None,
            compute=ActorPoolStrategy(
                min_size=resources.num_actors,
                max_size=None if may_grow else resources.num_actors,
                max_tasks_in_flight_per_actor=CALLS_AT_ONCE + 1,
                max_concurrent_calls_per_actor=CALLS_AT_ONCE,
                enable_true_multi_threading=True,
            ),
            ray_remote_args_fn=functools.partial(named_actor, job.run_id),
            # A dead actor would block a pool of fixed size. What bounds the attempts at a slice is ActorStage.
            max_restarts=-1,
            max_task_retries=-1,
        )
