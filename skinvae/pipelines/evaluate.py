"""evaluate: score table + labels -> AUROC with intervals, pictures, and an account of every row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from skinvae.config import Config
from skinvae.errors import LabelsError, TableError
from skinvae.metrics.evaluation import evaluate_scores
from skinvae.metrics.join import LabelJoin, join_labels
from skinvae.metrics.labels import parse_groups, parse_labels
from skinvae.metrics.protocols import paper_protocol
from skinvae.pipelines.provenance import library_versions
from skinvae.records import SCORES
from skinvae.report.evaluation import Evaluation, evaluation_document
from skinvae.report.figures import png_bytes, roc_curves, score_histograms
from skinvae.storage.bundle import read_bundle_copy
from skinvae.storage.filesystem import Location
from skinvae.storage.frames import read_frame
from skinvae.storage.score_table import ScoreTable

Protocol = Literal["all", "paper"]

_COLUMNS = ("image_id", "status", "model_id", "precision", *SCORES)


def evaluate(
    table: str,
    *,
    labels: str,
    out: str,
    groups: str | None,
    normal: Sequence[str],
    protocol: Protocol,
    scoring_id: str | None,
    config: Config,
) -> Evaluation:
    """Evaluate as `make_evaluation` does, and write evaluation.json, auroc.csv and the figures."""
    evaluation = make_evaluation(
        table,
        labels=labels,
        groups=groups,
        normal=normal,
        protocol=protocol,
        scoring_id=scoring_id,
        config=config,
    )
    _write(evaluation, Location.parse(out, config.storage.with_credentials))
    return evaluation


def make_evaluation(
    table: str,
    *,
    labels: str,
    groups: str | None,
    normal: Sequence[str],
    protocol: Protocol,
    scoring_id: str | None,
    config: Config,
) -> Evaluation:
    """Join scores and labels, drop what the model was trained on, compute AUROCs.

    `normal` = () takes the classes that training called normal. Raises UsageError if the table holds several
    scorings and `scoring_id` names none of them, LabelsError if the labels do not fit.
    """
    storage = config.storage
    scores = ScoreTable.open(Location.parse(table, storage.with_credentials))
    chosen = scores.choose_scoring(scoring_id)
    frame = scores.read(_COLUMNS, scoring_id=chosen).to_pandas()
    if frame.empty:
        raise TableError(f"'{table}' holds no rows of scoring '{chosen}': the archives had no images")
    model, split = read_bundle_copy(scores.location, model_id=str(frame["model_id"].iloc[0]))
    label_frame = parse_labels(read_frame(Location.parse(labels, storage)), origin=labels)
    if unknown := sorted(set(normal) - set(label_frame["label"])):
        raise LabelsError(f"'{labels}' has no image of class {', '.join(unknown)}: check --normal")
    join = join_labels(
        frame,
        labels=label_frame,
        normal=normal or model.normal_classes,
        split=split,
        groups=parse_groups(read_frame(Location.parse(groups, storage)), origin=groups) if groups else None,
    )
    provenance = {
        "table": scores.location.uri,
        "table_version": scores.version,
        "scoring_id": chosen,
        "model_id": frame["model_id"].iloc[0],
        "labels": labels,
        "groups": groups,
        "protocol": protocol,
        "settings": config.evaluate.model_dump(),
        "versions": library_versions(),
    }
    return _evaluate(join, scoring_id=chosen, protocol=protocol, config=config, provenance=provenance)


def _evaluate(
    join: LabelJoin, *, scoring_id: str, protocol: Protocol, config: Config, provenance: dict[str, Any]
) -> Evaluation:
    settings = config.evaluate
    auroc = evaluate_scores(
        join.evaluated,
        normal=join.normal,
        scoring_id=scoring_id,
        rng=np.random.default_rng(settings.seed),
        num_resamples=settings.num_resamples,
    )
    paper = paper_protocol(join.evaluated, normal=join.normal, seed=settings.seed) if protocol == "paper" else None
    return Evaluation(join=join, auroc=auroc, paper=paper, provenance=provenance)


def _write(evaluation: Evaluation, out: Location) -> None:
    join = evaluation.join
    (out / "auroc.csv").write_bytes(evaluation.auroc.to_csv(index=False).encode())
    document = json.dumps(evaluation_document(evaluation), indent=2) + "\n"
    (out / "evaluation.json").write_bytes(document.encode())
    if evaluation.paper is not None:
        (out / "paper_protocol.csv").write_bytes(evaluation.paper.frame.to_csv(index=False).encode())
    (out / "roc_curves.png").write_bytes(png_bytes(roc_curves(join.evaluated, normal=join.normal, scores=SCORES)))
    (out / "score_histograms.png").write_bytes(png_bytes(score_histograms(join.evaluated, normal=join.normal)))
