"""The history of a training run: two rows an epoch, of training and of validation."""

from __future__ import annotations

import math
from collections.abc import Iterable

Row = dict[str, float | str]
"""Columns epoch, split ('train' or 'validation'), loss, reconst, kl (means per image), num_images, sigma, num_workers.

Of training, also seconds and input_seconds, the part of them that a worker waits for its input.
"""


def best_epoch(history: Iterable[Row]) -> Row:
    """The validation row of the lowest finite loss, the earliest of equals."""
    rows = [row for row in history if row["split"] == "validation" and math.isfinite(float(row["loss"]))]
    return min(rows, key=lambda row: float(row["loss"]))


def epoch_line(epoch: int, num_epochs: int, *, trained: Row, validated: Row) -> str:
    """One epoch's result for people: means per image, kl not weighted by beta."""
    words = [
        f"{name} loss {one['loss']:.1f} (reconst {one['reconst']:.1f}, kl {one['kl']:.1f})"
        for name, one in (("train", trained), ("validation", validated))
    ]
    return f"epoch {epoch} of {num_epochs}: {', '.join(words)}"
