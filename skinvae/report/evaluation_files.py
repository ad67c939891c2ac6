"""The files of an evaluation: tables as CSV, figures, and all of it as evaluation.json."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pandas as pd

from skinvae.records import SCORES
from skinvae.report.evaluation import Evaluation
from skinvae.report.evaluation_document import evaluation_document
from skinvae.report.figures import png_bytes, roc_curves, score_histograms
from skinvae.report.forest import strata_forest


def evaluation_files(evaluation: Evaluation) -> Iterator[tuple[str, bytes]]:
    """Name and contents of each file; what was not asked for has none."""
    join = evaluation.join
    for name, frame in evaluation_frames(evaluation).items():
        yield name, frame.to_csv(index=False).encode()
    yield "evaluation.json", (json.dumps(evaluation_document(evaluation), indent=2) + "\n").encode()
    yield "roc_curves.png", png_bytes(roc_curves(join.evaluated, normal=join.normal, scores=SCORES))
    yield (
        "score_histograms.png",
        png_bytes(score_histograms(join.evaluated, normal=join.normal, num_by_class=join.num_evaluated_by_class)),
    )
    if evaluation.strata is not None:
        yield "strata.png", png_bytes(strata_forest(evaluation.strata))


def evaluation_frames(evaluation: Evaluation) -> dict[str, pd.DataFrame]:
    """The tables, by the name of their file."""
    frames = {"auroc.csv": evaluation.auroc}
    if evaluation.curves is not None:
        frames["average_precision.csv"] = evaluation.curves.average_precision
        frames["operating_points.csv"] = evaluation.curves.operating_points
    if evaluation.detection is not None:
        frames["detection.csv"] = evaluation.detection.frame
    if evaluation.comparison is not None:
        frames["comparison.csv"] = evaluation.comparison
    if evaluation.strata is not None:
        frames["strata.csv"] = evaluation.strata
    if evaluation.paper is not None:
        frames["paper_protocol.csv"] = evaluation.paper.frame
    return frames
