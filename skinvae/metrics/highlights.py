"""Which evaluated images to look at one by one, and how the p-values of all are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skinvae.metrics.evaluation import abnormal_classes

NUM_HIGHLIGHTS = 6
"""Images of each class."""
NUM_P_BINS = 20


@dataclass(frozen=True)
class Missed:
    """The images of one disease that score lowest."""

    label: str
    num_images: int
    """Evaluated, of the class."""
    image_ids: tuple[str, ...]
    """The lowest first; equal ones by name."""
    num_normals_above: int
    """Normals that score at least as high as the lowest."""


@dataclass(frozen=True)
class Highlights:
    """Of one score."""

    normal: tuple[str, ...]
    num_normal: int
    missed: tuple[Missed, ...]
    false_alarms: tuple[str, ...]
    """Normals that score highest, the highest first."""
    normal_p_values: NDArray[np.int64]
    """How many normals have one in each of NUM_P_BINS equal bars from 0 to 1."""
    abnormal_p_values: NDArray[np.int64]


def find_highlights(evaluated: pd.DataFrame, *, normal: Sequence[str], score: str) -> Highlights:
    """Of `LabelJoin.evaluated`, where that holds all images."""
    ranked = evaluated.sort_values([score, "image_id"])
    is_normal = ranked["label"].isin(normal)
    normals = ranked[is_normal]
    missed = []
    for name in abnormal_classes(evaluated, normal=normal):
        its = ranked[ranked["label"] == name]
        num_above = int((normals[score] >= its[score].iloc[0]).sum())
        missed.append(Missed(name, len(its), tuple(its["image_id"].head(NUM_HIGHLIGHTS)), num_above))
    return Highlights(
        normal=tuple(normal),
        num_normal=len(normals),
        missed=tuple(missed),
        false_alarms=tuple(normals["image_id"].iloc[::-1].head(NUM_HIGHLIGHTS)),
        normal_p_values=_count(normals["p_value"]),
        abnormal_p_values=_count(ranked.loc[~is_normal, "p_value"]),
    )


def _count(p_values: pd.Series[float]) -> NDArray[np.int64]:
    known = p_values.dropna().to_numpy(dtype=np.float64)
    counts: NDArray[np.int64] = np.histogram(known, bins=NUM_P_BINS, range=(0, 1))[0]
    return counts
