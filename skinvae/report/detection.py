"""What the report says of an evaluation: ROC curves, this model's AUROC, and the paper's as it was printed."""

from __future__ import annotations

import dataclasses

import pandas as pd

from skinvae.metrics.auroc import MACRO, POOLED
from skinvae.metrics.protocols import PAPER_CLASSES, PAPER_SOURCE, PAPER_TABLE_2
from skinvae.report.charts import chart
from skinvae.report.evaluation import Evaluation, interval_sentences, join_sentences
from skinvae.report.figures import roc_curves
from skinvae.report.html.contents import AurocCell, AurocTable, Chart, Detection
from skinvae.report.names import Names
from skinvae.report.survey import HEADLINE
from skinvae.report.tables import ROW_ORDER


def detection(evaluation: Evaluation, *, names: Names) -> Detection:
    """Of the images that the model was not trained on."""
    join, auroc = evaluation.join, evaluation.auroc
    ours = auroc_table(auroc, normal=join.normal)
    pooled = dict(zip([name for name, _ in ours.targets], dict(ours.rows)[HEADLINE], strict=True))[POOLED]
    its = auroc[auroc["score"] == HEADLINE]
    intervals = {
        (HEADLINE, target): (low, high)
        for target, low, high in zip(its["target"], its["ci_low"], its["ci_high"], strict=True)
    }
    num_normal = int(join.is_normal.sum())
    roc = chart(
        lambda: roc_curves(join.evaluated, normal=join.normal, scores=(HEADLINE,), intervals=intervals),
        name="roc",
        alt=f"ROC curves of {HEADLINE}, one for each disease and one for all; the table below has their areas",
    )
    shown = dataclasses.replace(
        join,
        unmatched_examples=tuple(map(names.image, join.unmatched_examples)),
        labels_unmatched_examples=tuple(map(names.image, join.labels_unmatched_examples)),
    )
    return Detection(
        pooled=pooled,
        num_normal=num_normal,
        num_abnormal=len(join.evaluated) - num_normal,
        normal=join.normal,
        roc=Chart(roc, ""),
        ours=ours,
        published=published_table(),
        account=tuple(join_sentences(shown)),
        notes=tuple(interval_sentences(auroc)),
    )


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
