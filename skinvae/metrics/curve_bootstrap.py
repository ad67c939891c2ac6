"""Average precision and sensitivity of resampled lesions: each resample chooses its threshold anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skinvae.metrics.auroc import Floats
from skinvae.metrics.bootstrap import CHUNK_SIZE, Sample, draw_weights


@dataclass(frozen=True)
class CurveVariances:
    """Bootstrap variances; targets are the C classes, their mean, all pooled."""

    average_precision: Floats
    """(S, C + 2)"""
    sensitivity: Floats
    """(S, C + 2, specificities)"""


def bootstrap_curves(
    normal: Sample,
    *,
    abnormal: Sequence[Sample],
    specificities: Sequence[float],
    num_resamples: int,
    rng: np.random.Generator,
) -> CurveVariances:
    """Draw lesions within each class, as `bootstrap_lesions` does: the prevalence stays what it is."""
    num_scores, num_targets = len(normal.scores), len(abnormal) + 2
    precision = np.empty((num_scores, num_targets, num_resamples))
    sensitivity = np.empty((num_scores, num_targets, len(specificities), num_resamples))
    orders = [
        _Order(normal.scores[score], [sample.scores[score] for sample in abnormal]) for score in range(num_scores)
    ]
    for start in range(0, num_resamples, CHUNK_SIZE):
        size = min(CHUNK_SIZE, num_resamples - start)
        normal_weights = draw_weights(normal, size=size, rng=rng)
        class_weights = [draw_weights(sample, size=size, rng=rng) for sample in abnormal]
        chunk = slice(start, start + size)
        for score, order in enumerate(orders):
            precision[score, :, chunk], sensitivity[score, :, :, chunk] = order.resample(
                normal_weights, class_weights, specificities=specificities
            )
    return CurveVariances(precision.var(axis=2, ddof=1), sensitivity.var(axis=3, ddof=1))


class _Order:
    """One score, sorted once; a resample is weights."""

    def __init__(self, normal: Floats, abnormal: Sequence[Floats]) -> None:
        self._normal_order = np.argsort(normal, kind="stable")
        self._normal = normal[self._normal_order]
        self._classes = [_SortedClass(self._normal, scores) for scores in abnormal]
        self._pooled = _SortedClass(self._normal, np.concatenate(list(abnormal)))

    def resample(
        self, normal_weights: Floats, class_weights: Sequence[Floats], *, specificities: Sequence[float]
    ) -> tuple[Floats, Floats]:
        """Return (C + 2, resamples) and (C + 2, specificities, resamples)."""
        cumulative = _cumulative(normal_weights[:, self._normal_order])
        totals = cumulative[:, -1:]
        # The threshold is the first normal with enough weight at or below it.
        thresholds = np.stack(
            [
                self._normal[(cumulative[:, 1:] >= level * totals * (1 - 1e-12)).argmax(axis=1)]
                for level in specificities
            ]
        )
        classes = [*zip(self._classes, class_weights, strict=True), (self._pooled, np.hstack(list(class_weights)))]
        precision, sensitivity = [], []
        for one, weights in classes:
            above = _cumulative(weights[:, one.order])
            precision.append(one.average_precision(above, normals=cumulative))
            sensitivity.append(one.sensitivities(above, thresholds=thresholds))
        for found in (precision, sensitivity):
            found.insert(-1, np.mean(found[:-1], axis=0))
        return np.stack(precision), np.stack(sensitivity)


class _SortedClass:
    """One class's scores among the sorted normals."""

    def __init__(self, normal: Floats, scores: Floats) -> None:
        self.order: NDArray[np.intp] = np.argsort(scores, kind="stable")
        self._scores = scores[self.order]
        self._first_equal = np.searchsorted(self._scores, self._scores, side="left")
        self._normals_below = np.searchsorted(normal, self._scores, side="left")

    def average_precision(self, cumulative: Floats, *, normals: Floats) -> Floats:
        """Return (resamples,): the precision at each abnormal image, weighted; tied images are flagged together."""
        weights, total = np.diff(cumulative, axis=1), cumulative[:, -1:]
        found = total - cumulative[:, self._first_equal]
        false = normals[:, -1:] - normals[:, self._normals_below]
        flagged = found + false
        # An image of no weight may have none above it either.
        precision = np.divide(found, flagged, out=np.zeros_like(found), where=flagged > 0)
        result: Floats = (weights * precision).sum(axis=1) / total[:, 0]
        return result

    def sensitivities(self, cumulative: Floats, *, thresholds: Floats) -> Floats:
        """Return (specificities, resamples) for thresholds of this shape."""
        rows = np.arange(len(cumulative))
        not_above = np.searchsorted(self._scores, thresholds, side="right")
        return np.stack([1.0 - cumulative[rows, ends] / cumulative[:, -1] for ends in not_above])


def _cumulative(weights: Floats) -> Floats:
    """Return (resamples, n + 1), beginning with 0."""
    result = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=result[:, 1:])
    return result
