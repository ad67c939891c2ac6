"""skinvae: the scoring job itself, zip -> Delta table. Only the marks are added to its scorer."""

from __future__ import annotations

import functools

from benchmarks.ways.task import Task, make_marked_scorer
from skinvae.config import build_config
from skinvae.pipelines.score import score


def run(task: Task, *, precision: str | None = "float32") -> None:
    """With the default settings, but for the precision that all ways have."""
    assignments = [f"score.num_actors={task.num_actors}"]
    assignments += [f"score.precision={precision}"] if precision else []
    score(
        [task.archive],
        model=task.bundle,
        table=task.out,
        config=build_config({}, assignments),
        make_scorer=functools.partial(make_marked_scorer, marks=task.marks),
    )
