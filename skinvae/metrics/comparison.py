"""Two correlated AUROCs on the same images: is one score, or one model, better than the other?"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import pandas as pd
from scipy.stats import norm

from skinvae.errors import LabelsError
from skinvae.metrics.auroc import MACRO, POOLED, Floats
from skinvae.metrics.bootstrap import number_lesions
from skinvae.metrics.evaluation import abnormal_classes, scores_of
from skinvae.metrics.influence import Influences, clustered_variances, influences
from skinvae.metrics.intervals import CONFIDENCE, TRIVIAL, ZERO_VARIANCE, zero_variance_interval
from skinvae.records import SCORES

PAIRED_DELONG = "delong-paired"
PAIRED_LESIONS = "obuchowski-paired"
"""Clustered by lesion: Obuchowski 1997, doi:10.2307/2533958."""
NO_DIFFERENCE = "identical"
"""Every image ranks the same by both: no test is needed."""

COMPARISON_COLUMNS = (
    "score_a",
    "scoring_id_a",
    "score_b",
    "scoring_id_b",
    "target",
    "auroc_a",
    "auroc_b",
    "difference",
    "ci_low",
    "ci_high",
    "p_value",
    "ci_method",
    "num_normal",
    "num_abnormal",
)
"""Columns of comparison.csv; difference = a - b, p_value that of no difference, two-sided, not adjusted."""

Pair = tuple[str, str]


def compare_scores(evaluated: pd.DataFrame, *, normal: Collection[str], score: str, scoring_id: str) -> pd.DataFrame:
    """Return COMPARISON_COLUMNS: `score` against each of the others, on `LabelJoin.evaluated`."""
    pairs = [(score, other) for other in SCORES if other != score]
    return _compare(evaluated, evaluated, normal=normal, pairs=pairs, scoring_ids=(scoring_id, scoring_id))


def compare_scorings(
    evaluated: pd.DataFrame, *, other: pd.DataFrame, normal: Collection[str], scoring_ids: tuple[str, str]
) -> pd.DataFrame:
    """Return COMPARISON_COLUMNS: each score of `evaluated` against itself in `other`, on the images both hold.

    Both are `LabelJoin.evaluated`, so neither model was trained on an image in both, nor on its lesion. Raises
    LabelsError where they share no normal or no abnormal image.
    """
    first, second = common_images(evaluated, other)
    is_normal = first["label"].isin(normal)
    for side, num in (("normal", is_normal.sum()), ("abnormal", (~is_normal).sum())):
        if not num:
            raise LabelsError(
                f"scorings {' and '.join(scoring_ids)} have no {side} image in common that neither model was trained "
                "on: score the same archive with both"
            )
    pairs = [(score, score) for score in SCORES]
    return _compare(first, second, normal=normal, pairs=pairs, scoring_ids=scoring_ids)


def common_images(evaluated: pd.DataFrame, other: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of either whose image the other has, in the same order."""
    common = np.intersect1d(evaluated["image_id"].astype(str), other["image_id"].astype(str))
    first, second = (
        frame.set_index("image_id", drop=False).loc[common].reset_index(drop=True) for frame in (evaluated, other)
    )
    # A lesion that only one knows is still a lesion.
    groups = first["group"].where(first["group"].notna(), second["group"])
    return first.assign(group=groups), second.assign(group=groups)


def _compare(
    first: pd.DataFrame,
    second: pd.DataFrame,
    *,
    normal: Collection[str],
    pairs: list[Pair],
    scoring_ids: tuple[str, str],
) -> pd.DataFrame:
    classes = abnormal_classes(first, normal=normal)
    lesions = number_lesions(
        pd.concat([first.loc[first["label"].isin(names), "group"] for names in (normal, *([one] for one in classes))])
    )
    method = PAIRED_LESIONS if first["group"].notna().any() else PAIRED_DELONG
    of_first = dict(_influences(first, normal=normal, classes=classes, lesions=lesions))
    of_second = (
        of_first if second is first else dict(_influences(second, normal=normal, classes=classes, lesions=lesions))
    )
    num_normal = int(first["label"].isin(normal).sum())
    counts = [int((first["label"] == name).sum()) for name in classes]
    sizes = [*counts, sum(counts), sum(counts)]
    num_pairs = _num_pairs(lesions, sizes=[num_normal, *counts])
    rows = []
    for score_a, score_b in pairs:
        a, b = of_first[score_a], of_second[score_b]
        variances = clustered_variances(a.parts - b.parts, lesions=lesions)
        for column, target in enumerate((*classes, MACRO, POOLED)):
            found = paired_test(
                a.values[column],
                b.values[column],
                variance=variances[column],
                num_pairs=num_pairs[column],
                num_terms=len(classes) if target == MACRO else 1,
                method=method,
            )
            names = (score_a, scoring_ids[0], score_b, scoring_ids[1], target)
            rows.append((*names, a.values[column], b.values[column], *found, num_normal, sizes[column]))
    return pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))


def paired_test(
    a: float, b: float, *, variance: float, num_pairs: int, num_terms: int = 1, method: str
) -> tuple[float, float, float, float, str]:
    """Return a - b, its interval, the two-sided p-value of no difference, and the method.

    `variance` is that of the difference; NaN gives the interval -1 to 1 and a p-value of NaN. `num_pairs` and
    `num_terms` are as in `interval`.
    """
    difference = a - b
    if variance <= 0.0 and num_pairs > 1 and {a, b} & {0.0, 1.0}:
        # Neither varies here, which is no proof that both are the same: each has its own bound, for half of alpha.
        (low_a, high_a), (low_b, high_b) = (
            zero_variance_interval(value, num_pairs=num_pairs, num_terms=2 * num_terms) for value in (a, b)
        )
        return difference, low_a - high_b, high_a - low_b, float("nan"), ZERO_VARIANCE
    if variance <= 0.0 and difference == 0.0:
        return 0.0, 0.0, 0.0, 1.0, NO_DIFFERENCE
    if not variance > 0.0:
        return difference, -1.0, 1.0, float("nan"), TRIVIAL
    error = float(np.sqrt(variance))
    half_width = float(norm.ppf(0.5 + CONFIDENCE / 2)) * error
    p_value = float(2.0 * norm.sf(abs(difference) / error))
    return difference, max(-1.0, difference - half_width), min(1.0, difference + half_width), p_value, method


def _num_pairs(lesions: np.ndarray, *, sizes: list[int]) -> list[int]:
    """By target: disjoint pairs of a normal and an abnormal lesion."""
    normal, *by_class = (len(np.unique(part)) for part in np.split(lesions, np.cumsum(sizes)[:-1]))
    pairs = [min(normal, num) for num in by_class]
    return [*pairs, min(pairs), min(normal, sum(by_class))]


def _influences(
    frame: pd.DataFrame, *, normal: Collection[str], classes: tuple[str, ...], lesions: np.ndarray
) -> Iterator[tuple[str, Influences]]:
    normals = scores_of(frame, classes=normal)
    by_class: dict[str, Floats] = {name: scores_of(frame, classes=[name]) for name in classes}
    for row, score in enumerate(SCORES):
        abnormal = {name: scores[row] for name, scores in by_class.items()}
        yield score, influences(normals[row], abnormal=abnormal, lesions=lesions)
