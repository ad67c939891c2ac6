"""Which normals train the model and which choose its best epoch, by lesion where lesions are known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd


def split_normals(
    image_ids: Sequence[str], *, groups: pd.Series[str] | None, validation_fraction: float, seed: int
) -> pd.DataFrame:
    """Assign every image to 'train' or 'validation': columns image_id, group, split (records.SPLIT_SCHEMA).

    Whole groups go to one side; images without a group are groups of their own. Groups are taken in an order that
    depends on the seed and the ids only, until validation has ceil(validation_fraction * n) images. Both sides get
    at least one. Raises ValueError for fewer than two groups.
    """
    frame = pd.DataFrame({"image_id": sorted(set(image_ids))})
    frame["group"] = None if groups is None else frame["image_id"].map(groups)
    unit = frame["group"].where(frame["group"].notna(), frame["image_id"])
    units = np.array(sorted(unit.unique()), dtype=object)
    if len(units) < 2:
        raise ValueError(f"{len(units)} independent normal images cannot be split into train and validation")
    order = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(units)
    sizes = unit.value_counts().loc[order].to_numpy()
    target = math.ceil(validation_fraction * len(frame))
    num_units = min(int(np.searchsorted(sizes.cumsum(), target)) + 1, len(units) - 1)
    held_out = set(order[:num_units])
    frame["split"] = np.where(unit.isin(held_out), "validation", "train")
    return frame
