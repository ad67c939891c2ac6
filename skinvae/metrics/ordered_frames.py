"""The frames of an evaluation out of one ordered pass per score: the same columns, values and laws as from memory.

Values are exact; intervals are analytic, since a bootstrap would need the images many times over, and say so by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from skinvae.metrics.auroc import MACRO, POOLED
from skinvae.metrics.comparison import COMPARISON_COLUMNS, paired_test
from skinvae.metrics.curves import OPERATING_COLUMNS, PRECISION_COLUMNS, Curves, precision_interval
from skinvae.metrics.detection import NORMAL, Detection, HeldOut, Tally, tally_frame
from skinvae.metrics.evaluation import AUROC_COLUMNS
from skinvae.metrics.intervals import DELONG, interval
from skinvae.metrics.operating_points import ORDER_STATISTICS, SPECIFICITIES, Ranks, sensitivity_bounds, threshold_ranks
from skinvae.metrics.ordered import Chunk, OrderedScores, grouped_variance, whole_ties

LESION_GROUPS = "lesion-groups-logit"
IMAGE_GROUPS = "image-groups-logit"
"""What each image contributes to the error, added up over a random thousandth of the lesions (of the images, where
lesions are not known) at a time before it is squared, in the logit interval; the width is known within 2 %. Of an AUROC
the contributions are DeLong's placements, which makes it Obuchowski 1997 with groups as clusters."""
PAIRED_LESION_GROUPS = "lesion-groups-paired"
PAIRED_IMAGE_GROUPS = "image-groups-paired"
"""The same for a difference; groups of images where lesions are not known."""


@dataclass(frozen=True)
class Sides:
    """The normals, then the classes."""

    classes: tuple[str, ...]
    counts: tuple[int, ...]
    effective: tuple[float, ...]
    """Independent images they are worth, were the photos of a lesion all alike."""
    num_lesions: tuple[int, ...]
    lesions_known: bool

    @property
    def targets(self) -> tuple[str, ...]:
        return (*self.classes, MACRO, POOLED)

    @property
    def num_abnormal(self) -> tuple[int, ...]:
        """By target."""
        total = sum(self.counts[1:])
        return (*self.counts[1:], total, total)

    @property
    def num_pairs(self) -> tuple[int, ...]:
        """By target: disjoint pairs of a normal and an abnormal lesion."""
        pairs = [min(self.num_lesions[0], count) for count in self.num_lesions[1:]]
        return (*pairs, min(pairs), min(self.num_lesions[0], sum(self.num_lesions[1:])))

    def ranks(self) -> list[int]:
        """Of the normals that a pass has to look at."""
        found = [self.ranks_at(level, num_terms=terms) for level in SPECIFICITIES for terms in {1, len(self.classes)}]
        return [rank for one in found for rank in (one.low, one.at, one.high)]

    def ranks_at(self, specificity: float, *, num_terms: int) -> Ranks:
        """The threshold's, and of the bounds of its interval."""
        return threshold_ranks(
            self.counts[0], specificity=specificity, num_effective=self.effective[0], num_terms=num_terms
        )


def auroc_frame(passes: Mapping[str, OrderedScores], *, sides: Sides, scoring_id: str) -> pd.DataFrame:
    """Return AUROC_COLUMNS."""
    rows = []
    for score, found in passes.items():
        variances = found.group_variance if sides.lesions_known else found.delong_variance
        for column, target in enumerate(sides.targets):
            low, high, method = interval(
                float(found.auroc[column]),
                variance=float(variances[column]),
                num_pairs=sides.num_pairs[column],
                num_terms=len(sides.classes) if target == MACRO else 1,
                method=LESION_GROUPS if sides.lesions_known else DELONG,
            )
            sizes = (sides.counts[0], sides.num_abnormal[column])
            rows.append((score, target, float(found.auroc[column]), low, high, method, *sizes, scoring_id))
    return pd.DataFrame(rows, columns=list(AUROC_COLUMNS))


def curve_frames(passes: Mapping[str, OrderedScores], *, sides: Sides, scoring_id: str) -> Curves:
    """Return PRECISION_COLUMNS and OPERATING_COLUMNS."""
    precision, points = [], []
    for score, found in passes.items():
        precision += [(score, *row, scoring_id) for row in _precision_rows(found, sides)]
        points += [(score, *row, scoring_id) for level in SPECIFICITIES for row in _point_rows(found, sides, level)]
    return Curves(
        pd.DataFrame(precision, columns=list(PRECISION_COLUMNS)),
        pd.DataFrame(points, columns=list(OPERATING_COLUMNS)),
    )


def comparison_frame(passes: Mapping[str, OrderedScores], *, score: str, sides: Sides, scoring_id: str) -> pd.DataFrame:
    """Return COMPARISON_COLUMNS: `score` against each of the others; all passes saw the same groups."""
    method = PAIRED_LESION_GROUPS if sides.lesions_known else PAIRED_IMAGE_GROUPS
    rows = []
    for other in [name for name in passes if name != score]:
        a, b = passes[score], passes[other]
        variances = grouped_variance(a.group_errors - b.group_errors)
        for column, target in enumerate(sides.targets):
            values = (float(a.auroc[column]), float(b.auroc[column]))
            test = paired_test(
                *values,
                variance=float(variances[column]),
                num_pairs=sides.num_pairs[column],
                num_terms=len(sides.classes) if target == MACRO else 1,
                method=method,
            )
            names = (score, scoring_id, other, scoring_id, target)
            rows.append((*names, *values, *test, sides.counts[0], sides.num_abnormal[column]))
    return pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))


def ordered_detection(
    chunks: Iterable[Chunk],
    *,
    sizes: Sequence[tuple[int, float]],
    sides: Sides,
    rates: tuple[float, float],
    held_out: HeldOut,
    num_held_out_evaluated: int,
) -> Detection | None:
    """Detect among p-values in ascending order, without those of images held out; `rates` are as in `detect`.

    `sizes` are the images that have one, and what they are worth: of each code, then of all abnormal ones pooled.
    Benjamini and Hochberg's step-up: all up to the last p-value that is at most its rank's share of the rate.
    """
    num_known = [num for num, _ in sizes[:-1]]
    num_images = sum(num_known)
    if num_images == 0:
        return None
    false_positive_rate, false_discovery_rate = rates
    before = np.zeros(len(num_known), dtype=np.int64)
    flagged = called = before
    smallest: float | None = None
    for p_values, codes, _ in whole_ties(chunks):
        smallest = float(p_values[0]) if smallest is None else smallest
        is_last = np.r_[p_values[1:] != p_values[:-1], True]
        after = before + np.cumsum(codes[:, None] == np.arange(len(num_known)), axis=0)[is_last]
        different = p_values[is_last]
        kept = np.flatnonzero(different <= false_positive_rate)
        flagged = after[kept[-1]] if len(kept) else flagged
        kept = np.flatnonzero(different <= after.sum(axis=1) / num_images * false_discovery_rate)
        called = after[kept[-1]] if len(kept) else called
        before = after[-1]
    found = zip((*flagged, flagged[1:].sum()), (*called, called[1:].sum()), strict=True)
    tallies = [
        Tally(name, num, int(num_flagged), int(num_called), worth)
        for name, (num, worth), (num_flagged, num_called) in zip(
            (NORMAL, *sides.classes, POOLED), sizes, found, strict=True
        )
    ]
    return Detection(
        frame=tally_frame(tallies, has_lesions=sides.lesions_known),
        false_positive_rate=false_positive_rate,
        false_discovery_rate=false_discovery_rate,
        num_images=num_images,
        num_without=sum(sides.counts) - num_images - num_held_out_evaluated,
        smallest_p_value=float(smallest or 0.0),
        num_held_out=len(held_out.image_ids),
        num_held_out_evaluated=num_held_out_evaluated,
        tail=held_out.tail,
    )


def _precision_rows(found: OrderedScores, sides: Sides) -> list[tuple[object, ...]]:
    shares = [count / (count + sides.counts[0]) for count in sides.counts[1:]]
    shares = [*shares, float(np.mean(shares)), sides.num_abnormal[-1] / sum(sides.counts)]
    fewest = [*sides.num_lesions[1:], min(sides.num_lesions[1:]), sum(sides.num_lesions[1:])]
    method = LESION_GROUPS if sides.lesions_known else IMAGE_GROUPS
    rows: list[tuple[object, ...]] = []
    for target, value, variance, share, count, num in zip(
        sides.targets,
        found.average_precision,
        grouped_variance(found.precision_group_errors),
        shares,
        sides.num_abnormal,
        fewest,
        strict=True,
    ):
        bounds = precision_interval(
            float(value),
            variance=float(variance),
            num_independent=min(num, sides.num_lesions[0]),
            method=method,
        )
        rows.append((target, float(value), *bounds, share, sides.counts[0], count))
    return rows


def _point_rows(found: OrderedScores, sides: Sides, level: float) -> list[tuple[object, ...]]:
    cut = found.cuts[sides.ranks_at(level, num_terms=1).at]
    by_class = cut.shares_above[1:]
    sizes = np.array(sides.counts[1:])
    values = [*by_class, by_class.mean(), float(by_class @ sizes / sizes.sum())]
    ranks = sides.ranks_at(level, num_terms=1)
    at_low, at_high = found.cuts[ranks.low].shares_above[1:], found.cuts[ranks.high].shares_above[1:]
    bounds = [
        sensitivity_bounds((float(low), float(high)), num_effective=num)
        for low, high, num in zip(at_low, at_high, sides.effective[1:], strict=True)
    ]
    pooled = sensitivity_bounds(
        (float(at_low @ sizes / sizes.sum()), float(at_high @ sizes / sizes.sum())),
        num_effective=sum(sides.effective[1:]),
    )
    intervals = [*bounds, _macro_bounds(found, sides, level), pooled]
    here = 1.0 - float(cut.shares_above[0])
    return [
        (target, level, cut.threshold, here, float(value), *bound, ORDER_STATISTICS, sides.counts[0], count)
        for target, value, bound, count in zip(sides.targets, values, intervals, sides.num_abnormal, strict=True)
    ]


def _macro_bounds(found: OrderedScores, sides: Sides, level: float) -> tuple[float, float]:
    """The mean of the classes' bounds, which hold all at once."""
    num = len(sides.classes)
    ranks = sides.ranks_at(level, num_terms=num)
    shares = zip(found.cuts[ranks.low].shares_above[1:], found.cuts[ranks.high].shares_above[1:], strict=True)
    bounds = [
        sensitivity_bounds((float(low), float(high)), num_effective=effective, num_terms=num)
        for (low, high), effective in zip(shares, sides.effective[1:], strict=True)
    ]
    low, high = np.mean(bounds, axis=0)
    return float(low), float(high)
