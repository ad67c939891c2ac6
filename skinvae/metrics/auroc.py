"""AUROC of one score against several abnormal classes that share their normals, and the variance of each.

Shapes: n normals, m_c images of abnormal class c, C classes, M = sum of m_c. Higher score = more anomalous, and
AUROC = P(abnormal > normal) + P(abnormal = normal) / 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from statsmodels.stats.nonparametric import rank_compare_2indep

Floats = NDArray[np.float64]

MACRO = "macro"
"""Target name: the mean of the classes' AUROCs."""
POOLED = "pooled"
"""Target name: the normals against all abnormal images at once."""


@dataclass(frozen=True)
class Auroc:
    """An estimate and its variance; NaN where a side has fewer than two images, so that none can be estimated."""

    value: float
    variance: float


def auroc(normal: Floats, *, abnormal: Floats) -> float:
    """Return the AUROC of scores (n,) against scores (m,), ties counting half."""
    return float(placements(normal, abnormal=abnormal)[1].mean())


def placements(normal: Floats, *, abnormal: Floats) -> tuple[Floats, Floats]:
    """Return (n,), the share of abnormal scores above each normal one, and (m,), of normal scores below each abnormal.

    Ties count half, so the mean of either is the AUROC. By midranks: Sun & Xu 2014, doi:10.1109/LSP.2014.2337313.
    """
    _check_sides(normal, abnormal=abnormal)
    num_normal, num_abnormal = len(normal), len(abnormal)
    ranks = rankdata(np.concatenate([normal, abnormal]))
    num_below_normal = ranks[:num_normal] - rankdata(normal)
    num_below_abnormal = ranks[num_normal:] - rankdata(abnormal)
    return 1.0 - num_below_normal / num_abnormal, num_below_abnormal / num_normal


def delong(normal: Floats, *, abnormal: Mapping[str, Floats]) -> tuple[Floats, Floats]:
    """Return the classes' AUROCs (C,) and their covariance (C, C), NaN where a side has fewer than two images.

    DeLong, DeLong & Clarke-Pearson 1988, doi:10.2307/2531595, for classes that share the normals but no abnormal image:
    the abnormal part of the covariance is diagonal, the normal part is not.
    """
    by_class = [placements(normal, abnormal=scores) for scores in abnormal.values()]
    of_normals = np.stack([of_normal for of_normal, _ in by_class])
    values = np.array([of_abnormal.mean() for _, of_abnormal in by_class])
    abnormal_part = np.diag([_sample_variance(of_abnormal) / len(of_abnormal) for _, of_abnormal in by_class])
    if len(normal) < 2:
        return values, np.full((len(values), len(values)), np.nan)
    return values, np.atleast_2d(np.cov(of_normals)) / len(normal) + abnormal_part


def macro_auroc(normal: Floats, *, abnormal: Mapping[str, Floats]) -> Auroc:
    """Return the mean of the classes' AUROCs; its variance counts that the classes share their normals."""
    values, covariance = delong(normal, abnormal=abnormal)
    return Auroc(value=float(values.mean()), variance=float(covariance.sum()) / len(values) ** 2)


def single_auroc(normal: Floats, *, abnormal: Floats) -> Auroc:
    """Return the AUROC of two samples with statsmodels' variance (Brunner-Munzel), which equals DeLong's."""
    _check_sides(normal, abnormal=abnormal)
    if min(len(normal), len(abnormal)) < 2:
        return Auroc(value=auroc(normal, abnormal=abnormal), variance=float("nan"))
    with np.errstate(divide="ignore", invalid="ignore"):  # its test statistic, not used here, divides by the variance
        result = rank_compare_2indep(abnormal, normal)
    return Auroc(value=float(result.prob1), variance=float(result.var_prob))


def _sample_variance(values: Floats) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else float("nan")


def _check_sides(normal: Floats, *, abnormal: Floats) -> None:
    for side, scores in (("normal", normal), ("abnormal", abnormal)):
        if len(scores) == 0:
            raise ValueError(f"an AUROC needs at least one {side} score, got none")
        if np.isnan(scores).any():
            raise ValueError(f"{int(np.isnan(scores).sum())} of {len(scores)} {side} scores are NaN")
