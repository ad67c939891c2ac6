"""Which images are flagged by their p-value: at a false-positive rate, and with a false discovery rate of the batch.

A p-value says how often a normal image scores at least as high, as the held-out ones tell (p_values.py). These are left
out: their p-values come from themselves, and would keep any promise.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import beta
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from skinvae.metrics.auroc import POOLED
from skinvae.metrics.bootstrap import effective_size, number_lesions
from skinvae.metrics.evaluation import abnormal_classes
from skinvae.metrics.intervals import CONFIDENCE
from skinvae.metrics.p_values import Tail

NORMAL = "normal"
"""Target of the row of normals, whose share of flagged images is the false-positive rate."""

CLOPPER_PEARSON = "clopper-pearson"
CLOPPER_PEARSON_LESIONS = "clopper-pearson-lesions"
"""The same for as many images as there would be if photos of one lesion were all alike: wider."""

DETECTION_COLUMNS = (
    "target",
    "num_images",
    "num_flagged",
    "share_flagged",
    "ci_low",
    "ci_high",
    "ci_method",
    "num_called",
    "share_called",
)
"""Columns of detection.csv: flagged at the false-positive rate, called by Benjamini and Hochberg's procedure."""


@dataclass(frozen=True)
class HeldOut:
    """The normals of the training that p-values are made from."""

    image_ids: Collection[str]
    tail: Tail
    """How."""


@dataclass(frozen=True)
class Tally:
    """What is counted of one target."""

    target: str
    num_images: int
    num_flagged: int
    num_called: int
    num_effective: float


@dataclass(frozen=True)
class Detection:
    """Images found by p-value."""

    frame: pd.DataFrame
    """DETECTION_COLUMNS: the normals, every class, all abnormal images pooled."""
    false_positive_rate: float
    """Asked for: images with a p-value of at most this are flagged."""
    false_discovery_rate: float
    """Asked for."""
    num_images: int
    """Evaluated images with a p-value, but those that p-values were made from: the batch."""
    num_without: int
    """Evaluated images whose p-value is null."""
    smallest_p_value: float
    num_held_out: int
    """Normals of the training that p-values were made from."""
    num_held_out_evaluated: int
    """Evaluated images among these; left out."""
    tail: Tail
    """How p-values were made from them."""

    @property
    def num_called(self) -> int:
        """Images that the procedure calls anomalous, normals among them."""
        return self._of(NORMAL, "num_called") + self._of(POOLED, "num_called")

    @property
    def false_discovery_proportion(self) -> float:
        """Share of normals among the images called; 0 if none is called, NaN if no normal could be."""
        if not self.has_normals:
            return float("nan")
        return self._of(NORMAL, "num_called") / max(1, self.num_called)

    @property
    def has_normals(self) -> bool:
        """Whether there are normals to hold the p-values to; if not, `is_compatible` is None."""
        return self._of(NORMAL, "num_images") > 0

    @property
    def promised_range(self) -> tuple[float, float]:
        """Between what a rate of `false_positive_rate` may turn out, made by rank of so few held-out normals (95 %).

        The share of new normals beyond the k-th of n is Beta(k, n + 1 - k), whatever their distribution. A Gamma
        distribution that is the right one keeps closer to the rate, since it uses all n; one that is not may leave the
        range, however many there are.
        """
        rank = self.false_positive_rate * (self.num_held_out + 1)
        spread = beta(rank, self.num_held_out + 1 - rank)
        return float(spread.ppf((1.0 - CONFIDENCE) / 2)), float(spread.ppf((1.0 + CONFIDENCE) / 2))

    @property
    def is_compatible(self) -> bool | None:
        """Whether the interval of the realised false-positive rate meets the promised range; None without normals."""
        if not self.has_normals:
            return None
        row = self.frame[self.frame["target"] == NORMAL].iloc[0]
        low, high = self.promised_range
        return bool(row["ci_low"] <= high and low <= row["ci_high"])

    @property
    def num_needed(self) -> int:
        """Images that must share the smallest p-value here before the procedure can call any."""
        return int(np.ceil(round(self.smallest_p_value * self.num_images / self.false_discovery_rate, 9)))

    def _of(self, target: str, column: str) -> int:
        return int(self.frame.loc[self.frame["target"] == target, column].iloc[0])


def detect(
    evaluated: pd.DataFrame,
    *,
    normal: Collection[str],
    false_positive_rate: float,
    false_discovery_rate: float,
    held_out: HeldOut,
) -> Detection | None:
    """Detect among `LabelJoin.evaluated`; None where no image but those held out has a p-value."""
    is_held_out = evaluated["image_id"].isin(held_out.image_ids)
    known = evaluated[evaluated["p_value"].notna() & ~is_held_out]
    if known.empty:
        return None
    p_values = known["p_value"].to_numpy(dtype=np.float64)
    is_called = multipletests(p_values, alpha=false_discovery_rate, method="fdr_bh")[0]
    has_lesions = bool(evaluated["group"].notna().any())
    classes = abnormal_classes(evaluated, normal=normal)
    members = {NORMAL: list(normal), **{name: [name] for name in classes}, POOLED: list(classes)}
    tallies = []
    for target, names in members.items():
        chosen = known["label"].isin(names).to_numpy()
        tallies.append(
            Tally(
                target=target,
                num_images=int(chosen.sum()),
                num_flagged=int((p_values[chosen] <= false_positive_rate).sum()),
                num_called=int(is_called[chosen].sum()),
                num_effective=effective_size(number_lesions(known.loc[chosen, "group"])),
            )
        )
    return Detection(
        frame=tally_frame(tallies, has_lesions=has_lesions),
        false_positive_rate=false_positive_rate,
        false_discovery_rate=false_discovery_rate,
        num_images=len(known),
        num_without=int((evaluated["p_value"].isna() & ~is_held_out).sum()),
        smallest_p_value=float(p_values.min()),
        num_held_out=len(held_out.image_ids),
        num_held_out_evaluated=int(is_held_out.sum()),
        tail=held_out.tail,
    )


def tally_frame(tallies: Sequence[Tally], *, has_lesions: bool) -> pd.DataFrame:
    """Return DETECTION_COLUMNS; a class without any p-value has shares of NaN, and the interval 0 to 1."""
    rows = []
    for one in tallies:
        share = one.num_flagged / one.num_images if one.num_images else float("nan")
        low, high = 0.0, 1.0
        if one.num_images:
            low, high = proportion_confint(
                share * one.num_effective, one.num_effective, alpha=1.0 - CONFIDENCE, method="beta"
            )
        called = one.num_called / one.num_images if one.num_images else float("nan")
        method = CLOPPER_PEARSON_LESIONS if has_lesions else CLOPPER_PEARSON
        rows.append(
            (
                one.target,
                one.num_images,
                one.num_flagged,
                share,
                float(low),
                float(high),
                method,
                one.num_called,
                called,
            )
        )
    return pd.DataFrame(rows, columns=list(DETECTION_COLUMNS))
