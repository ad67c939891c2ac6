"""Intervals of an AUROC within [0, 1], from its variance."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

CONFIDENCE = 0.95

DELONG = "delong-logit"
LESION_BOOTSTRAP = "bootstrap-lesion"
"""The bootstrap's standard error, lesions being drawn instead of images, in the same logit interval."""
ZERO_VARIANCE = "bootstrap-exact"
"""A bootstrap that has no width, widened to an exact bound; see `zero_variance_interval`."""
TRIVIAL = "trivial"
"""[0, 1]: a side has a single image or lesion, and nothing tells how another one would score; or an average precision
is perfect, which has no bound of its own here."""


def interval(
    value: float, *, variance: float, num_pairs: int, num_terms: int = 1, method: str
) -> tuple[float, float, str]:
    """Return low, high and the method that gave them: `method`, or what replaces it where it cannot work.

    `variance` is NaN where it cannot be estimated; `num_pairs` disjoint pairs (normal, abnormal) can be formed;
    `num_terms` AUROCs were averaged.
    """
    if np.isnan(variance) or num_pairs < 2:
        return 0.0, 1.0, TRIVIAL
    # Exact: placements are ratios of half-integers, and their mean rounds to no other number when all are equal.
    if variance <= 0.0 or not 0.0 < value < 1.0:
        return (*zero_variance_interval(value, num_pairs=num_pairs, num_terms=num_terms), ZERO_VARIANCE)
    return (*logit_interval(value, variance=variance), method)


def logit_interval(value: float, *, variance: float) -> tuple[float, float]:
    """Return the normal interval on the logit scale, mapped back: it stays within (0, 1) and is honest near the ends.

    Pepe 2003, The Statistical Evaluation of Medical Tests, section 5.2; `value` in (0, 1).
    """
    half_width = norm.ppf(0.5 + CONFIDENCE / 2) * np.sqrt(variance) / (value * (1.0 - value))
    centre = logit(value)
    return float(expit(centre - half_width)), float(expit(centre + half_width))


def zero_variance_interval(value: float, *, num_pairs: int, num_terms: int = 1) -> tuple[float, float]:
    """Return an interval for scores that separate the sides perfectly, or that are all equal.

    Every bootstrap resample repeats the estimate there, so the bootstrap alone would claim certainty. But the images
    form `num_pairs` disjoint pairs (normal, abnormal), independent trials that all came out alike: an outcome that had
    a chance below (alpha/2)^(1/num_pairs) would rarely do that (Clopper & Pearson 1934). What remains unseen may lie
    anywhere. For a mean of `num_terms` AUROCs alpha is divided among them (Bonferroni).
    """
    alpha = (1.0 - CONFIDENCE) / num_terms
    seen = (alpha / 2) ** (1.0 / num_pairs)
    return value * seen, value * seen + (1.0 - seen)
