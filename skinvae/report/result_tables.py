"""What an evaluation says beside AUROC, as tables of the page: what is found at which cost, comparisons, strata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from skinvae.metrics.auroc import MACRO, POOLED
from skinvae.metrics.curves import Curves
from skinvae.metrics.detection import NORMAL, Detection
from skinvae.metrics.operating_points import SPECIFICITIES
from skinvae.report.html.contents import Cell, Table, TableRow
from skinvae.report.survey import HEADLINE
from skinvae.report.tables import ROW_ORDER, columns_of

_NOTHING = Cell("")


def found_table(curves: Curves, detection: Detection | None) -> Table:
    """Of each target: average precision beside the prevalence, sensitivities, and what p-values find."""
    points = {
        (target, level): _share(*numbers)
        for target, level, *numbers in columns_of(
            _headline(curves.operating_points), "target", "specificity", "sensitivity", "ci_low", "ci_high"
        )
    }
    columns = ["images", "average precision", "prevalence"]
    columns += [f"sensitivity at {100 * level:.0f} % specificity" for level in SPECIFICITIES]
    found: dict[str, tuple[Cell, ...]] = {}
    if detection is not None:
        columns += [
            f"flagged, p ≤ {detection.false_positive_rate:g}",
            f"called, false discovery rate {detection.false_discovery_rate:g}",
        ]
        found = {row["target"]: _found_cells(row) for row in detection.frame.to_dict("records")}
    nothing = (_NOTHING, _NOTHING) if detection is not None else ()
    precisions = _headline(curves.average_precision)
    rows = []
    if NORMAL in found:
        rows.append(_normal_row(int(precisions["num_normal"].iloc[0]), found[NORMAL]))
    for target, num, share, *numbers in columns_of(
        precisions, "target", "num_abnormal", "prevalence", "average_precision", "ci_low", "ci_high"
    ):
        cells = (
            Cell(f"{num:,}"),
            _number(*numbers),
            Cell(_percent(share)),
            *(points[target, level] for level in SPECIFICITIES),
            # Macro has none: shares of images are not averaged over classes.
            *found.get(target, nothing),
        )
        rows.append(TableRow(target, cells, is_main=target in (MACRO, POOLED)))
    return Table(f"What {HEADLINE} finds, with 95 % intervals", ("target", *columns), tuple(rows))


def comparison_table(comparison: pd.DataFrame) -> Table | None:
    """One score against each of the others, all diseases pooled; None where only scorings are compared."""
    is_within = comparison["scoring_id_a"] == comparison["scoring_id_b"]
    pooled = comparison[is_within & (comparison["target"] == POOLED)]
    if pooled.empty:
        return None
    by_score = {
        score: (_number(other), _difference(difference, low, high), Cell(_p_value(p_value)))
        for score, other, difference, low, high, p_value in columns_of(
            pooled, "score_b", "auroc_b", "difference", "ci_low", "ci_high", "p_value"
        )
    }
    score, own = pooled["score_a"].iloc[0], pooled["auroc_a"].iloc[0]
    return Table(
        f"{score} against the other scores on the same images, all diseases: its AUROC is {own:.3f}",
        ("score", "AUROC", f"{score} has more by", "p-value"),
        tuple(TableRow(name, by_score[name]) for name in ROW_ORDER if name in by_score),
    )


def strata_table(strata: pd.DataFrame) -> Table:
    """One row a stratum; an AUROC never without its interval, and a note where it rests on few images."""
    rows = []
    columns = ("variable", "stratum", "num_normal", "num_abnormal", "auroc", "ci_low", "ci_high", "note")
    for variable, stratum, num_normal, num_abnormal, value, low, high, note in columns_of(strata, *columns):
        cells = (Cell(f"{num_normal:,}"), Cell(f"{num_abnormal:,}"), _number(value, low, high), Cell(note))
        rows.append(TableRow(f"{variable}: {stratum}", cells))
    caption = f"AUROC of {strata['score'].iloc[0]} by stratum, all diseases together, with 95 % intervals"
    return Table(caption, ("stratum", "normal", "abnormal", "AUROC", "note"), tuple(rows))


def _normal_row(num_normal: int, found: tuple[Cell, ...]) -> TableRow:
    empty = (_NOTHING,) * (2 + len(SPECIFICITIES))
    return TableRow(NORMAL, (Cell(f"{num_normal:,}"), *empty, *found))


def _found_cells(row: Mapping[Any, Any]) -> tuple[Cell, ...]:
    return _share(row["share_flagged"], row["ci_low"], row["ci_high"]), Cell(f"{row['num_called']:,}")


def _headline(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["score"] == HEADLINE]


def _number(value: float, low: float | None = None, high: float | None = None) -> Cell:
    if pd.isna(value):
        return Cell("–")
    return Cell(f"{value:.3f}", "" if low is None else f"{low:.2f} to {high:.2f}")


def _difference(value: float, low: float, high: float) -> Cell:
    return Cell(f"{value:+.3f}", "" if pd.isna(low) else f"{low:+.3f} to {high:+.3f}")


def _share(value: float, low: float, high: float) -> Cell:
    return Cell("–") if pd.isna(value) else Cell(_percent(value), f"{_percent(low)} to {_percent(high)}")


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _p_value(value: float) -> str:
    if pd.isna(value):
        return "none"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
