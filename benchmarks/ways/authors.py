"""The authors' way, object by object."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.authors import authors_scores
from benchmarks.ways.task import Task, filesystem, image_id, mark, pixels_of, write_scores
from skinvae.records import SCORES


def run(task: Task) -> None:
    """One object after the other; scores in one file at the end."""
    torch.set_num_threads(task.threads)
    bundle = task.read_bundle()
    model = bundle.build_model().to(task.device).eval()
    fs, names, rows = filesystem(), [], []
    for path in sorted(fs.ls(task.objects))[: task.max_images]:
        pixels = pixels_of(fs.cat_file(path), size=bundle.config.model.image_size)
        scores = authors_scores(
            model, pixels, variance=bundle.config.variance, settings=task.scoring, device=task.device
        )
        rows.append([scores[name] for name in SCORES])
        names.append(image_id(path))
        mark(task.marks, 1)
    write_scores(task.out, names, dict(zip(SCORES, np.array(rows).T, strict=True)))
