"""Evaluate a table that memory cannot hold: joined and sorted on local disk, each score read once in its order.

Values are those of the evaluation in memory, to the rounding of sums; intervals are analytic. Python
holds chunks of rows, never all; the scratch database keeps its buffers within `evaluate.memory_mb`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from skinvae.config import EvaluateSettings
from skinvae.metrics.evaluation import abnormal_classes
from skinvae.metrics.intervals import DELONG, interval
from skinvae.metrics.join import LabelJoin, check_named
from skinvae.metrics.labels import number_rows, parse_label_parts, parse_metadata
from skinvae.metrics.ordered import OrderedScores, ordered_scores
from skinvae.metrics.ordered_frames import (
    LESION_GROUPS,
    Sides,
    auroc_frame,
    comparison_frame,
    curve_frames,
    ordered_detection,
)
from skinvae.metrics.strata import EMPTY, STRATA_COLUMNS, order_strata, size_note
from skinvae.pipelines.evaluation_inputs import COLUMNS, LabelSources, Scored
from skinvae.records import SCORE_SCHEMA, SCORES
from skinvae.report.evaluation import Evaluation
from skinvae.report.survey import HEADLINE
from skinvae.storage.frames import read_frames
from skinvae.storage.large_join import (
    IN_BATCH,
    batch_sizes,
    effective_sizes,
    join_scored,
    load_kinds,
    load_labels,
    load_lesions,
    num_made_p_values,
    number_classes,
    ordered_chunks,
    quoted,
    read_highlights,
)
from skinvae.storage.scratch import Scratch, open_scratch

_FRAME_SIZE = 200_000
"""Rows of labels in memory at once, as Python strings."""


def evaluate_on_disk(scored: Scored, sources: LabelSources, *, settings: EvaluateSettings) -> Evaluation:
    """Everything but the paper's protocol, which the caller draws from the join's sample."""
    with open_scratch(memory_mb=settings.memory_mb) as scratch:
        join, kinds = _join(scratch, scored, sources)
        classes = abnormal_classes(join.evaluated, normal=join.normal)
        number_classes(scratch, normal=join.normal, classes=classes)
        sides = _sides(scratch, join, classes)
        passes = {
            score: ordered_scores(ordered_chunks(scratch, score), counts=sides.counts, ranks=sides.ranks())
            for score in SCORES
        }
        detection = ordered_detection(
            ordered_chunks(scratch, "p_value", where=IN_BATCH),
            sizes=batch_sizes(scratch, num_classes=len(classes)),
            sides=sides,
            rates=(settings.false_positive_rate, settings.false_discovery_rate),
            held_out=scored.held_out,
            num_held_out_evaluated=num_made_p_values(scratch),
        )
        highlights = read_highlights(scratch, join, classes=classes, score=HEADLINE)
        scoring_id = scored.scoring_id
        strata = [
            row
            for variable in kinds
            for row in _strata_rows(scratch, variable, score=settings.strata_score, scoring_id=scoring_id)
        ]
    return Evaluation(
        join=join,
        auroc=auroc_frame(passes, sides=sides, scoring_id=scoring_id),
        paper=None,
        provenance={},
        curves=curve_frames(passes, sides=sides, scoring_id=scoring_id),
        detection=detection,
        comparison=comparison_frame(passes, score=settings.compared_score, sides=sides, scoring_id=scoring_id),
        strata=pd.DataFrame(strata, columns=list(STRATA_COLUMNS)) if kinds else None,
        notes=(_note(join),),
        highlights=highlights,
    )


def _join(scratch: Scratch, scored: Scored, sources: LabelSources) -> tuple[LabelJoin, list[str]]:
    schema = pa.schema([SCORE_SCHEMA.field(name) for name in COLUMNS])
    scratch.fill("scored", schema, scored.table.batches(COLUMNS, scoring_id=scored.scoring_id))
    frames = read_frames(sources.location(sources.labels), num_rows=_FRAME_SIZE)
    load_labels(scratch, parse_label_parts(frames, origin=sources.labels), origin=sources.labels)
    classes = {str(name) for (name,) in scratch.rows("SELECT DISTINCT label FROM labels")}
    check_named(sources.normal, classes=classes, origin=sources.labels)
    lesions = sources.lesions
    parts = () if lesions is None else _parts(sources, lesions)
    load_lesions(
        scratch,
        (sources.read_lesions(one, first_row=row) for row, one in parts),
        split=scored.split,
        origin=str(lesions),
    )
    kinds: list[str] = []
    if (metadata := sources.metadata) is not None:
        described = (parse_metadata(one, origin=metadata, first_row=row) for row, one in _parts(sources, metadata))
        kinds = load_kinds(scratch, described, origin=metadata)
    normal = sources.normal or scored.model.normal_classes
    return join_scored(scratch, normal=normal, kinds=kinds), kinds


def _parts(sources: LabelSources, uri: str) -> Iterator[tuple[int, pd.DataFrame]]:
    return number_rows(read_frames(sources.location(uri), num_rows=_FRAME_SIZE), origin=uri)


def _sides(scratch: Scratch, join: LabelJoin, classes: Sequence[str]) -> Sides:
    sizes = effective_sizes(scratch)
    counts = join.num_evaluated_by_class
    return Sides(
        classes=tuple(classes),
        counts=(join.num_normal, *(counts[name] for name in classes)),
        effective=tuple(sizes[code][0] for code in range(len(classes) + 1)),
        num_lesions=tuple(int(sizes[code][1]) for code in range(len(classes) + 1)),
        lesions_known=scratch.value("SELECT count(lesion) FROM evaluated") > 0,
    )


def _strata_rows(scratch: Scratch, variable: str, *, score: str, scoring_id: str) -> list[tuple[object, ...]]:
    """One pass over each stratum, with all of its abnormal images as one class."""
    found = scratch.rows(
        f"SELECT {variable}, count(*) FILTER (code = 0), count(*) FILTER (code > 0), "
        f"count(DISTINCT coalesce(lesion, image_id)) FILTER (code = 0), "
        f"count(DISTINCT coalesce(lesion, image_id)) FILTER (code > 0), count(lesion) "
        f"FROM evaluated JOIN codes USING (label) GROUP BY {variable}"
    )
    sizes = {name: numbers for name, *numbers in found}
    rows: list[tuple[object, ...]] = []
    for stratum in order_strata(variable, sizes):
        num_normal, num_abnormal, *num_lesions, with_lesion = sizes[stratum]
        estimate: tuple[float, float, float, str] = (np.nan, np.nan, np.nan, EMPTY)
        if min(num_normal, num_abnormal) > 0:
            chunks = ordered_chunks(scratch, score, where=f"{variable} = {quoted(stratum)}")
            sides = ((values, np.minimum(codes, 1), groups) for values, codes, groups in chunks)
            one = ordered_scores(sides, counts=(num_normal, num_abnormal), ranks=())
            estimate = _stratum_estimate(one, num_pairs=min(num_lesions), has_lesions=with_lesion > 0)
        counts = (num_normal, num_abnormal)
        rows.append((score, variable, stratum, *estimate, *counts, size_note(*counts), scoring_id))
    return rows


def _stratum_estimate(one: OrderedScores, *, num_pairs: int, has_lesions: bool) -> tuple[float, float, float, str]:
    variances = one.group_variance if has_lesions else one.delong_variance
    value = float(one.auroc[0])
    method = LESION_GROUPS if has_lesions else DELONG
    return (value, *interval(value, variance=float(variances[0]), num_pairs=num_pairs, method=method))


def _note(join: LabelJoin) -> str:
    sample = ""
    if len(join.evaluated) < join.num_evaluated:
        sample = f"; figures show a sample of {len(join.evaluated):,} images"
    return (
        "More rows than evaluate.max_rows_in_memory, so evaluated on disk: values are exact, intervals analytic"
        f"{sample}."
    )
