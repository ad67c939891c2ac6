"""Matplotlib figures of an evaluation and of a training run.

Figures are made without pyplot, so that nothing global changes and no display is needed; the caller saves them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from skinvae.metrics.auroc import POOLED, auroc
from skinvae.metrics.evaluation import abnormal_classes

_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe & Ito's colours, told apart with any colour vision; yellow left out, too pale for a line on white."""
_DASHES = ("-", "--", ":")
"""Change once the colours are used up."""
_NORMAL_COLOUR, _NORMAL_FILL = "#767676", "#76767640"
"""Edges have 3:1 on white and on a dark page; the pale fill lets lines over it stand out."""
_NUM_BINS = 40
_FENCE = 5.0
"""Interquartile ranges between the quartiles and the ends of the axis: outliers must not squeeze the bars."""


def roc_curves(
    evaluated: pd.DataFrame,
    *,
    normal: Collection[str],
    scores: Sequence[str] = ("vae_reconst",),
    areas: Mapping[tuple[str, str], tuple[float, float, float]] | None = None,
    marks: Sequence[tuple[float, float, float, float]] = (),
) -> Figure:
    """Return one panel per score: a ROC curve for each abnormal class and for all pooled, AUROC in the legend.

    `evaluated` is `LabelJoin.evaluated`. `areas`: AUROC, low and high by score and target for the legend, where they
    are known better than from `evaluated`. `marks`: operating points as specificity, sensitivity, low and high.
    Raises LabelsError where either side has no image.
    """
    classes = abnormal_classes(evaluated, normal=normal)
    figure, panels = _grid(len(scores), num_columns=min(3, len(scores)), panel_size=(4.6, 4.6))
    is_normal = evaluated["label"].isin(normal).to_numpy()
    for axes, score in zip(panels, scores, strict=True):
        values = evaluated[score].to_numpy(dtype=np.float64)
        axes.plot([0, 1], [0, 1], color="#CCCCCC", linewidth=1, label="_chance")
        for index, target in enumerate((*classes, POOLED)):
            chosen = ~is_normal if target == POOLED else (evaluated["label"] == target).to_numpy()
            truth = np.r_[np.zeros(is_normal.sum()), np.ones(chosen.sum())]
            false_positive, true_positive, _ = roc_curve(truth, np.r_[values[is_normal], values[chosen]])
            style = _line_style(index) if target != POOLED else {"color": mpl.rcParams["text.color"], "linewidth": 2.2}
            if areas:
                area = "{:.3f} ({:.2f} to {:.2f})".format(*areas[score, target])
            else:
                area = f"{auroc(values[is_normal], abnormal=values[chosen]):.3f}"
            axes.plot(false_positive, true_positive, label=f"{target} {area}", **style)
        for specificity, sensitivity, low, high in marks:
            ink = mpl.rcParams["text.color"]
            axes.plot([1 - specificity] * 2, [low, high], color=ink, linewidth=1)
            axes.plot([1 - specificity], [sensitivity], color=ink, marker="D", markersize=5)
        axes.set(
            xlim=(0, 1), ylim=(0, 1.005), aspect="equal", title=f"{score}: each class against {' + '.join(normal)}"
        )
        axes.set(xlabel="normal images flagged (share)", ylabel="abnormal images flagged (share)")
        title = "AUROC (95 % interval)" if areas else "AUROC"
        axes.legend(loc="lower right", title=title, fontsize="small", title_fontsize="small")
    return figure


def score_histograms(
    evaluated: pd.DataFrame,
    *,
    normal: Collection[str],
    score: str = "vae_reconst",
    num_by_class: Mapping[str, int] | None = None,
) -> Figure:
    """Return one panel per abnormal class: its scores over those of the normals, as densities on one axis.

    Far outliers do not stretch the axis; each panel says how many images of its class lie beyond it. `num_by_class`:
    how many images there are, where `evaluated` is a sample of them.
    """
    classes = abnormal_classes(evaluated, normal=normal)
    figure, panels = _grid(len(classes), num_columns=min(3, len(classes)), panel_size=(3.6, 2.5))
    for axes, name in zip(panels, classes, strict=True):
        num_images = (num_by_class or {}).get(name)
        num_normal = _draw_class(axes, evaluated, normal=normal, name=name, score=score, num_images=num_images)
    figure.suptitle(f"{score}: each class (line) over {num_normal:,} normals (grey)")
    figure.supxlabel(f"{score} (nats), higher = more anomalous")
    figure.supylabel("density")
    return figure


def class_histogram(
    evaluated: pd.DataFrame, *, normal: Collection[str], name: str, num_images: int, score: str = "vae_reconst"
) -> Figure:
    """Return one panel of `score_histograms` as a figure of its own, on the axis that all classes share.

    `num_images` of the class there are; `evaluated` may be a sample of them.
    """
    figure, (axes,) = _grid(1, num_columns=1, panel_size=(3.6, 2.3))
    _draw_class(axes, evaluated, normal=normal, name=name, score=score, num_images=num_images)
    axes.set(xlabel=f"{score} (nats)", ylabel="density")
    return figure


def bars(
    edges: NDArray[np.float64],
    *,
    counts: Mapping[str, NDArray[np.int64] | NDArray[np.float64]],
    xlabel: str,
    ylabel: str = "images",
    expected: float | None = None,
    expected_label: str = "expected",
    width: float = 4.6,
) -> Figure:
    """Return a histogram whose counts are known: the first of `counts` filled, others as lines over it.

    `expected`: a level to be drawn for comparison. `width` in inches.
    """
    figure, (axes,) = _grid(1, num_columns=1, panel_size=(width, 2.3))
    for index, (label, heights) in enumerate(counts.items()):
        if index == 0:
            axes.stairs(heights, edges, fill=True, facecolor=_NORMAL_FILL, edgecolor=_NORMAL_COLOUR, label=label)
        else:
            axes.stairs(heights, edges, color=_line_style(index)["color"], linewidth=1.6, label=label)
    if expected is not None:
        axes.axhline(expected, color=mpl.rcParams["text.color"], linestyle=":", linewidth=1, label=expected_label)
    axes.set(xlim=(edges[0], edges[-1]), xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(_with_commas)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    if len(counts) > 1 or expected is not None:
        axes.legend(fontsize="small")
    return figure


def training_curve(history: pd.DataFrame, *, best_epoch: int | None = None) -> Figure:
    """Return loss, reconst and kl by epoch, for the training and validation images.

    Columns of `history`: epoch, split ('train' or 'validation'), loss, reconst, kl, per image. `best_epoch` is the one
    whose weights are kept; without it, that of the lowest validation loss.
    """
    validation = history[history["split"] == "validation"]
    if best_epoch is None and len(validation):
        best_epoch = int(validation["epoch"].to_numpy()[validation["loss"].to_numpy().argmin()])
    figure, panels = _grid(3, num_columns=3, panel_size=(3.6, 3.0))
    titles = {"loss": "loss, as minimised", "reconst": "reconst = half the squared error", "kl": "KL divergence"}
    # Pixels lie in [-1, 1]; dividing by sigma^2 would make nats of reconst.
    units = {"loss": "", "reconst": " (pixel units squared)", "kl": " (nats)"}
    for axes, (column, title) in zip(panels, titles.items(), strict=True):
        # The first epochs lie far above all others, the KL a thousandfold. A loss in nats may be negative.
        axes.set_yscale("log" if (history[column] > 0).all() else "symlog")
        for index, split in enumerate(("train", "validation")):
            rows = history[history["split"] == split].sort_values("epoch")
            if len(rows):
                style = _line_style(index) | {"marker": "." if len(rows) <= 60 else ""}
                axes.plot(rows["epoch"].to_numpy(), rows[column].to_numpy(dtype=float), label=split, **style)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="black", linestyle=":", linewidth=1, label=f"kept: epoch {best_epoch}")
        axes.set(title=title, xlabel="epoch", ylabel=f"{column} per image{units[column]}")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if panels[0].lines:
        panels[0].legend(fontsize="small")
    return figure


def reconstructions(
    originals: NDArray[np.uint8], *, reconstructed: NDArray[np.uint8], captions: Sequence[str], num_columns: int = 4
) -> Figure:
    """Return each original with its reconstruction beside it, as the paper's Figure 1 does.

    Both are (n, height, width, 3) uint8; one caption per pair. Raises ValueError where shapes or counts differ.
    """
    if originals.shape != reconstructed.shape or len(captions) != len(originals) or originals.ndim != 4:
        raise ValueError(
            f"originals {originals.shape} and reconstructed {reconstructed.shape} must be alike, (n, h, w, 3), "
            f"with one caption each, got {len(captions)}"
        )
    if len(originals) == 0:
        raise ValueError("reconstructions needs at least one image, got none")
    figure, panels = _grid(len(originals), num_columns=min(num_columns, len(originals)), panel_size=(3.0, 1.85))
    height, width = originals.shape[1:3]
    gap = np.full((height, max(1, width // 32), 3), 255, dtype=np.uint8)
    for axes, left, right, caption in zip(panels, originals, reconstructed, captions, strict=True):
        axes.imshow(np.concatenate([left, gap, right], axis=1))
        axes.set_title(caption, fontsize="small")
        axes.axis("off")
    figure.suptitle("original | reconstruction")
    return figure


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG file of 150 dots per inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _draw_class(
    axes: Axes, evaluated: pd.DataFrame, *, normal: Collection[str], name: str, score: str, num_images: int | None
) -> int:
    """Draw the class over the normals, whose number is returned."""
    values = evaluated[score].to_numpy(dtype=np.float64)
    low, high = _robust_limits(values)
    edges = np.linspace(low, high, _NUM_BINS + 1)
    normals = values[evaluated["label"].isin(normal).to_numpy()]
    abnormal = values[(evaluated["label"] == name).to_numpy()]
    weights = _density(normals, edges=edges)
    axes.hist(normals, bins=list(edges), weights=weights, color=_NORMAL_FILL, edgecolor=_NORMAL_COLOUR, linewidth=0.6)
    axes.hist(
        abnormal,
        bins=list(edges),
        weights=_density(abnormal, edges=edges),
        histtype="step",
        linewidth=1.6,
        color=_line_style(abnormal_classes(evaluated, normal=normal).index(name))["color"],
    )
    num_beyond = int(((abnormal < low) | (abnormal > high)).sum())
    of_all = f" of {num_images:,}" if num_images not in (None, len(abnormal)) else ""
    axes.set_title(f"{name}, {len(abnormal):,}{of_all} images" + (f" ({num_beyond} beyond)" if num_beyond else ""))
    axes.set(xlim=(low, high), yticks=[])
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(_with_commas)
    return len(normals)


def _grid(num_panels: int, *, num_columns: int, panel_size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Return a figure of equal panels, row by row, with no empty axes at its end."""
    num_rows = math.ceil(num_panels / num_columns)
    figure = Figure(figsize=(panel_size[0] * num_columns, panel_size[1] * num_rows + 0.4), layout="constrained")
    return figure, [figure.add_subplot(num_rows, num_columns, index + 1) for index in range(num_panels)]


def _with_commas(value: float, _position: float) -> str:
    return f"{value:,.10g}"


def _line_style(index: int) -> dict[str, Any]:
    dash = _DASHES[index // len(_PALETTE) % len(_DASHES)]
    return {"color": _PALETTE[index % len(_PALETTE)], "linestyle": dash, "linewidth": 1.4}


def _robust_limits(values: NDArray[np.float64]) -> tuple[float, float]:
    low, first, third, high = (float(value) for value in np.percentile(values, (0, 25, 75, 100)))
    if first < third:
        low, high = max(low, first - _FENCE * (third - first)), min(high, third + _FENCE * (third - first))
    # Equal scores have no span of their own.
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _density(values: NDArray[np.float64], *, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights that make the bars of ALL values integrate to 1; those beyond the axis are not spread over the rest."""
    return np.full(len(values), 1.0 / (len(values) * (edges[1] - edges[0])))
