"""Sensitivity at a chosen specificity: how many abnormal images are found where few normals are flagged.

The threshold is a quantile of the evaluated normals themselves, so its own uncertainty belongs into every interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint

from skinvae.metrics.auroc import Floats
from skinvae.metrics.intervals import CONFIDENCE

SPECIFICITIES = (0.90, 0.95)

ORDER_STATISTICS = "order-statistics"
"""Distribution-free: a Clopper-Pearson bound at either end of the threshold's own interval."""


@dataclass(frozen=True)
class Ranks:
    """Ranks among the n sorted normals, from 1: the threshold's, and those between which it lies in the population.

    0 is below all of them, n + 1 above.
    """

    low: int
    at: int
    high: int


def threshold_ranks(num_normal: int, *, specificity: float, num_effective: float, num_terms: int = 1) -> Ranks:
    """The smallest rank with at least `specificity` of the normals at or below it; an image is flagged above it.

    `num_effective` <= `num_normal` counts photos of one lesion as fewer; `num_terms` intervals hold at once.
    """
    # Rounded first: 0.9 * 10 is not to become the 10th of 10 normals.
    at = max(1, math.ceil(round(specificity * num_normal, 9)))
    alpha = (1.0 - CONFIDENCE) / 4 / num_terms
    num = max(1, math.floor(num_effective))
    low = int(binom.ppf(alpha, num, specificity))
    high = int(binom.ppf(1.0 - alpha, num, specificity)) + 1
    widened = (math.floor(low / num * num_normal), math.ceil(high / num * num_normal))
    return Ranks(low=min(widened[0], at), at=at, high=num_normal + 1 if high > num else max(widened[1], at))


def sensitivity_bounds(shares: tuple[float, float], *, num_effective: float, num_terms: int = 1) -> tuple[float, float]:
    """Return the interval, of the abnormal images' shares above the thresholds of `Ranks.low` and `Ranks.high`.

    A quarter of the error each: threshold too low or too high, share too low or too high (Bonferroni).
    """
    alpha = (1.0 - CONFIDENCE) / 2 / num_terms
    at_low, at_high = shares
    _, upper = proportion_confint(at_low * num_effective, num_effective, alpha=alpha, method="beta")
    lower, _ = proportion_confint(at_high * num_effective, num_effective, alpha=alpha, method="beta")
    return float(lower), float(upper)


def sensitivity_interval(
    normal: Floats,
    *,
    abnormal: Floats,
    specificity: float,
    num_effective: tuple[float, float],
    num_terms: int = 1,
) -> tuple[float, float]:
    """Return low and high for scores in any order; `num_effective` of the normals and of the abnormal images."""
    ordered = np.sort(normal)
    ranks = threshold_ranks(len(normal), specificity=specificity, num_effective=num_effective[0], num_terms=num_terms)
    low = 1.0 if ranks.low < 1 else float((abnormal > ordered[ranks.low - 1]).mean())
    high = 0.0 if ranks.high > len(normal) else float((abnormal > ordered[ranks.high - 1]).mean())
    return sensitivity_bounds((low, high), num_effective=num_effective[1], num_terms=num_terms)


def threshold(normal: Floats, *, specificity: float) -> float:
    """Return the score above which an image is flagged."""
    rank = threshold_ranks(len(normal), specificity=specificity, num_effective=len(normal)).at
    return float(np.partition(normal, rank - 1)[rank - 1])
