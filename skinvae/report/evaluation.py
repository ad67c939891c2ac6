"""An evaluation as a terminal page and as the document evaluation.json.

The frame of auroc.csv is `Evaluation.auroc` as it is. Nothing here computes a metric.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from skinvae.metrics.auroc import MACRO, POOLED
from skinvae.metrics.intervals import TRIVIAL, ZERO_VARIANCE
from skinvae.metrics.join import LabelJoin
from skinvae.metrics.protocols import PAPER_CLASSES, PAPER_SOURCE, PAPER_TABLE_2, PaperProtocol
from skinvae.records import SCORES

_ROW_ORDER = ("vae_reconst", "iwae_reconst", "vae_kl", "iwae_kl", "vae", "iwae")
"""The paper's, so that its table and ours are read line by line."""
_MAX_TARGETS = 8
"""Targets side by side in 80 columns; more classes than that go to a further table."""

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
    provenance: Mapping[str, Any]
    """Table, model, labels, settings and versions, as evaluation.json has them."""


def evaluation_page(evaluation: Evaluation) -> Group:
    """Return what the terminal shows: where the rows went, our AUROC, the paper's beside it. 80 columns suffice."""
    parts: list[RenderableType] = [Text(line) for line in join_sentences(evaluation.join)]
    for table in auroc_tables(evaluation.auroc):
        parts += [Text(), table]
    parts += [Text(line, style="dim") for line in interval_sentences(evaluation.auroc)]
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
    num_normal = int(join.is_normal.sum())
    lines = [
        f"{join.num_rows:,} rows in the table, {len(join.evaluated):,} images evaluated: "
        f"{num_normal:,} normal ({', '.join(join.normal)}), {len(join.evaluated) - num_normal:,} abnormal.",
        f"{join.num_trained:,} not counted, the model was trained on the image.",
        f"{join.num_trained_lesion:,} not counted, the model was trained on another photo of the lesion."
        if join.groups_known
        else "Lesions are not known (no --groups): photos of a trained lesion may be among the evaluated images.",
    ]
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
        (score, target): f"{_short(value)}\n{_short(low, 2)}-{_short(high, 2)}"
        for score, target, value, low, high in _rows(auroc, "score", "target", "auroc", "ci_low", "ci_high")
    }
    title = f"AUROC of this model, {num_normal:,} normal against n abnormal images, 95 % intervals"
    return _tables(title, cells=cells, sizes=_sizes(auroc))


def paper_protocol_tables(paper: PaperProtocol) -> list[Table]:
    """Return our AUROC under the paper's protocol: mean and standard deviation of the draws."""
    cells = {
        (score, target): f"{_short(mean)}\n±{_short(std)}"
        for score, target, mean, std in _rows(paper.frame, "score", "target", "auroc_mean", "auroc_std")
    }
    num_draws = int(paper.frame["num_draws"].iloc[0])
    title = (
        f"AUROC of this model under the paper's protocol: {num_draws} draws of\n"
        f"{paper.num_normal} normal against n abnormal images, mean ± standard deviation"
    )
    return _tables(title, cells=cells, sizes=_sizes(paper.frame))


def published_table(*, is_same_protocol: bool) -> Table:
    """Return the paper's Table 2, labelled as theirs."""
    caveat = "same protocol" if is_same_protocol else "another protocol"
    title = f"Not ours, for comparison:\n{PAPER_SOURCE},\ntheir model, mean of 5 runs; {caveat}"
    cells = {(score, name): _short(value) for score, row in PAPER_TABLE_2.items() for name, value in row.items()}
    table = _tables(title, cells=cells, sizes=dict.fromkeys((*PAPER_CLASSES, MACRO), 100))[0]
    table.columns[-1].header = "ALL"
    return table


def evaluation_document(evaluation: Evaluation) -> dict[str, Any]:
    """Return evaluation.json: JSON types only, NaN as null."""
    join = evaluation.join
    counts = {
        name: _plain(getattr(join, name))
        for name in LabelJoin.__dataclass_fields__
        if name not in ("evaluated", "normal")
    }
    document: dict[str, Any] = {
        "normal": list(join.normal),
        "num_evaluated": len(join.evaluated),
        "num_evaluated_by_class": {str(k): int(v) for k, v in join.evaluated["label"].value_counts().items()},
        "join": counts,
        "auroc": _records(evaluation.auroc),
        "paper_protocol": None,
        "published": {"source": PAPER_SOURCE, "auroc": {score: dict(row) for score, row in PAPER_TABLE_2.items()}},
        "provenance": dict(evaluation.provenance),
    }
    if evaluation.paper is not None:
        document["paper_protocol"] = {
            "auroc": _records(evaluation.paper.frame),
            "num_normal": evaluation.paper.num_normal,
            "num_abnormal": dict(evaluation.paper.num_abnormal),
            "shortfalls": list(evaluation.paper.shortfalls),
        }
    return document


def _tables(title: str, *, cells: Mapping[tuple[Any, Any], str], sizes: Mapping[str, int]) -> list[Table]:
    tables = []
    for number, targets in enumerate(_batches(list(sizes))):
        table = Table(
            title=f"{title} (continued)" if number else title,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            padding=0,
            pad_edge=False,
        )
        table.add_column("score\n", no_wrap=True)
        for target in targets:
            style = "bold" if target in (MACRO, POOLED) else ""
            table.add_column(f"{target}\nn={sizes[target]}", justify="right", style=style, no_wrap=True)
        for score in _ROW_ORDER:
            table.add_row(score, *(cells[score, target] for target in targets))
        tables.append(table)
    return tables


def _batches(targets: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(targets), _MAX_TARGETS):
        yield targets[start : start + _MAX_TARGETS]


def _sizes(frame: pd.DataFrame) -> dict[str, int]:
    first = frame[frame["score"] == SCORES[0]]
    return {str(target): int(num) for target, num in zip(first["target"], first["num_abnormal"], strict=True)}


def _rows(frame: pd.DataFrame, *columns: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(frame[column].tolist() for column in columns), strict=True)


def _short(value: float, digits: int = 3) -> str:
    """'.812' instead of '0.812', as the paper prints it."""
    return f"{value:.{digits}f}".removeprefix("0")


def _examples(names: Sequence[str]) -> str:
    return f"such as {', '.join(names)}"


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): _plain(value) for key, value in row.items()} for row in frame.to_dict(orient="records")]


def _plain(value: Any) -> Any:
    """Return the JSON type of a count, number, name or collection of them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value
