"""What an evaluation says beside AUROC, for the terminal: what is found at which cost, comparisons, strata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from skinvae.metrics.auroc import MACRO, POOLED
from skinvae.metrics.curves import Curves
from skinvae.metrics.detection import NORMAL, Detection
from skinvae.metrics.intervals import TRIVIAL
from skinvae.metrics.operating_points import SPECIFICITIES
from skinvae.report.survey import HEADLINE
from skinvae.report.tables import ROW_ORDER, columns_of, score_tables, short, titled_table, with_interval

COMPARISON_SENTENCE = (
    "Differences are of AUROCs on the same images; p-values are two-sided and not adjusted for their number."
)


def finding_parts(curves: Curves, detection: Detection | None) -> list[RenderableType]:
    """Return the table of what is found, and the sentences that belong to it."""
    methods = sorted({*curves.average_precision["ci_method"], *curves.operating_points["ci_method"]})
    lines = [
        f"95 % intervals by {', '.join(methods)}. Thresholds are scores of the evaluated normals themselves. Average "
        "precision depends on the prevalence: a score that says nothing has the prevalence."
    ]
    if TRIVIAL in methods:
        lines.append(f"{TRIVIAL}: a perfect average precision, or a single image or lesion: shown as 0 to 1.")
    return [
        Text(),
        finding_table(curves, detection),
        *(Text(line, style="dim") for line in lines),
        *(Text(line) for line in detection_sentences(detection)),
    ]


def finding_table(curves: Curves, detection: Detection | None) -> Table:
    """Return one row a target: average precision beside the prevalence, sensitivities, what p-values find."""
    table = titled_table(f"What {HEADLINE} finds")
    table.add_column("target\n", no_wrap=True)
    headers = ["n", "average\nprecision", "preva-\nlence"]
    headers += [f"sensitivity\nat {100 * level:.0f} % sp." for level in SPECIFICITIES]
    found: dict[str, list[str]] = {}
    if detection is not None:
        headers += [
            f"flagged\np <= {detection.false_positive_rate:g}",
            f"called\nFDR {detection.false_discovery_rate:g}",
        ]
        found = {row["target"]: _found_cells(row) for row in detection.frame.to_dict("records")}
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    points = {
        (target, level): with_interval(*value)
        for target, level, *value in columns_of(
            _of_shown(curves.operating_points), "target", "specificity", "sensitivity", "ci_low", "ci_high"
        )
    }
    precisions = _of_shown(curves.average_precision)
    if detection is not None:
        table.add_row(
            NORMAL, f"{precisions['num_normal'].iloc[0]:,}", "", "", *[""] * len(SPECIFICITIES), *found[NORMAL]
        )
    for target, num, share, *value in columns_of(
        precisions, "target", "num_abnormal", "prevalence", "average_precision", "ci_low", "ci_high"
    ):
        cells = [f"{num:,}", with_interval(*value), short(share), *(points[target, level] for level in SPECIFICITIES)]
        # Macro has none: shares of images are not averaged over classes.
        cells += [] if detection is None else found.get(target, ["", ""])
        table.add_row(target, *cells, style="bold" if target in (MACRO, POOLED) else "")
    return table


def detection_sentences(detection: Detection | None) -> list[str]:
    """Return what flagging by p-value amounts to; where there are none, why."""
    if detection is None:
        return [
            "Nothing is detected by p-value: no evaluated image has one, but those that p-values were made from. "
            "`score` leaves it null where the model's held-out normals were scored with another mode, num_samples, "
            "seed or noise, or were too few."
        ]
    lines = [_promise_sentence(detection), _batch_sentence(detection)]
    if detection.num_held_out_evaluated:
        lines.append(
            f"{detection.num_held_out_evaluated:,} evaluated images made the p-values and are left out of this: theirs "
            "come from themselves."
        )
    if detection.num_without:
        lines.append(f"{detection.num_without:,} evaluated images have no p-value and are left out of this.")
    return lines


def _promise_sentence(detection: Detection) -> str:
    if not detection.has_normals:
        return (
            "Whether p-values keep their promise is not tested here: no evaluated normal but the held-out ones has one."
        )
    (normals,) = detection.frame[detection.frame["target"] == NORMAL].to_dict("records")
    rate = detection.false_positive_rate
    realised = (
        f"{_percent(normals['share_flagged'])} of the normals have p <= {rate:g} "
        f"({_percent(normals['ci_low'])} to {_percent(normals['ci_high'])} by {normals['ci_method']}): "
    )
    low, high = (_percent(share) for share in detection.promised_range)
    if detection.tail == "gamma":
        promise = (
            f"a Gamma distribution that fits {detection.num_held_out:,} held-out normals keeps {_percent(rate)} at "
            f"least as well as ranks among them would, {low} to {high}"
        )
        reason = "these normals score unlike those, or the distribution does not fit them"
    else:
        promise = f"{detection.num_held_out:,} held-out normals promise {_percent(rate)} to within {low} to {high}"
        reason = "these normals score unlike those"
    if detection.is_compatible:
        return f"{realised}compatible with p-values, where {promise}."
    word = "more" if normals["share_flagged"] > rate else "fewer"
    return f"{realised}{word} than p-values allow, where {promise}: {reason}."


def comparison_tables(comparison: pd.DataFrame) -> list[Table]:
    """Return the differences with their p-values: one score against the others, and one scoring against another."""
    tables = []
    is_within = comparison["scoring_id_a"] == comparison["scoring_id_b"]
    within, between = comparison[is_within], comparison[~is_within]
    if len(within):
        score = within["score_a"].iloc[0]
        title = f"AUROC of {score} less that of the score in the row, and p"
        tables += _difference_tables(title, within, rows=[name for name in ROW_ORDER if name != score])
    if len(between):
        other = between["scoring_id_b"].iloc[0]
        num_normal = between["num_normal"].iloc[0]
        title = f"AUROC less that of {other}, and p; {num_normal:,} normals in both"
        tables += _difference_tables(title, between, rows=ROW_ORDER)
    return tables


def strata_table(strata: pd.DataFrame) -> Table:
    """Return one row a stratum; an AUROC never without its interval, and a word where it rests on few images."""
    table = titled_table(f"AUROC of {strata['score'].iloc[0]} by stratum, abnormal images pooled, 95 % intervals")
    for header in ("", "", "normal", "abnormal", "AUROC", ""):
        table.add_column(header, justify="right" if header else "left", no_wrap=True)
    before = None
    columns = ("variable", "stratum", "num_normal", "num_abnormal", "note", "auroc", "ci_low", "ci_high")
    for variable, stratum, num_normal, num_abnormal, note, value, low, high in columns_of(strata, *columns):
        auroc = "-" if pd.isna(value) else f"{short(value)} ({short(low, 2)}-{short(high, 2)})"
        name = variable if variable != before else ""
        before = variable
        # How few stands in the same row: 80 columns hold no more words.
        word = "few" if note.startswith("only") else note
        table.add_row(name, stratum, f"{num_normal:,}", f"{num_abnormal:,}", auroc, word)
    return table


def _batch_sentence(detection: Detection) -> str:
    rate = _percent(detection.false_discovery_rate)
    lead = (
        f"Benjamini and Hochberg's procedure at a false discovery rate of {rate} calls {detection.num_called:,} of "
        f"{detection.num_images:,} images"
    )
    if detection.num_called:
        share = (
            f"; {_percent(detection.false_discovery_proportion)} of these are normals" if detection.has_normals else ""
        )
        return f"{lead}{share}."
    floor = "" if detection.tail == "gamma" else " A rank has the floor 1/(n + 1) of n held-out normals."
    return (
        f"{lead}: the smallest p-value is {detection.smallest_p_value:.3g}, and in so large a batch at least "
        f"{detection.num_needed:,} images would have to reach it.{floor}"
    )


def _found_cells(row: Mapping[Any, Any]) -> list[str]:
    if not row["num_images"]:
        return ["-", "-"]
    return [with_interval(row["share_flagged"], row["ci_low"], row["ci_high"]), f"{row['num_called']:,}"]


def _difference_tables(title: str, frame: pd.DataFrame, *, rows: list[str] | tuple[str, ...]) -> list[Table]:
    cells = {
        (score, target): f"{difference:+.3f}\n{_p_value(p_value)}"
        for score, target, difference, p_value in columns_of(frame, "score_b", "target", "difference", "p_value")
    }
    first = frame[frame["score_b"] == rows[0]]
    sizes = dict(zip(first["target"].astype(str), first["num_abnormal"].astype(int), strict=True))
    return score_tables(title, cells=cells, sizes=sizes, rows=rows)


def _of_shown(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["score"] == HEADLINE]


def _p_value(value: float) -> str:
    if pd.isna(value):
        return "p ?"
    return "p<.001" if value < 0.001 else f"p={short(value)}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
