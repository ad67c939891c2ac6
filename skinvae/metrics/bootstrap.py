"""AUROCs of resampled lesions: photos of one lesion resemble each other, so they are drawn together or not at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skinvae.metrics.auroc import Floats

CHUNK_SIZE = 50
"""Resamples held in memory at once: the weights of 10,000 images are 4 MB."""


@dataclass(frozen=True)
class Sample:
    """The images of one class."""

    scores: Floats
    """(S, images), one row per kind of score."""
    lesions: NDArray[np.int64]
    """(images,), numbered from 0 within the class."""

    @property
    def num_lesions(self) -> int:
        """Lesions in the class."""
        return int(self.lesions.max()) + 1

    @property
    def num_effective(self) -> float:
        """See `effective_size`."""
        return effective_size(self.lesions)


def effective_size(lesions: NDArray[np.int64]) -> float:
    """Independent images that would tell as much as these, were the photos of a lesion all alike (Kish 1965)."""
    sizes = np.bincount(lesions)
    return float(sizes.sum() ** 2 / max(1, (sizes**2).sum()))


def number_lesions(groups: pd.Series[str]) -> NDArray[np.int64]:
    """Number the lesions of the images from 0; each image without one counts as a lesion of its own."""
    codes, lesions = pd.factorize(groups.to_numpy(dtype=object))
    numbers = codes.astype(np.int64)
    alone = numbers < 0
    numbers[alone] = len(lesions) + np.arange(int(alone.sum()))
    return numbers


def bootstrap_lesions(
    normal: Sample, *, abnormal: list[Sample], num_resamples: int, rng: np.random.Generator
) -> Floats:
    """Return the AUROCs (S, C + 2, num_resamples) of resamples: the C classes, their mean, all pooled.

    Lesions are drawn with replacement within each class, so no resample lacks one. All scores and classes see the same
    draws, which keeps the covariance that the shared normals cause.
    """
    num_scores = len(normal.scores)
    result = np.empty((num_scores, len(abnormal) + 2, num_resamples))
    for start in range(0, num_resamples, CHUNK_SIZE):
        size = min(CHUNK_SIZE, num_resamples - start)
        normal_weights = draw_weights(normal, size=size, rng=rng)
        class_weights = [draw_weights(sample, size=size, rng=rng) for sample in abnormal]
        totals = np.stack([weights.sum(axis=1) for weights in class_weights])
        for score in range(num_scores):
            below = weighted_placements(
                normal.scores[score],
                abnormal=np.concatenate([sample.scores[score] for sample in abnormal]),
                normal_weights=normal_weights,
            )
            ends = np.cumsum([sample.scores.shape[1] for sample in abnormal])[:-1]
            parts = zip(class_weights, np.split(below, ends, axis=1), strict=True)
            sums = np.stack([(weights * part).sum(axis=1) for weights, part in parts])
            by_class = sums / totals
            chunk = result[score, :, start : start + size]
            chunk[:-2] = by_class
            chunk[-2] = by_class.mean(axis=0)
            chunk[-1] = sums.sum(axis=0) / totals.sum(axis=0)
    return result


def weighted_placements(normal: Floats, *, abnormal: Floats, normal_weights: Floats) -> Floats:
    """Return (resamples, m): for each abnormal score (m,) the weighted share of normals (n,) below it, ties half.

    Weights are (resamples, n). Sorted once, so that a resample costs one cumulative sum and no sorting.
    """
    order = np.argsort(normal, kind="stable")
    ordered = normal[order]
    cumulative = np.zeros((len(normal_weights), len(normal) + 1))
    np.cumsum(normal_weights[:, order], axis=1, out=cumulative[:, 1:])
    below = cumulative[:, np.searchsorted(ordered, abnormal, side="left")]
    not_above = cumulative[:, np.searchsorted(ordered, abnormal, side="right")]
    placements: Floats = (below + not_above) / (2.0 * cumulative[:, -1:])
    return placements


def draw_weights(sample: Sample, *, size: int, rng: np.random.Generator) -> Floats:
    """Return (size, images): how often each image is drawn, when its lesion is."""
    num = sample.num_lesions
    draws = rng.integers(num, size=(size, num)) + num * np.arange(size)[:, None]
    counts = np.bincount(draws.ravel(), minlength=size * num).reshape(size, num)
    return counts[:, sample.lesions].astype(np.float64)
