"""docs/results.md: tables of every experiment that docs/results/*.json holds, beside the paper's."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.reproduction.experiment import MODES, SPLITS
from skinvae.metrics.auroc import MACRO, POOLED
from skinvae.metrics.protocols import PAPER_CLASSES, PAPER_NUM_DRAWS, PAPER_SOURCE, PAPER_TABLE_2
from skinvae.records import SCORES

TARGETS = (*PAPER_CLASSES, MACRO, POOLED)
NUM_ERRORS = 2.0

_HEAD = """\
# The paper's experiment

Written by `make reproduce`; do not edit (what explains the differences stands in docs/results/NAME.notes.md).

ISIC 2018 Task 3, 10,015 images, nevi normal. Of each training seed, 5 test sets are drawn from the held-out nevi (250)
and the other classes (100 of each). A cell is the mean AUROC over seeds and draws, ± the standard deviation between
training seeds (each the mean over its draws). "macro" is the mean of the six classes, which the paper calls ALL;
"pooled" takes all six as one: the same number, since here every class has as many images. The held-out nevi also
choose the epoch, as in the paper, and five draws of 250 of some 336 share most images. Modes: `exact` are true bounds,
`released` is what the authors' code computes.
"""

_NOT_RUN = """\
## The paper's model

Not run yet: 40 epochs of it at 128 pixels, 10 times, are 2.5 million image passes, days on two CPU cores. On a machine
with a GPU: `make reproduce`. Nothing below is the paper's model, and no number below stands for it.
"""


def write_page(docs: Path) -> None:
    """Write results.md anew from docs/results."""
    folder = docs / "results"
    documents = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    documents.sort(key=lambda one: not one["is_papers"])
    pages = [_HEAD]
    if not any(one["is_papers"] for one in documents):
        pages.append(_NOT_RUN)
    pages += [_section(one, folder) for one in documents]
    (docs / "results.md").write_text("\n".join(pages))


@dataclass(frozen=True)
class Cell:
    """AUROC of one score against one target."""

    mean: float
    """Over seeds and draws."""
    between_seeds: float | None
    """Standard deviation of the seeds' means over draws; None of one seed."""
    between_draws: float
    """Standard deviation of a seed's draws, mean over seeds."""
    num_seeds: int

    def is_apart(self, published: float) -> bool:
        """From a published mean of 5 runs, taken to stray as ours do: each with a training and a draw of its own."""
        seeds = self.between_seeds or 0.0
        theirs = math.hypot(seeds, self.between_draws) / math.sqrt(PAPER_NUM_DRAWS)
        return abs(self.mean - published) > NUM_ERRORS * math.hypot(seeds / math.sqrt(self.num_seeds), theirs)


def cells(document: dict[str, Any], *, split_by: str, mode: str, leak: bool) -> dict[tuple[str, str], Cell]:
    """By score and target."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for result in document["results"]:
        for row in result["aurocs"]:
            if (result["split_by"], row["mode"], row["leak"]) == (split_by, mode, leak):
                found.setdefault((row["score"], row["target"]), []).append((row["auroc_mean"], row["auroc_std"]))
    return {
        key: Cell(
            mean=statistics.fmean(mean for mean, _ in values),
            between_seeds=statistics.stdev(mean for mean, _ in values) if len(values) > 1 else None,
            between_draws=statistics.fmean(std for _, std in values),
            num_seeds=len(values),
        )
        for key, values in found.items()
    }


def _section(document: dict[str, Any], folder: Path) -> str:
    name, about, model, train = (document[key] for key in ("name", "about", "model", "train"))
    title = "The paper's model" if document["is_papers"] else f"A smaller model ({name}), not the paper's"
    results = document["results"]
    hours = sum(one["seconds"] for one in results) / 3600
    counts = ", ".join(
        f"{one['num_train']:,} trained on and {one['num_validation']:,} held out by {one['split_by']}"
        for one in results
        if one["seed"] == 0
    )
    parts = [
        f"## {title}\n",
        f"{model['image_size']} pixels, {model['base_channels']} base channels, {model['num_latents']} latents; "
        f"{train['num_epochs']} epochs, batches of {train['batch_size']}, Adam {train['learning_rate']:g}, sigma "
        f"{train['sigma']:g}. {counts}.\n",
        f"`{about['command']}`, {about['date']}, {about['gpu'] or about['processor']}, {about['cores']} cores, torch "
        f"{about['libraries']['torch']}, commit {about['commit']}: {hours:.2f} hours for {len(results)} trainings.\n",
    ]
    for split_by in SPLITS:
        for mode in MODES:
            parts.append(f"### Split by {split_by}, mode {mode}\n")
            parts.append(_table(cells(document, split_by=split_by, mode=mode, leak=False), document))
    parts.append("### What the leak does\n")
    parts.append(
        "The released script adds 100 nevi of the training set to the test's normals. macro AUROC without and with "
        "them, the other images being the same:\n"
    )
    parts.append(_leaks(document))
    parts.append("As released, split by image, with the leak:\n")
    parts.append(_table(cells(document, split_by="image", mode="released", leak=True), document))
    parts.append("### Pictures\n")
    parts.append(f"![Losses by epoch, all seeds](results/{name}-losses.png)\n")
    parts += [f"![ROC curves, split by {one}, seed 0](results/{name}-roc-{one}.png)\n" for one in SPLITS]
    notes = folder / f"{name}.notes.md"
    if notes.exists():
        parts.append(notes.read_text())
    return "\n".join(parts)


def _table(found: dict[tuple[str, str], Cell], document: dict[str, Any]) -> str:
    beside = f"Below each score: {PAPER_SOURCE}" + (
        f"; * = further apart than {NUM_ERRORS:g} standard errors, if the paper's 5 runs stray as ours do."
        if document["is_papers"]
        else ", whose model this is not: for orientation only."
    )
    lines = [beside, "", "| | " + " | ".join(TARGETS) + " |", "|---" * (len(TARGETS) + 1) + "|"]
    for score in SCORES:
        ours, theirs = [], []
        for target in TARGETS:
            cell, published = found[score, target], PAPER_TABLE_2[score].get(target)
            mark = "*" if document["is_papers"] and published is not None and cell.is_apart(published) else ""
            deviation = "–" if cell.between_seeds is None else f"{cell.between_seeds:.3f}"
            ours.append(f"{cell.mean:.3f} ± {deviation}{mark}")
            theirs.append("" if published is None else f"{published:.3f}")
        lines += [f"| **{score}** | " + " | ".join(ours) + " |", "| *paper* | " + " | ".join(theirs) + " |"]
    return "\n".join(lines) + "\n"


def _leaks(document: dict[str, Any]) -> str:
    lines = ["| | " + " | ".join(SCORES) + " |", "|---" * (len(SCORES) + 1) + "|"]
    for split_by, mode in itertools.product(SPLITS, MODES):
        without, leaked = (cells(document, split_by=split_by, mode=mode, leak=leak) for leak in (False, True))
        values = [f"{without[score, MACRO].mean:.3f} → {leaked[score, MACRO].mean:.3f}" for score in SCORES]
        lines.append(f"| by {split_by}, {mode} | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"
