"""The AUROC of every score against every class, with intervals: the rows of auroc.csv."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from skinvae.errors import LabelsError
from skinvae.metrics.auroc import MACRO, POOLED, Auroc, Floats, macro_auroc, single_auroc
from skinvae.metrics.bootstrap import Sample, bootstrap_lesions, number_lesions
from skinvae.metrics.intervals import DELONG, LESION_BOOTSTRAP, interval
from skinvae.metrics.join import order_classes
from skinvae.records import SCORES

AUROC_COLUMNS = (
    "score",
    "target",
    "auroc",
    "ci_low",
    "ci_high",
    "ci_method",
    "num_normal",
    "num_abnormal",
    "scoring_id",
)
"""Columns of auroc.csv, in order; target = a class, 'macro' (mean over classes) or 'pooled' (all abnormal at once)."""


def evaluate_scores(
    evaluated: pd.DataFrame,
    *,
    normal: Collection[str],
    scoring_id: str,
    rng: np.random.Generator,
    num_resamples: int = 1000,
) -> pd.DataFrame:
    """Return AUROC_COLUMNS for `LabelJoin.evaluated`: six scores times (abnormal classes that have images, and two).

    Intervals of 95 % by DeLong's variance; where lesions are known (a group that is not null) by a bootstrap of
    lesions. Raises LabelsError where no normal or no abnormal image is left to compare.
    """
    classes = abnormal_classes(evaluated, normal=normal)
    by_class = {name: scores_of(evaluated, classes=[name]) for name in classes}
    normals = scores_of(evaluated, classes=normal)
    if evaluated["group"].notna().any():
        variances, lesions = _lesion_variances(
            evaluated, normal=normal, classes=classes, num_resamples=num_resamples, rng=rng
        )
    else:
        variances, lesions = None, [normals.shape[1], *(scores.shape[1] for scores in by_class.values())]
    pairs = [min(lesions[0], count) for count in lesions[1:]]
    num_pairs = [*pairs, min(pairs), min(lesions[0], sum(lesions[1:]))]
    counts = [scores.shape[1] for scores in by_class.values()]
    num_abnormal = [*counts, sum(counts), sum(counts)]
    rows = []
    for index, score in enumerate(SCORES):
        estimates = estimate_targets(normals[index], abnormal={name: by_class[name][index] for name in classes})
        for column, (target, estimate) in enumerate(estimates.items()):
            low, high, method = interval(
                estimate.value,
                variance=estimate.variance if variances is None else variances[index, column],
                num_pairs=num_pairs[column],
                num_terms=len(classes) if target == MACRO else 1,
                method=DELONG if variances is None else LESION_BOOTSTRAP,
            )
            sizes = (normals.shape[1], num_abnormal[column])
            rows.append((score, target, estimate.value, low, high, method, *sizes, scoring_id))
    return pd.DataFrame(rows, columns=list(AUROC_COLUMNS))


def estimate_targets(normal: Floats, *, abnormal: dict[str, Floats]) -> dict[str, Auroc]:
    """Return the estimates of one score: every class, macro, pooled, in this order."""
    classes = {name: single_auroc(normal, abnormal=scores) for name, scores in abnormal.items()}
    pooled = single_auroc(normal, abnormal=np.concatenate(list(abnormal.values())))
    return {**classes, MACRO: macro_auroc(normal, abnormal=abnormal), POOLED: pooled}


def abnormal_classes(evaluated: pd.DataFrame, *, normal: Collection[str]) -> tuple[str, ...]:
    """Return the abnormal classes that have images; raise LabelsError where either side has none."""
    found = set(evaluated["label"])
    if not found & set(normal):
        raise LabelsError(
            f"no image of the normal class {' or '.join(sorted(normal))} is left to evaluate; "
            "score images that the model was not trained on"
        )
    if not found - set(normal):
        raise LabelsError("no abnormal image is left to evaluate; label some, or score the archive that holds them")
    return order_classes(found - set(normal))


def scores_of(evaluated: pd.DataFrame, *, classes: Collection[str]) -> Floats:
    """Return (6, images)."""
    rows = evaluated.loc[evaluated["label"].isin(classes), list(SCORES)]
    return np.ascontiguousarray(rows.to_numpy(dtype=np.float64).T)


def _lesion_variances(
    evaluated: pd.DataFrame,
    *,
    normal: Collection[str],
    classes: tuple[str, ...],
    num_resamples: int,
    rng: np.random.Generator,
) -> tuple[Floats, list[int]]:
    """Return the variances (6, C + 2), NaN where one lesion cannot tell, and the lesions of the normals and classes."""
    names: list[Collection[str]] = [normal, *([name] for name in classes)]
    groups = [evaluated.loc[evaluated["label"].isin(members), "group"] for members in names]
    samples = [
        Sample(scores=scores_of(evaluated, classes=members), lesions=number_lesions(group))
        for members, group in zip(names, groups, strict=True)
    ]
    resampled = bootstrap_lesions(samples[0], abnormal=samples[1:], num_resamples=num_resamples, rng=rng)
    return resampled.var(axis=2, ddof=1), [sample.num_lesions for sample in samples]
