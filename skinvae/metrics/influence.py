"""How much each image moves an AUROC: from this come variances of any contrast, with or without known lesions.

Columns of an influence are the images: the normals, then those of each class in order. Rows are the targets: every
class, their mean, all pooled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skinvae.metrics.auroc import Floats, placements


@dataclass(frozen=True)
class Influences:
    """AUROCs (T,) of one score, and what each image contributes to their error (T, images)."""

    values: Floats
    parts: Floats

    def variances(self, lesions: NDArray[np.int64]) -> Floats:
        """(T,); `lesions` (images,) are numbers from 0, the same for photos that may resemble each other."""
        return clustered_variances(self.parts, lesions=lesions)


def influences(
    normal: Floats, *, abnormal: Mapping[str, Floats], lesions: NDArray[np.int64] | None = None
) -> Influences:
    """DeLong's placements, centred and scaled so that the sum of squares over independent images is the variance.

    With an image a lesion that is DeLong, DeLong & Clarke-Pearson 1988, doi:10.2307/2531595, exactly. Photos of one
    lesion are added up before they are squared, as Obuchowski 1997, doi:10.2307/2533958, does; the small-sample factors
    of a lesion with images on both sides are the geometric mean of the sides' own, where hers are those of the lesions.
    NaN for targets with a side of one lesion.
    """
    names = list(abnormal)
    sizes = [len(normal), *(len(abnormal[name]) for name in names)]
    ends = np.cumsum(sizes)
    num = int(ends[-1])
    numbers = np.arange(num) if lesions is None else lesions
    by_class = [placements(normal, abnormal=abnormal[name]) for name in names]
    values = np.array([of_abnormal.mean() for _, of_abnormal in by_class])
    counts = np.array(sizes[1:])
    pooled = float(counts @ values / counts.sum())

    normals, abnormals = slice(0, sizes[0]), slice(sizes[0], num)
    rows = np.zeros((len(names) + 2, num))
    for row, (of_normal, of_abnormal) in enumerate(by_class):
        images = slice(int(ends[row]), int(ends[row + 1]))
        rows[row, normals] = (of_normal - values[row]) / sizes[0] * _small_sample(numbers[normals])
        rows[row, images] = (of_abnormal - values[row]) / counts[row] * _small_sample(numbers[images])
    rows[-2] = rows[:-2].mean(axis=0)
    of_normals = np.average(np.stack([of_normal for of_normal, _ in by_class]), axis=0, weights=counts)
    rows[-1, normals] = (of_normals - pooled) / sizes[0] * _small_sample(numbers[normals])
    of_abnormals = np.concatenate([of_abnormal for _, of_abnormal in by_class])
    rows[-1, abnormals] = (of_abnormals - pooled) / counts.sum() * _small_sample(numbers[abnormals])
    return Influences(values=np.array([*values, values.mean(), pooled]), parts=rows)


def clustered_variances(parts: Floats, *, lesions: NDArray[np.int64]) -> Floats:
    """Return (T,): the squares of the lesions' sums, added up."""
    return np.array([float((np.bincount(lesions, weights=row) ** 2).sum()) for row in parts])


def _small_sample(lesions: NDArray[np.int64]) -> float:
    num = len(np.unique(lesions))
    return float(np.sqrt(num / (num - 1))) if num > 1 else float("nan")
