"""One pass over scores in ascending order: AUROC, average precision and sensitivities without holding the scores.

Exact but for the rounding of sums. What is kept does not grow with the images: counts by class, and sums of placements
by group, where a group is a random thousandth of the lesions (of the images, where lesions are not known).
Code 0 is the normals, code c the c-th class. G groups, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skinvae.metrics.auroc import Floats

NUM_GROUPS = 1000
"""So many tell the width of an interval within 2 % (one standard error), like as many bootstrap resamples."""

Chunk = tuple[Floats, NDArray[np.integer], NDArray[np.integer]]
"""Scores in ascending order, codes and groups of some images."""


@dataclass(frozen=True)
class Cut:
    """What lies above the normal of some rank."""

    threshold: float
    """Its score; minus infinity for rank 0, infinity for n + 1."""
    shares_above: Floats
    """(C + 1,): of the normals, then of each class."""


@dataclass(frozen=True)
class OrderedScores:
    """What one pass finds. Targets are the C classes, their mean, all pooled."""

    auroc: Floats
    """(C + 2,)"""
    delong_variance: Floats
    """(C + 2,), each image independent; NaN where a side has a single image."""
    group_errors: Floats
    """(C + 2, G): each group's part in the error of the AUROC."""
    average_precision: Floats
    """(C + 2,)"""
    precision_group_errors: Floats
    """(C + 2, G): each group's part in the error of the average precision, to first order."""
    cuts: Mapping[int, Cut]
    """By rank of the normal, from 1."""

    @property
    def group_variance(self) -> Floats:
        """(C + 2,): photos of a lesion share a group, so that what they have in common counts."""
        return grouped_variance(self.group_errors)


def grouped_variance(errors: Floats) -> Floats:
    """Return (T,) for (T, G); the errors of two scores may be subtracted before, for the variance of a difference."""
    num = errors.shape[1]
    variance: Floats = (errors**2).sum(axis=1) * num / (num - 1)
    return variance


def ordered_scores(chunks: Iterable[Chunk], *, counts: Sequence[int], ranks: Sequence[int]) -> OrderedScores:
    """Read all chunks; `counts` (C + 1,) are the images of each code, none of them 0."""
    sums = _Sums(np.asarray(counts, dtype=np.float64), ranks)
    for chunk in whole_ties(chunks):
        sums.add(*chunk)
    return sums.result()


def whole_ties(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Move the ends of chunks so that equal scores are never parted; holds back one run of equal scores."""
    held: Chunk | None = None
    for chunk in chunks:
        whole = chunk if held is None else tuple(np.concatenate(pair) for pair in zip(held, chunk, strict=True))
        start = int(np.searchsorted(whole[0], whole[0][-1], side="left"))
        if start:
            yield whole[0][:start], whole[1][:start], whole[2][:start]
        held = (whole[0][start:], whole[1][start:], whole[2][start:])
    if held is not None:
        yield held


class _Sums:
    """Running totals; placements are less 1/2, so that their squares lose no digits."""

    def __init__(self, counts: Floats, ranks: Sequence[int]) -> None:
        self._counts = counts
        self._num_classes = len(counts) - 1
        self._before = np.zeros(len(counts))
        self._of_abnormal = np.zeros((self._num_classes, 2))
        """Sum and sum of squares of each class's placements."""
        self._of_normal = np.zeros(self._num_classes + 1)
        self._products = np.zeros((self._num_classes + 1, self._num_classes + 1))
        self._group_counts = np.zeros((self._num_classes + 1, NUM_GROUPS))
        self._groups_abnormal = np.zeros((self._num_classes, NUM_GROUPS))
        self._groups_normal = np.zeros((self._num_classes + 1, NUM_GROUPS))
        self._precision = np.zeros(self._num_classes + 1)
        self._slopes = np.zeros((2, self._num_classes + 1))
        """Of the precisions so far: how fast they fall with a false positive, and rise with a true one."""
        self._groups_precision = np.zeros((2, self._num_classes + 1, NUM_GROUPS))
        self._cuts = {rank: Cut(-np.inf, np.ones(len(counts))) for rank in ranks if rank < 1}
        self._cuts |= {rank: Cut(np.inf, np.zeros(len(counts))) for rank in ranks if rank > counts[0]}
        self._ranks = sorted(set(ranks) - set(self._cuts))

    def add(self, scores: Floats, codes: NDArray[np.integer], groups: NDArray[np.integer]) -> None:
        """Take a chunk; in it, rows of (ties, ...) are its different scores."""
        is_first = np.r_[True, scores[1:] != scores[:-1]]
        tie = np.cumsum(is_first) - 1
        width = self._num_classes + 1
        here = np.bincount(tie * width + codes, minlength=(int(tie[-1]) + 1) * width).reshape(-1, width)
        after = self._before + np.cumsum(here, axis=0)
        before = after - here
        middle = (before + after) / 2.0
        of_abnormal = middle[:, 0] / self._counts[0] - 0.5
        of_normal = 0.5 - np.column_stack(
            [middle[:, 1:] / self._counts[1:], middle[:, 1:].sum(axis=1) / self._counts[1:].sum()]
        )
        self._of_abnormal += np.column_stack([of_abnormal @ here[:, 1:], of_abnormal**2 @ here[:, 1:]])
        self._of_normal += here[:, 0] @ of_normal
        self._products += (of_normal * here[:, :1]).T @ of_normal
        self._add_groups(codes, groups, of_normal=of_normal[tie], of_abnormal=of_abnormal[tie])
        self._add_precision(codes, groups, tie=tie, here=here, before=before)
        self._add_cuts(scores[is_first], after)
        self._before = after[-1]

    def result(self) -> OrderedScores:
        """Raises ValueError if the chunks held other counts than promised."""
        if not np.array_equal(self._before, self._counts):
            raise ValueError(f"expected {self._counts.tolist()} images by class, got {self._before.tolist()}")
        num_normal, sizes = self._counts[0], self._counts[1:]
        total = sizes.sum()
        classes = self._of_abnormal[:, 0] / sizes
        centred = np.r_[classes, classes @ sizes / total]
        errors = np.zeros((self._num_classes + 2, NUM_GROUPS))
        of_normal = (self._groups_normal - self._group_counts[0] * centred[:, None]) / num_normal
        by_class = (self._groups_abnormal - self._group_counts[1:] * classes[:, None]) / sizes[:, None]
        errors[:-2] = of_normal[:-1] + by_class
        errors[-2] = errors[:-2].mean(axis=0)
        all_abnormal = self._groups_abnormal.sum(axis=0) - self._group_counts[1:].sum(axis=0) * centred[-1]
        errors[-1] = of_normal[-1] + all_abnormal / total
        precision = self._precision
        return OrderedScores(
            auroc=np.r_[classes, classes.mean(), centred[-1]] + 0.5,
            delong_variance=self._delong(centred),
            group_errors=errors,
            average_precision=np.r_[precision[:-1], precision[:-1].mean(), precision[-1]],
            precision_group_errors=self._precision_errors(),
            cuts=self._cuts,
        )

    def _delong(self, centred: Floats) -> Floats:
        num_normal, sizes = self._counts[0], np.r_[self._counts[1:], self._counts[1:].sum()]
        squares = np.r_[self._of_abnormal[:, 1], self._of_abnormal[:, 1].sum()]
        with np.errstate(divide="ignore", invalid="ignore"):
            abnormal = (squares - sizes * centred**2) / (sizes - 1) / sizes
            normal = (self._products - num_normal * np.outer(centred, centred)) / (num_normal - 1) / num_normal
        single = np.diag(normal) + abnormal
        macro = (normal[:-1, :-1].sum() + abnormal[:-1].sum()) / self._num_classes**2
        # A variance of 0 may round to a little below it; NaN stays.
        variances: Floats = np.maximum(np.r_[single[:-1], macro, single[-1]], 0.0)
        return variances

    def _add_groups(
        self, codes: NDArray[np.integer], groups: NDArray[np.integer], *, of_normal: Floats, of_abnormal: Floats
    ) -> None:
        is_normal = codes == 0
        width = self._num_classes + 1
        counts = np.bincount(codes.astype(np.int64) * NUM_GROUPS + groups, minlength=width * NUM_GROUPS)
        self._group_counts += counts.reshape(width, NUM_GROUPS)
        for target in range(width):
            self._groups_normal[target] += _by_group(groups[is_normal], of_normal[is_normal, target])
        abnormal = np.bincount(
            (codes[~is_normal].astype(np.int64) - 1) * NUM_GROUPS + groups[~is_normal],
            weights=of_abnormal[~is_normal],
            minlength=self._num_classes * NUM_GROUPS,
        )
        self._groups_abnormal += abnormal.reshape(self._num_classes, NUM_GROUPS)

    def _add_precision(
        self,
        codes: NDArray[np.integer],
        groups: NDArray[np.integer],
        *,
        tie: NDArray[np.int64],
        here: NDArray[np.int64],
        before: Floats,
    ) -> None:
        """Flagged are all images from a score upwards, so an image counts in the precision at its score and below."""
        sizes = np.r_[self._counts[1:], self._counts[1:].sum()]
        here_abnormal = np.column_stack([here[:, 1:], here[:, 1:].sum(axis=1)])
        false = (self._counts[0] - before[:, 0])[:, None]
        found = sizes - np.column_stack([before[:, 1:], before[:, 1:].sum(axis=1)])
        flagged = np.maximum(found + false, 1.0)
        precision = found / flagged
        self._precision += (here_abnormal * precision).sum(axis=0) / sizes
        falls = self._slopes[0] + np.cumsum(here_abnormal * found / flagged**2, axis=0)
        rises = self._slopes[1] + np.cumsum(here_abnormal * false / flagged**2, axis=0)
        self._slopes = np.stack([falls[-1], rises[-1]])
        is_normal = codes == 0
        for target in range(self._num_classes + 1):
            chosen = codes == target + 1 if target < self._num_classes else ~is_normal
            of_normal, of_abnormal = -falls[tie[is_normal], target], (precision + rises)[tie[chosen], target]
            self._groups_precision[0, target] += _by_group(groups[is_normal], of_normal)
            self._groups_precision[1, target] += _by_group(groups[chosen], of_abnormal)

    def _precision_errors(self) -> Floats:
        sizes = np.r_[self._counts[1:], self._counts[1:].sum()][:, None]
        counts = np.vstack([self._group_counts[1:], self._group_counts[1:].sum(axis=0)])
        errors = np.zeros((self._num_classes + 1, NUM_GROUPS))
        for part, num, total in (
            (self._groups_precision[0], self._group_counts[0], self._counts[0]),
            (self._groups_precision[1], counts, sizes),
        ):
            errors += (part - part.sum(axis=1, keepdims=True) * num / total) / sizes
        return np.vstack([errors[:-1], errors[:-1].mean(axis=0), errors[-1]])

    def _add_cuts(self, scores: Floats, after: Floats) -> None:
        for rank in [rank for rank in self._ranks if rank <= after[-1, 0]]:
            place = int(np.searchsorted(after[:, 0], rank, side="left"))
            self._cuts[rank] = Cut(float(scores[place]), 1.0 - after[place] / self._counts)
            self._ranks.remove(rank)


def _by_group(groups: NDArray[np.integer], values: Floats) -> Floats:
    sums: Floats = np.bincount(groups, weights=values, minlength=NUM_GROUPS).astype(np.float64)
    return sums
