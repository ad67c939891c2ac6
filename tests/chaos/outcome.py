"""What a history of faults did to a table, against a run without faults."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from skinvae.records import SCORES


@dataclass
class Timeline:
    """What happened when, in seconds since 1970."""

    committed: list[tuple[float, int]]
    """Rows in the table, whenever a reader found more of them."""
    scored: list[tuple[float, int]] = field(default_factory=list)
    """Images of each batch."""
    drivers_killed: list[float] = field(default_factory=list)
    workers_killed: list[float] = field(default_factory=list)


@dataclass
class Outcome:
    """One table, from nothing to its end."""

    scenario: str
    seed: int
    faults: list[str] = field(default_factory=list)
    """What happened, in order."""
    num_images: int = 0
    num_lost: int = 0
    """Images without a row."""
    num_duplicated: int = 0
    """Rows beyond one for each image, for readers of Delta or of plain Parquet."""
    num_altered: int = 0
    """Rows that say something else than a run without faults."""
    num_scored: int = 0
    """By all runs together: what is above `num_images` was scored again."""
    seconds: float = 0.0
    notes: dict[str, int] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    """Of a reader of Delta who looked on: rows that were there twice, or gone."""
    timeline: Timeline | None = None

    @property
    def num_faults(self) -> int:
        return len(self.faults)

    @property
    def rescored_share(self) -> float:
        """Scored again for each fault, as a share of the images."""
        return max(0, self.num_scored - self.num_images) / self.num_images / max(1, self.num_faults)

    @property
    def is_right(self) -> bool:
        return not (self.num_lost or self.num_duplicated or self.num_altered or self.complaints)

    def note(self, what: str, amount: int = 1) -> None:
        """Add to a count of something worth knowing."""
        self.notes[what] = self.notes.get(what, 0) + amount

    def compare(self, found: pd.DataFrame, expected: pd.DataFrame) -> None:
        """Count what differs; both have a row per image, `member` is the key."""
        self.num_images = len(expected)
        self.num_lost = len(set(expected.index) - set(found.index))
        self.num_duplicated = int(found.index.duplicated().sum())
        once = found[~found.index.duplicated()]
        both = once.index.intersection(expected.index)
        left, right = once.loc[both], expected.loc[both]
        differs = left["status"].to_numpy() != right["status"].to_numpy()
        for name in (*SCORES, "ess"):
            differs |= _bits(left[name]) != _bits(right[name])
        self.num_altered = int(differs.sum()) + len(set(found.index) - set(expected.index))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: value for name, value in asdict(self).items() if name != "timeline"}


def _bits(values: pd.Series[float]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """As integers, so that only the same double is equal; null is NaN."""
    return np.ascontiguousarray(values.to_numpy(np.float64, na_value=np.nan)).view(np.int64)
