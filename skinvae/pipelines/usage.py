"""Where the time of a job went: what its workers and its driver spent on each stage."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from skinvae.pipelines.nodes import alive_nodes
from skinvae.pipelines.progress import reported_times
from skinvae.pipelines.runtime import Resources, num_tasks_at_once
from skinvae.pipelines.stage_times import Stage, add_seconds
from skinvae.storage.run_records import RunUsage

WORKING = frozenset({Stage.STREAM, Stage.READ, Stage.DECODE, Stage.SCORE, Stage.WRITE})
"""Stages that every image passes through."""


@dataclass(frozen=True)
class Workers:
    """Workers of one kind, and the shares of their time that went to each stage."""

    name: str
    number: int
    available: float
    """Worker-seconds."""
    seconds: dict[Stage, float]

    @property
    def title(self) -> str:
        """'2 scoring actors'."""
        return self.name if self.name == "driver" else f"{self.number:,} {self.name}{'s' * (self.number > 1)}"

    def share(self, stage: Stage) -> float:
        return self.seconds[stage] / self.available if self.available else 0.0


@dataclass(kw_only=True)
class Usage:
    """Worker-seconds by stage, and the seconds that there were.

    What lost workers spent last is not in it, nor what a lost ProgressActor had been told.
    """

    run_seconds: float = 0.0
    """From the job's begin to its end."""
    num_images: int = 0
    num_cpus: float = 0.0
    """Of the cluster, as Ray counts them: a local Ray counts one in eight, and at least one, beside the cores."""
    num_actors: int = 0
    """That score; 0 where a job has none."""
    gpus_per_actor: float = 0.0
    threads_per_actor: int = 0
    num_tasks: int = 0
    """Decoding tasks at once."""
    num_readers: int = 0
    """Tasks at once that read one tar each."""
    task_seconds: float = 0.0
    """Number of tasks at once x seconds that they were there."""
    reader_seconds: float = 0.0
    seconds_to_first: float | None = None
    """From the job's begin until its first image was scored, or prepared."""
    stages: dict[Stage, float] = field(default_factory=dict)
    """Worker-seconds."""

    def of(self, *stages: Stage) -> float:
        """Worker-seconds of the stages together."""
        return sum(self.stages.get(one, 0.0) for one in stages)

    def add(self, other: Usage) -> None:
        """What came after it in the same command."""
        self.run_seconds += other.run_seconds
        self.num_images += other.num_images
        self.num_cpus = max(self.num_cpus, other.num_cpus)
        self.num_actors = max(self.num_actors, other.num_actors)
        self.gpus_per_actor = max(self.gpus_per_actor, other.gpus_per_actor)
        self.threads_per_actor = max(self.threads_per_actor, other.threads_per_actor)
        self.num_tasks = max(self.num_tasks, other.num_tasks)
        self.num_readers = max(self.num_readers, other.num_readers)
        self.task_seconds += other.task_seconds
        self.reader_seconds += other.reader_seconds
        if self.seconds_to_first is None:
            self.seconds_to_first = other.seconds_to_first
        add_seconds(self.stages, other.stages)

    @contextlib.contextmanager
    def measured(self, stage: Stage) -> Iterator[None]:
        """Charge the block to a stage of the driver."""
        started = time.monotonic()
        try:
            yield
        finally:
            add_seconds(self.stages, {stage: time.monotonic() - started})

    def finish(self, run_seconds: float, *, num_images: int, commit_seconds: float) -> None:
        """Add what is known at the end of a run."""
        self.run_seconds, self.num_images = run_seconds, num_images
        self.stages[Stage.START] = self.seconds_to_first or 0.0
        self.stages[Stage.COMMIT] = commit_seconds

    @property
    def alive_seconds(self) -> float:
        """The actors', from the first slice of each to its last."""
        return self.of(Stage.SCORE, Stage.WAIT, Stage.HELD, Stage.LOAD)

    def workers(self) -> list[Workers]:
        """Every kind that there was; the shares of actors are of `alive_seconds`."""
        scoring = (Stage.SCORE, Stage.WAIT, Stage.HELD, Stage.LOAD, Stage.WRITE)
        decoding = (Stage.READ, Stage.DECODE) if self.num_actors else (Stage.READ, Stage.DECODE, Stage.WRITE)
        kinds = [
            ("scoring actor", self.num_actors, self.alive_seconds, scoring),
            ("decoding task", self.num_tasks, self.task_seconds, decoding),
            ("reading task", self.num_readers, self.reader_seconds, (Stage.STREAM,)),
            ("driver", 1, self.run_seconds, (Stage.START, Stage.COMMIT, Stage.SWAP)),
        ]
        return [
            Workers(name, number, available, {one: self.of(one) for one in stages})
            for name, number, available, stages in kinds
            if number
        ]

    def for_record(self) -> RunUsage:
        """What is kept of it beside the table."""
        return RunUsage(
            num_images=self.num_images,
            run_seconds=self.run_seconds,
            num_cpus=self.num_cpus,
            num_actors=self.num_actors,
            gpus_per_actor=self.gpus_per_actor,
            threads_per_actor=self.threads_per_actor,
            num_tasks=self.num_tasks,
            seconds_to_first=self.seconds_to_first,
            seconds={stage.value: seconds for stage, seconds in self.stages.items()},
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "num_cpus": self.num_cpus,
            "num_actors": self.num_actors,
            "num_decoding_tasks": self.num_tasks,
            "seconds_to_first": self.seconds_to_first,
            "stage_seconds": {stage.value: self.of(stage) for stage in Stage},
            "utilisation": {
                one.name.replace(" ", "_"): {stage.value: one.share(stage) for stage in one.seconds}
                for one in self.workers()
            },
        }


@contextlib.contextmanager
def measured_round(
    usage: Usage, progress: Any, *, begun: float, resources: Resources, num_actors: int, num_streams: int
) -> Iterator[None]:
    """Add what the block, a round of a job's work, took as its workers reported it, unless it raises.

    `begun` is when the job did, by time.monotonic().
    """
    started = time.monotonic()
    nodes = alive_nodes()
    yield
    stages, first_ago = reported_times(progress)
    ended = time.monotonic()
    num_cpus = sum(one.num_cpus for one in nodes)
    num_tasks = num_tasks_at_once(resources, nodes, num_actors=num_actors)
    num_readers = min(num_streams, max(1, int(num_cpus)))
    to_first = None if first_ago is None else ended - first_ago - begun
    usage.add(
        Usage(
            num_cpus=num_cpus,
            num_actors=num_actors,
            gpus_per_actor=resources.gpus_per_actor if num_actors else 0.0,
            threads_per_actor=resources.threads_per_actor if num_actors else 0,
            num_tasks=num_tasks,
            num_readers=num_readers,
            task_seconds=num_tasks * (ended - started),
            reader_seconds=num_readers * (ended - started),
            seconds_to_first=to_first,
            stages=stages,
        )
    )
