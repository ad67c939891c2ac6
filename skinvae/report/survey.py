"""One pass over the rows of a scoring, in memory that does not grow with them: counts, histograms, extremes."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from skinvae.metrics.highlights import NUM_P_BINS
from skinvae.records import SCORES, Status

HEADLINE = "vae_reconst"
"""The score that found most in the paper, and that p-values are made of; pages and tables show it first."""

SURVEY_COLUMNS = ("source", "source_id", "member_index", "status", "p_value", "model_id", "scored_at", *SCORES)

_MAX_CELLS = 4096
_MAX_ORDINAL = 2.0**40
"""Of a cell: well below 2**53, above which a float64 no longer tells one from the next."""

_FENCE = 5.0
"""Interquartile ranges between the quartiles and the ends of a histogram's axis."""

Key = tuple[str, int]
"""source_id and member_index: one row of a scoring."""


class Histogram:
    """Counts of a stream of numbers whose range is not known before: cells that double in width as they grow many."""

    def __init__(self) -> None:
        self.width = 0.0
        self._cells: dict[float, int] = {}
        self.num_values = 0

    def add(self, values: NDArray[np.float64]) -> None:
        """Count finite values."""
        if not len(values):
            return
        if not self.width:
            spread = float(np.ptp(values)) or abs(float(values[0])) or 1.0
            self.width = 2.0 ** np.floor(np.log2(spread / _MAX_CELLS))
        while np.abs(values).max() > self.width * _MAX_ORDINAL:
            self._widen()
        cells, counts = np.unique(np.floor(values / self.width), return_counts=True)
        for cell, count in zip(cells.tolist(), counts.tolist(), strict=True):
            self._cells[cell] = self._cells.get(cell, 0) + count
        self.num_values += len(values)
        while len(self._cells) > _MAX_CELLS:
            self._widen()

    def quantile(self, share: float) -> float:
        """The middle of the cell in which so large a share of the values is reached."""
        below = 0
        for cell, count in sorted(self._cells.items()):
            below += count
            if below >= share * self.num_values:
                return (cell + 0.5) * self.width
        raise ValueError("an empty histogram has no quantile")

    def bars(self, num_bars: int) -> Bars:
        """About so many bars between limits that far outliers do not stretch."""
        first, third = self.quantile(0.25), self.quantile(0.75)
        cells = sorted(self._cells)
        reach = _FENCE * max(third - first, self.width)
        low = max(cells[0], np.floor((first - reach) / self.width))
        high = min(cells[-1] + 1, np.floor((third + reach) / self.width) + 1)
        step = max(1.0, np.ceil((high - low) / num_bars))
        counts = np.zeros(int(np.ceil((high - low) / step)), np.int64)
        num_beyond = 0
        for cell, count in self._cells.items():
            if low <= cell < high:
                counts[int((cell - low) // step)] += count
            else:
                num_beyond += count
        return Bars((low + step * np.arange(len(counts) + 1)) * self.width, counts, num_beyond)

    def _widen(self) -> None:
        self.width *= 2
        wider: dict[float, int] = {}
        for cell, count in self._cells.items():
            wider[cell // 2] = wider.get(cell // 2, 0) + count
        self._cells = wider


@dataclass(frozen=True)
class Bars:
    """A histogram as it is drawn."""

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    num_beyond: int
    """Values outside of the edges."""


@dataclass
class Survey:
    """What the rows of one scoring come to."""

    by_status: Counter[str] = field(default_factory=Counter)
    by_archive: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    """Rows by status, by (source, source_id)."""
    model_ids: set[str] = field(default_factory=set)
    first_at: datetime.datetime | None = None
    last_at: datetime.datetime | None = None
    histograms: dict[str, Histogram] = field(default_factory=lambda: {name: Histogram() for name in SCORES})
    p_value_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(NUM_P_BINS, np.int64))
    most: list[Key] = field(default_factory=list)
    """Of the highest scores, the highest first."""
    least: list[Key] = field(default_factory=list)
    """Of the lowest scores, the lowest first."""
    rejected: list[Key] = field(default_factory=list)
    """The first ones, by source_id and member."""

    @property
    def num_rows(self) -> int:
        return sum(self.by_status.values())

    @property
    def num_ok(self) -> int:
        return self.by_status[Status.OK.value]


def take_survey(batches: Iterable[pa.RecordBatch], *, num_extremes: int, num_rejected: int) -> Survey:
    """Survey rows with SURVEY_COLUMNS. Raises ValueError for a row that is ok without a finite score."""
    survey = Survey()
    by_score = ((HEADLINE, "descending"), ("source_id", "ascending"), ("member_index", "ascending"))
    by_low_score = ((HEADLINE, "ascending"), *by_score[1:])
    most, least, rejected = _First(num_extremes, by_score), _First(num_extremes, by_low_score), None
    rejected = _First(num_rejected, by_score[1:])
    for batch in batches:
        if not batch.num_rows:
            continue
        rows = pa.Table.from_batches([batch])
        _count(survey, rows)
        is_ok = pc.equal(rows["status"], Status.OK.value)
        scored = rows.filter(is_ok)
        _measure(survey, scored)
        most.offer(scored)
        least.offer(scored)
        rejected.offer(rows.filter(pc.invert(is_ok)))
    survey.most, survey.least, survey.rejected = most.keys(), least.keys(), rejected.keys()
    return survey


class _First:
    """The first rows of all that were offered, in one order."""

    def __init__(self, count: int, order: tuple[tuple[str, str], ...]) -> None:
        self._count, self._order = count, order
        self._rows: pa.Table | None = None

    def offer(self, rows: pa.Table) -> None:
        rows = rows.select([name for name, _ in self._order])
        if self._rows is not None:
            rows = pa.concat_tables([self._rows, rows])
        # select_k_unstable need not sort all of a batch; its order is total, since keys are unique.
        order = pc.select_k_unstable(rows, k=min(self._count, rows.num_rows), sort_keys=list(self._order))
        self._rows = rows.take(order)

    def keys(self) -> list[Key]:
        if self._rows is None:
            return []
        return list(zip(self._rows["source_id"].to_pylist(), self._rows["member_index"].to_pylist(), strict=True))


def _count(survey: Survey, rows: pa.Table) -> None:
    counted = rows.group_by(["source", "source_id", "status"]).aggregate([([], "count_all")])
    for row in counted.to_pylist():
        survey.by_status[row["status"]] += row["count_all"]
        its = survey.by_archive.setdefault((row["source"], row["source_id"]), Counter())
        its[row["status"]] += row["count_all"]
    survey.model_ids |= set(rows["model_id"].unique().to_pylist())
    span = pc.min_max(rows["scored_at"]).as_py()
    survey.first_at = min(filter(None, (survey.first_at, span["min"])))
    survey.last_at = max(filter(None, (survey.last_at, span["max"])))


def _measure(survey: Survey, scored: pa.Table) -> None:
    for name, histogram in survey.histograms.items():
        values = scored[name].to_numpy()
        if not np.isfinite(values).all():
            raise ValueError("a row with status ok holds a score that is null or not finite")
        histogram.add(values)
    p_values = scored["p_value"].drop_null().to_numpy()
    survey.p_value_counts += np.histogram(p_values, bins=NUM_P_BINS, range=(0, 1))[0]
