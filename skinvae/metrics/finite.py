"""Scores that are not finite are no scores: their rows say so instead."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skinvae.records import SCORES, Status


def reject_nonfinite(frame: pd.DataFrame, scored: NDArray[np.intp]) -> None:
    """Of the rows `scored`, those with a score that is not finite lose all of them, and get a status and a reason."""
    names = [*SCORES, "ess"]
    bad = scored[~np.isfinite(frame.loc[scored, names].to_numpy()).all(axis=1)]
    frame.loc[bad, names] = np.nan
    frame.loc[bad, "status"] = Status.NONFINITE.value
    frame.loc[bad, "error"] = "the model's scores of this image are not finite"
