"""What the report says of an evaluation: ROC curves, AUROC, what is found at which cost, comparisons and strata."""

from __future__ import annotations

import dataclasses

import pandas as pd

from skinvae.metrics.auroc import MACRO, POOLED
from skinvae.metrics.join import LabelJoin
from skinvae.metrics.protocols import PAPER_CLASSES, PAPER_SOURCE, PAPER_TABLE_2
from skinvae.report.charts import chart
from skinvae.report.evaluation import Evaluation, interval_sentences, join_sentences
from skinvae.report.evaluation_findings import COMPARISON_SENTENCE, detection_sentences
from skinvae.report.figures import roc_curves
from skinvae.report.forest import strata_forest
from skinvae.report.html.contents import AurocCell, AurocTable, Chart, DetectionSection
from skinvae.report.names import Names
from skinvae.report.result_tables import comparison_table, found_table, strata_table
from skinvae.report.survey import HEADLINE
from skinvae.report.tables import ROW_ORDER, columns_of

_FOREST_INCHES = 5.4
"""Narrow, so that its text can be read on a phone."""


def detection_section(evaluation: Evaluation, *, names: Names) -> DetectionSection:
    """Of the images that the model was not trained on."""
    join, auroc, curves, strata = evaluation.join, evaluation.auroc, evaluation.curves, evaluation.strata
    ours = auroc_table(auroc, normal=join.normal)
    pooled = dict(zip([name for name, _ in ours.targets], dict(ours.rows)[HEADLINE], strict=True))[POOLED]
    shown = dataclasses.replace(
        join,
        unmatched_examples=tuple(map(names.image, join.unmatched_examples)),
        labels_unmatched_examples=tuple(map(names.image, join.labels_unmatched_examples)),
    )
    comparison = comparison_table(evaluation.comparison) if evaluation.comparison is not None else None
    return DetectionSection(
        pooled=pooled,
        num_normal=join.num_normal,
        num_abnormal=join.num_evaluated - join.num_normal,
        normal=join.normal,
        sample_note=sample_note(join),
        roc=_roc(evaluation),
        ours=ours,
        published=published_table() if set(auroc["target"]) & set(PAPER_CLASSES) else None,
        found=found_table(curves, evaluation.detection) if curves is not None else None,
        found_sentences=tuple(detection_sentences(evaluation.detection)),
        comparison=comparison,
        comparison_note=COMPARISON_SENTENCE if comparison is not None else "",
        strata=strata_table(strata) if strata is not None else None,
        forest=_forest(strata) if strata is not None else None,
        account=tuple(join_sentences(shown)),
        notes=(*evaluation.notes, *interval_sentences(auroc)),
    )


def sample_note(join: LabelJoin) -> str:
    """Of figures of a table too large for memory; empty where all images are drawn."""
    if len(join.evaluated) == join.num_evaluated:
        return ""
    return f"Drawn from a sample of {len(join.evaluated):,} of {join.num_evaluated:,} images; numbers are of all."


def auroc_table(auroc: pd.DataFrame, *, normal: tuple[str, ...]) -> AurocTable:
    """Of AUROC_COLUMNS."""
    first = auroc[auroc["score"] == ROW_ORDER[0]]
    sizes = {str(target): int(size) for target, size in zip(first["target"], first["num_abnormal"], strict=True)}
    cells = {
        (row["score"], row["target"]): AurocCell(float(row["auroc"]), (float(row["ci_low"]), float(row["ci_high"])))
        for row in auroc.to_dict("records")
    }
    return AurocTable(
        caption=f"AUROC of this model, {int(auroc['num_normal'].iloc[0]):,} normal images ({', '.join(normal)}) "
        "against n abnormal ones, with 95 % intervals",
        targets=tuple(sizes.items()),
        rows=tuple((score, tuple(cells[score, target] for target in sizes)) for score in ROW_ORDER),
    )


def published_table() -> AurocTable:
    """The paper's."""
    targets = (*PAPER_CLASSES, MACRO)
    return AurocTable(
        caption=f"Not of this model, for comparison: {PAPER_SOURCE}. Their model, on other draws of images; "
        "mean of 5 runs, no intervals printed; macro is their column ALL",
        targets=tuple((target, None) for target in targets),
        rows=tuple(
            (score, tuple(AurocCell(PAPER_TABLE_2[score][target], None) for target in targets)) for score in ROW_ORDER
        ),
    )


def _roc(evaluation: Evaluation) -> Chart:
    join, auroc, curves = evaluation.join, evaluation.auroc, evaluation.curves
    its = auroc[auroc["score"] == HEADLINE]
    areas = {
        (HEADLINE, target): (value, low, high)
        for target, value, low, high in columns_of(its, "target", "auroc", "ci_low", "ci_high")
    }
    marks: list[tuple[float, float, float, float]] = []
    note = sample_note(join)
    if curves is not None:
        points = curves.operating_points
        pooled = points[(points["score"] == HEADLINE) & (points["target"] == POOLED)]
        marks = list(columns_of(pooled, "specificity_here", "sensitivity", "ci_low", "ci_high"))
        levels = " and ".join(f"{100 * level:.0f}" for level in pooled["specificity"])
        note = f"Marked: the sensitivity for all diseases at {levels} % specificity, with its 95 % interval. {note}"
    svg = chart(
        lambda: roc_curves(join.evaluated, normal=join.normal, scores=(HEADLINE,), areas=areas, marks=marks),
        name="roc",
        alt=f"ROC curves of {HEADLINE}, one for each disease and one for all; the tables below have their numbers",
    )
    return Chart(svg, note.strip())


def _forest(strata: pd.DataFrame) -> Chart:
    alt = "Forest plot of the AUROC of each stratum with its interval; the table below has its numbers"
    return Chart(chart(lambda: strata_forest(strata, width=_FOREST_INCHES), name="strata", alt=alt), "")
