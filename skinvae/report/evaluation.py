"""An evaluation, and its terminal page.

The frame of auroc.csv is `Evaluation.auroc` as it is. Nothing here computes a metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from skinvae.metrics.auroc import MACRO
from skinvae.metrics.curves import Curves
from skinvae.metrics.detection import Detection
from skinvae.metrics.highlights import Highlights
from skinvae.metrics.intervals import TRIVIAL, ZERO_VARIANCE
from skinvae.metrics.join import LabelJoin
from skinvae.metrics.protocols import PAPER_CLASSES, PAPER_SOURCE, PAPER_TABLE_2, PaperProtocol
from skinvae.records import SCORES
from skinvae.report.evaluation_findings import COMPARISON_SENTENCE, comparison_tables, finding_parts, strata_table
from skinvae.report.tables import columns_of, score_tables, short, with_interval

_METHOD_NOTES = {
    ZERO_VARIANCE: "some scores separate the classes perfectly, or are all equal: an exact bound",
    TRIVIAL: "some class has a single image or lesion: no interval, shown as 0 to 1",
}


@dataclass(frozen=True)
class Evaluation:
    """What one run of `evaluate` found."""

    join: LabelJoin
    auroc: pd.DataFrame
    """AUROC_COLUMNS, all images that count."""
    paper: PaperProtocol | None
    """The paper's protocol on the same images; None if not asked for."""
    curves: Curves
    """Average precision, and sensitivity at chosen specificities."""
    provenance: Mapping[str, Any]
    """Table, model, labels, settings and versions, as evaluation.json has them."""
    detection: Detection | None = None
    """By p-value; None where no evaluated normal has one."""
    comparison: pd.DataFrame | None = None
    """COMPARISON_COLUMNS: scores of this scoring, and this scoring against another."""
    strata: pd.DataFrame | None = None
    """STRATA_COLUMNS; None without metadata."""
    notes: tuple[str, ...] = ()
    """Sentences on how the numbers were made."""
    highlights: Highlights | None = None
    """Of all images, where `join.evaluated` is a sample; elsewhere `find_highlights` finds them."""


def evaluation_page(evaluation: Evaluation) -> Group:
    """Return what the terminal shows: where the rows went, our AUROC, the paper's beside it. 80 columns suffice."""
    parts: list[RenderableType] = [Text(line) for line in (*join_sentences(evaluation.join), *evaluation.notes)]
    for table in auroc_tables(evaluation.auroc):
        parts += [Text(), table]
    parts += [Text(line, style="dim") for line in interval_sentences(evaluation.auroc)]
    parts += finding_parts(evaluation.curves, evaluation.detection)
    if evaluation.comparison is not None:
        for table in comparison_tables(evaluation.comparison):
            parts += [Text(), table]
        parts += [Text(COMPARISON_SENTENCE, style="dim")]
    if evaluation.strata is not None:
        parts += [Text(), strata_table(evaluation.strata)]
    if evaluation.paper is not None:
        for table in paper_protocol_tables(evaluation.paper):
            parts += [Text(), table]
        parts += [Text(f"Smaller than the paper's draw: {line}.") for line in evaluation.paper.shortfalls]
    if set(evaluation.auroc["target"]) & set(PAPER_CLASSES):
        parts += [
            Text(),
            published_table(is_same_protocol=evaluation.paper is not None and not evaluation.paper.shortfalls),
        ]
    return Group(*parts)


def join_sentences(join: LabelJoin) -> list[str]:
    """Return the account of all rows, one sentence each; what did not happen is not mentioned."""
    lines = [
        f"{join.num_rows:,} rows in the table, {join.num_evaluated:,} images evaluated: "
        f"{join.num_normal:,} normal ({', '.join(join.normal)}), {join.num_evaluated - join.num_normal:,} abnormal.",
        f"{join.num_trained:,} not counted, the model was trained on the image.",
        f"{join.num_trained_lesion:,} not counted, the model was trained on another photo of the lesion."
        if join.groups_known
        else "Lesions are not known (no --groups): photos of a trained lesion may be among the evaluated images.",
    ]
    if join.groups_known and any(join.num_without_lesion.values()):
        lines.append(
            f"Lesions of {join.num_without_lesion['normal']:,} of {join.num_normal:,} normal and of "
            f"{join.num_without_lesion['abnormal']:,} of {join.num_evaluated - join.num_normal:,} abnormal images are "
            "not known (--groups tells them): each counts as its own."
        )
    if join.num_validation_normals:
        lines.append(
            f"{join.num_validation_normals:,} of the normal images chose the training epoch; they count, "
            "the weights were not fitted to them."
        )
    if join.num_rejected:
        reasons = ", ".join(f"{status} {count:,}" for status, count in sorted(join.num_rejected.items()))
        lines.append(f"{sum(join.num_rejected.values()):,} not counted, rejected without a score: {reasons}.")
    if join.num_unmatched:
        lines.append(f"{join.num_unmatched:,} not counted, no label: {_examples(join.unmatched_examples)}.")
    if join.num_labels_repeated:
        lines.append(f"{join.num_labels_repeated:,} labels match several rows; each image counts once at most.")
    if join.num_repeated:
        lines.append(f"{join.num_repeated:,} not counted, the same image stands in another row.")
    if join.num_ambiguous:
        lines.append(
            f"{join.num_ambiguous:,} not counted, different pictures share their name, "
            "and a label cannot tell which it means."
        )
    if join.num_labels_unmatched:
        lines.append(
            f"{join.num_labels_unmatched:,} of {join.num_labels:,} labels have no row in the table: "
            f"{_examples(join.labels_unmatched_examples)}."
        )
    if join.absent_classes:
        lines.append(f"No image is left of {', '.join(join.absent_classes)}: left out below.")
    return lines


def interval_sentences(auroc: pd.DataFrame) -> list[str]:
    """Return how the intervals were made, and what to know about the odd ones."""
    counts = auroc["ci_method"].value_counts()
    methods = ", ".join(str(name) for name in counts.index)
    notes = [f"{name}: {note}." for name, note in _METHOD_NOTES.items() if name in counts.index]
    return [f"95 % intervals by {methods}.", *notes]


def auroc_tables(auroc: pd.DataFrame) -> list[Table]:
    """Return our AUROC with intervals: rows = scores, columns = targets and their number of images."""
    num_normal = int(auroc["num_normal"].iloc[0])
    cells = {
        (score, target): with_interval(value, low, high)
        for score, target, value, low, high in columns_of(auroc, "score", "target", "auroc", "ci_low", "ci_high")
    }
    title = f"AUROC of this model, {num_normal:,} normal against n abnormal images, 95 % intervals"
    return score_tables(title, cells=cells, sizes=_sizes(auroc))


def paper_protocol_tables(paper: PaperProtocol) -> list[Table]:
    """Return our AUROC under the paper's protocol: mean and standard deviation of the draws."""
    cells = {
        (score, target): f"{short(mean)}\n±{short(std)}"
        for score, target, mean, std in columns_of(paper.frame, "score", "target", "auroc_mean", "auroc_std")
    }
    num_draws = int(paper.frame["num_draws"].iloc[0])
    title = (
        f"AUROC of this model under the paper's protocol: {num_draws} draws of\n"
        f"{paper.num_normal} normal against n abnormal images, mean ± standard deviation"
    )
    return score_tables(title, cells=cells, sizes=_sizes(paper.frame))


def published_table(*, is_same_protocol: bool) -> Table:
    """Return the paper's Table 2, labelled as theirs."""
    caveat = "same protocol" if is_same_protocol else "another protocol"
    title = f"Not ours, for comparison:\n{PAPER_SOURCE},\ntheir model, mean of 5 runs; {caveat}"
    cells = {(score, name): short(value) for score, row in PAPER_TABLE_2.items() for name, value in row.items()}
    table = score_tables(title, cells=cells, sizes=dict.fromkeys((*PAPER_CLASSES, MACRO), 100))[0]
    table.columns[-1].header = "ALL"
    return table


def _sizes(frame: pd.DataFrame) -> dict[str, int]:
    first = frame[frame["score"] == SCORES[0]]
    return {str(target): int(num) for target, num in zip(first["target"], first["num_abnormal"], strict=True)}


def _examples(names: Sequence[str]) -> str:
    return f"such as {', '.join(names)}"
