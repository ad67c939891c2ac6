"""The highest of many scores as they stream by: exactly, in memory for the highest alone."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class Highest:
    """Rows whose score is at least that of the `count`-th highest: so all that share the last place, in any order.

    Holds at most three times as many rows as it returns, and one batch.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: list[pd.DataFrame] = []

    def add(self, rows: pd.DataFrame) -> None:
        """Rows with a finite column `score`."""
        self._kept.append(rows)
        if sum(map(len, self._kept)) > 3 * self._count:
            self._kept = [self.rows()]

    def rows(self) -> pd.DataFrame:
        """Those of all that were added, in their order."""
        rows: pd.DataFrame = pd.concat(self._kept, ignore_index=True)
        if len(rows) <= self._count:
            return rows
        scores: NDArray[np.float64] = rows["score"].to_numpy()
        lowest = np.partition(scores, len(scores) - self._count)[len(scores) - self._count]
        highest: pd.DataFrame = rows[scores >= lowest]
        return highest.reset_index(drop=True)


def num_highest(num_rows: int, *, percent: float) -> int:
    """How many rows are the highest `percent` of them: rounded up, so that of any rows there is one."""
    # Rounded first: 1.1 % of 1,000 is 11, and 11.000000000000002 in floating point.
    return min(num_rows, math.ceil(round(num_rows * percent / 100, 6)))
