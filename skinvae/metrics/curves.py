"""Average precision, and sensitivity at chosen specificities, of every score and target: two files of an evaluation."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from skinvae.metrics.auroc import MACRO, POOLED, Floats
from skinvae.metrics.bootstrap import Sample, number_lesions
from skinvae.metrics.curve_bootstrap import CurveVariances, bootstrap_curves
from skinvae.metrics.evaluation import abnormal_classes, scores_of
from skinvae.metrics.intervals import LESION_BOOTSTRAP, TRIVIAL, logit_interval
from skinvae.metrics.operating_points import ORDER_STATISTICS, SPECIFICITIES, sensitivity_interval, threshold
from skinvae.records import SCORES

IMAGE_BOOTSTRAP = "bootstrap-image"
"""As the bootstrap of lesions, with an image a lesion: they are not known."""

PRECISION_COLUMNS = (
    "score",
    "target",
    "average_precision",
    "ci_low",
    "ci_high",
    "ci_method",
    "prevalence",
    "num_normal",
    "num_abnormal",
    "scoring_id",
)
"""Columns of average_precision.csv; a score that says nothing has the prevalence as its average precision."""

OPERATING_COLUMNS = (
    "score",
    "target",
    "specificity",
    "threshold_nats",
    "specificity_here",
    "sensitivity",
    "ci_low",
    "ci_high",
    "ci_method",
    "num_normal",
    "num_abnormal",
    "scoring_id",
)
"""Columns of operating_points.csv: an image is flagged above threshold_nats, a score of the evaluated normals."""

_ROUNDING = 1e-10


@dataclass(frozen=True)
class Curves:
    """Frames of PRECISION_COLUMNS and OPERATING_COLUMNS."""

    average_precision: pd.DataFrame
    operating_points: pd.DataFrame


def evaluate_curves(
    evaluated: pd.DataFrame,
    *,
    normal: Collection[str],
    scoring_id: str,
    rng: np.random.Generator,
    num_resamples: int = 1000,
) -> Curves:
    """Evaluate `LabelJoin.evaluated`; the bootstrap draws lesions where they are known, else images."""
    classes = abnormal_classes(evaluated, normal=normal)
    samples = [_sample(evaluated, classes=members) for members in (normal, *([name] for name in classes))]
    variances = bootstrap_curves(
        samples[0], abnormal=samples[1:], specificities=SPECIFICITIES, num_resamples=num_resamples, rng=rng
    )
    method = LESION_BOOTSTRAP if evaluated["group"].notna().any() else IMAGE_BOOTSTRAP
    precision, points = [], []
    for index, score in enumerate(SCORES):
        one = _OneScore(index, classes, samples, variances, method)
        precision += [(score, *row, scoring_id) for row in one.average_precisions()]
        points += [(score, *row, scoring_id) for row in one.operating_points()]
    return Curves(
        pd.DataFrame(precision, columns=list(PRECISION_COLUMNS)),
        pd.DataFrame(points, columns=list(OPERATING_COLUMNS)),
    )


class _OneScore:
    """The rows of one score."""

    def __init__(
        self, index: int, classes: tuple[str, ...], samples: list[Sample], variances: CurveVariances, method: str
    ) -> None:
        self._index, self._variances, self._method = index, variances, method
        self._targets = (*classes, MACRO, POOLED)
        self._normal = samples[0].scores[index]
        self._abnormal = [sample.scores[index] for sample in samples[1:]]
        self._effective_normal = samples[0].num_effective
        self._effective = [sample.num_effective for sample in samples[1:]]

    def average_precisions(self) -> list[tuple[object, ...]]:
        pooled = np.concatenate(self._abnormal)
        values = [average_precision(self._normal, abnormal=scores) for scores in self._abnormal]
        values = [*values, float(np.mean(values)), average_precision(self._normal, abnormal=pooled)]
        shares = [len(scores) / (len(scores) + len(self._normal)) for scores in self._abnormal]
        shares = [*shares, float(np.mean(shares)), len(pooled) / (len(pooled) + len(self._normal))]
        rows: list[tuple[object, ...]] = []
        for column, (target, value, share) in enumerate(zip(self._targets, values, shares, strict=True)):
            variance = self._variances.average_precision[self._index, column]
            interval = precision_interval(
                value, variance=variance, num_independent=self._fewest(column), method=self._method
            )
            rows.append((target, value, *interval, share, len(self._normal), self._num(column)))
        return rows

    def operating_points(self) -> list[tuple[object, ...]]:
        rows: list[tuple[object, ...]] = []
        for place, level in enumerate(SPECIFICITIES):
            cut = threshold(self._normal, specificity=level)
            found = [float((scores > cut).mean()) for scores in self._abnormal]
            pooled = float(np.average(found, weights=[len(scores) for scores in self._abnormal]))
            here = float((self._normal <= cut).mean())
            for column, (target, value) in enumerate(
                zip(self._targets, [*found, float(np.mean(found)), pooled], strict=True)
            ):
                variance = self._variances.sensitivity[self._index, column, place]
                interval = self._sensitivity_interval(column, level=level, value=value, variance=variance)
                rows.append((target, level, cut, here, value, *interval, len(self._normal), self._num(column)))
        return rows

    def _sensitivity_interval(
        self, column: int, *, level: float, value: float, variance: float
    ) -> tuple[float, float, str]:
        """The bootstrap's only where lesions make it necessary and it has a width: else an exact one."""
        if self._method == LESION_BOOTSTRAP and variance > 0 and 0 < value < 1 and self._fewest(column) > 1:
            return (*logit_interval(value, variance=variance), self._method)
        if self._targets[column] == POOLED:
            sides, effective = [np.concatenate(self._abnormal)], [sum(self._effective)]
        else:
            chosen = slice(None) if self._targets[column] == MACRO else slice(column, column + 1)
            sides, effective = self._abnormal[chosen], self._effective[chosen]
        bounds = [
            sensitivity_interval(
                self._normal,
                abnormal=scores,
                specificity=level,
                num_effective=(self._effective_normal, num),
                num_terms=len(sides),
            )
            for scores, num in zip(sides, effective, strict=True)
        ]
        low, high = np.mean(bounds, axis=0)
        return float(low), float(high), ORDER_STATISTICS

    def _num(self, column: int) -> int:
        counts = [len(scores) for scores in self._abnormal]
        return counts[column] if column < len(counts) else sum(counts)

    def _fewest(self, column: int) -> float:
        sides = self._effective[column : column + 1] or (
            self._effective if self._targets[column] == MACRO else [sum(self._effective)]
        )
        return min(self._effective_normal, *sides)


def precision_interval(
    value: float, *, variance: float, num_independent: float, method: str
) -> tuple[float, float, str]:
    """Return low, high and method; 0 to 1 where perfect separation or a single lesion leaves no variance to go by."""
    # Sums of many parts: a perfect value is 1 but for their rounding.
    if not (variance > _ROUNDING**2 and _ROUNDING < value < 1.0 - _ROUNDING and num_independent > 1):
        return 0.0, 1.0, TRIVIAL
    return (*logit_interval(value, variance=variance), method)


def average_precision(normal: Floats, *, abnormal: Floats) -> float:
    """Return the mean precision over the abnormal images (scikit-learn's, without interpolation)."""
    truth = np.r_[np.zeros(len(normal)), np.ones(len(abnormal))]
    return float(average_precision_score(truth, np.r_[normal, abnormal]))


def _sample(evaluated: pd.DataFrame, *, classes: Collection[str]) -> Sample:
    groups = evaluated.loc[evaluated["label"].isin(classes), "group"]
    return Sample(scores=scores_of(evaluated, classes=classes), lesions=number_lesions(groups))
