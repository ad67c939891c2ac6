"""evaluate: score table + labels -> AUROC with intervals, what is detected, pictures, and an account of every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd

from skinvae.config import Config, EvaluateSettings
from skinvae.errors import UsageError
from skinvae.metrics.comparison import common_images, compare_scores, compare_scorings
from skinvae.metrics.curves import evaluate_curves
from skinvae.metrics.detection import detect
from skinvae.metrics.evaluation import evaluate_scores
from skinvae.metrics.labels import parse_metadata
from skinvae.metrics.protocols import paper_protocol
from skinvae.metrics.strata import evaluate_strata
from skinvae.pipelines.evaluation_inputs import LabelSources, Scored, join_in_memory
from skinvae.pipelines.large_evaluation import evaluate_on_disk
from skinvae.pipelines.provenance import library_versions
from skinvae.report.evaluation import Evaluation
from skinvae.report.evaluation_files import evaluation_files
from skinvae.storage.filesystem import Location
from skinvae.storage.frames import read_frame

Protocol = Literal["all", "paper"]


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
    metadata: str | None = None,
    against: str | None = None,
    against_scoring_id: str | None = None,
) -> Evaluation:
    """Evaluate as `make_evaluation` does, and write evaluation.json, the CSV files and the figures."""
    evaluation = make_evaluation(
        table,
        labels=labels,
        groups=groups,
        normal=normal,
        protocol=protocol,
        scoring_id=scoring_id,
        config=config,
        metadata=metadata,
        against=against,
        against_scoring_id=against_scoring_id,
    )
    folder = Location.parse(out, config.storage.with_credentials)
    for name, data in evaluation_files(evaluation):
        (folder / name).write_bytes(data)
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
    metadata: str | None = None,
    against: str | None = None,
    against_scoring_id: str | None = None,
) -> Evaluation:
    """Join scores and labels, drop what the model was trained on, compute AUROCs and what else is said of scores.

    `normal` = () takes the classes that training called normal; without `groups`, `metadata` tell lesions too. The
    scores are compared with another scoring, of the same table or `against` another. Raises UsageError if a table holds
    several scorings and none is named, LabelsError if the labels do not fit.
    """
    settings = config.evaluate
    scored = Scored.open(table, scoring_id=scoring_id, option="--scoring-id", storage=config.storage)
    sources = LabelSources(labels, groups, metadata, normal, config.storage)
    other = None
    if against is not None or against_scoring_id is not None:
        other = Scored.open(
            against or table, scoring_id=against_scoring_id, option="--against-scoring-id", storage=config.storage
        )
        if other.scoring_id == scored.scoring_id:
            raise UsageError(
                f"both are scoring {scored.scoring_id}, whose scores are the same: name another with --against or "
                "--against-scoring-id"
            )
    is_large = max(one.num_rows for one in (scored, other or scored)) > settings.max_rows_in_memory
    if is_large and other is not None:
        raise UsageError(
            "two scorings are compared in memory: raise evaluate.max_rows_in_memory above the rows of both tables, "
            "or evaluate each alone"
        )
    found = (
        evaluate_on_disk(scored, sources, settings=settings)
        if is_large
        else _evaluate_in_memory(scored, sources, settings=settings)
    )
    if other is not None:
        found = _against(found, scored, other, sources)
    if protocol == "paper":
        paper = paper_protocol(found.join.evaluated, normal=found.join.normal, seed=settings.seed)
        found = replace(found, paper=paper)
    provenance = {
        **scored.as_dict(),
        "labels": labels,
        "groups": groups,
        "metadata": metadata,
        "against": None if other is None else other.as_dict(),
        "protocol": protocol,
        "settings": settings.model_dump(),
        "versions": library_versions(),
    }
    return replace(found, provenance=provenance)


def _evaluate_in_memory(scored: Scored, sources: LabelSources, *, settings: EvaluateSettings) -> Evaluation:
    join = join_in_memory(scored, sources)
    strata = None
    if sources.metadata is not None:
        metadata = parse_metadata(read_frame(sources.location(sources.metadata)), origin=sources.metadata)
        strata = evaluate_strata(
            join.evaluated,
            normal=join.normal,
            metadata=metadata,
            score=settings.strata_score,
            scoring_id=scored.scoring_id,
        )
    return Evaluation(
        join=join,
        auroc=evaluate_scores(
            join.evaluated,
            normal=join.normal,
            scoring_id=scored.scoring_id,
            rng=np.random.default_rng(settings.seed),
            num_resamples=settings.num_resamples,
        ),
        paper=None,
        provenance={},
        curves=evaluate_curves(
            join.evaluated,
            normal=join.normal,
            scoring_id=scored.scoring_id,
            rng=np.random.default_rng(settings.seed),
            num_resamples=settings.num_resamples,
        ),
        detection=detect(
            join.evaluated,
            normal=join.normal,
            false_positive_rate=settings.false_positive_rate,
            false_discovery_rate=settings.false_discovery_rate,
            held_out=scored.held_out,
        ),
        comparison=compare_scores(
            join.evaluated, normal=join.normal, score=settings.compared_score, scoring_id=scored.scoring_id
        ),
        strata=strata,
    )


def _against(found: Evaluation, scored: Scored, other: Scored, sources: LabelSources) -> Evaluation:
    """Add the comparison with another scoring, on the images that neither model was trained on."""
    join = join_in_memory(other, replace(sources, normal=found.join.normal))
    compared = compare_scorings(
        found.join.evaluated,
        other=join.evaluated,
        normal=found.join.normal,
        scoring_ids=(scored.scoring_id, other.scoring_id),
    )
    num_common = len(common_images(found.join.evaluated, join.evaluated)[0])
    note = (
        f"Compared with scoring {other.scoring_id} of {other.table.location} on the {num_common:,} images that both "
        f"count; {len(found.join.evaluated) - num_common:,} count only here, {len(join.evaluated) - num_common:,} only "
        "there."
    )
    frames = [frame for frame in (found.comparison, compared) if frame is not None]
    return replace(found, comparison=pd.concat(frames, ignore_index=True), notes=(*found.notes, note))
