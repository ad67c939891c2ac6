"""AUROC among images of one kind: age band, sex, place on the body, how the diagnosis was made."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from skinvae.metrics.auroc import Floats
from skinvae.metrics.bootstrap import number_lesions
from skinvae.metrics.influence import influences
from skinvae.metrics.intervals import DELONG, interval

LESION_CLUSTERS = "obuchowski-logit"
"""Clustered by lesion (Obuchowski 1997, doi:10.2307/2533958), in the logit interval."""
EMPTY = "none"
"""A side has no image: there is no AUROC."""

UNKNOWN = "unknown"
AGE_BANDS = (("under 30", 0, 30), ("30-44", 30, 45), ("45-59", 45, 60), ("60-74", 60, 75), ("75 and over", 75, 200))
"""Name, youngest, and the age from which the next one counts."""
VARIABLES = ("age", "sex", "localization", "dx_type")
MIN_IMAGES = 10
"""A stratum with fewer on a side is noted as small."""

STRATA_COLUMNS = (
    "score",
    "variable",
    "stratum",
    "auroc",
    "ci_low",
    "ci_high",
    "ci_method",
    "num_normal",
    "num_abnormal",
    "note",
    "scoring_id",
)
"""Columns of strata.csv: all abnormal images of the stratum, pooled, against its normals."""


def evaluate_strata(
    evaluated: pd.DataFrame, *, normal: Collection[str], metadata: pd.DataFrame, score: str, scoring_id: str
) -> pd.DataFrame:
    """Return STRATA_COLUMNS for `LabelJoin.evaluated` and `parse_metadata`'s frame.

    A stratum without normals or without abnormal images is listed with its counts and no AUROC.
    """
    # An image that the metadata lack is of an unknown kind: dropping it would make the counts disagree.
    kinds = metadata.reindex(evaluated["image_id"]).fillna(UNKNOWN).reset_index(drop=True)
    is_normal = evaluated["label"].isin(normal).to_numpy()
    values = evaluated[score].to_numpy(dtype=np.float64)
    rows = []
    for variable in kinds.columns:
        for stratum in order_strata(variable, set(kinds[variable])):
            chosen = (kinds[variable] == stratum).to_numpy()
            found = stratum_auroc(
                values[chosen & is_normal],
                abnormal=values[chosen & ~is_normal],
                groups=pd.concat([evaluated["group"][chosen & is_normal], evaluated["group"][chosen & ~is_normal]]),
            )
            counts = (int((chosen & is_normal).sum()), int((chosen & ~is_normal).sum()))
            rows.append((score, variable, stratum, *found, *counts, size_note(*counts), scoring_id))
    return pd.DataFrame(rows, columns=list(STRATA_COLUMNS))


def stratum_auroc(normal: Floats, *, abnormal: Floats, groups: pd.Series[str]) -> tuple[float, float, float, str]:
    """Return AUROC, low, high and method; `groups` are the lesions of the normals, then of the abnormal images."""
    if min(len(normal), len(abnormal)) == 0:
        return float("nan"), float("nan"), float("nan"), EMPTY
    lesions = number_lesions(groups)
    found = influences(normal, abnormal={"": abnormal}, lesions=lesions)
    smaller = min(len(np.unique(lesions[: len(normal)])), len(np.unique(lesions[len(normal) :])))
    low, high, method = interval(
        float(found.values[0]),
        variance=float(found.variances(lesions)[0]),
        num_pairs=smaller,
        method=LESION_CLUSTERS if groups.notna().any() else DELONG,
    )
    return float(found.values[0]), low, high, method


def age_band(ages: pd.Series[float]) -> pd.Series[str]:
    """Name the band of each age in years; unknown where it is missing or none of a human."""
    result = pd.Series(UNKNOWN, index=ages.index, dtype=object)
    for name, youngest, end in AGE_BANDS:
        result[(ages >= youngest) & (ages < end)] = name
    return result


def order_strata(variable: str, names: Collection[str]) -> list[str]:
    """Ages in their order, all else by name, what is not known last."""
    bands = [name for name, _, _ in AGE_BANDS]
    known = set(names) - {UNKNOWN}
    ordered = [name for name in bands if name in known] if variable == "age" else sorted(known)
    return [*ordered, *([UNKNOWN] if UNKNOWN in names else [])]


def size_note(num_normal: int, num_abnormal: int) -> str:
    """Say which side is missing or small; empty if neither is."""
    sides = {"normal": num_normal, "abnormal": num_abnormal}
    missing = [name for name, num in sides.items() if num == 0]
    if missing:
        return f"no {', no '.join(missing)}"
    small = [f"{num} {name}" for name, num in sides.items() if num < MIN_IMAGES]
    return f"only {', '.join(small)}" if small else ""
