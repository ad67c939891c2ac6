"""A forest plot: the AUROC of each stratum with its interval, and how many images it rests on."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from skinvae.report.tables import columns_of

_ROW_INCHES = 0.27
_COLOUR, _GUIDE = "#0072B2", "#767676"


def strata_forest(strata: pd.DataFrame, *, width: float = 8.0) -> Figure:
    """Return one row a stratum of STRATA_COLUMNS; small ones are hollow, those without an AUROC say why.

    `width` in inches.
    """
    labels, positions, headings = [], [], []
    place = 0.0
    for variable, of_variable in strata.groupby("variable", sort=False):
        headings.append((place, str(variable)))
        place += 1.0
        for stratum, num_normal, num_abnormal in columns_of(of_variable, "stratum", "num_normal", "num_abnormal"):
            labels.append(f"{stratum}  ({num_normal:,} / {num_abnormal:,})")
            positions.append(place)
            place += 1.0
        place += 0.5
    figure = Figure(figsize=(width, _ROW_INCHES * place + 1.3), layout="constrained")
    axes = figure.add_subplot()
    rows = columns_of(strata, "auroc", "ci_low", "ci_high", "note")
    for position, (value, low, high, note) in zip(positions, rows, strict=True):
        if pd.isna(value):
            axes.text(0.01, position, note, va="center", fontsize="small", color=mpl.rcParams["text.color"])
            continue
        style, face = (":", "none") if note else ("-", _COLOUR)
        axes.plot([low, high], [position, position], color=_COLOUR, linewidth=2, linestyle=style)
        axes.plot([value], [position], marker="s", markersize=6, color=_COLOUR, markerfacecolor=face, clip_on=False)
        axes.text(1.02, position, f"{value:.2f} ({low:.2f}-{high:.2f})", va="center", fontsize="small")
    for position, name in headings:
        axes.text(0.01, position, name, va="center", fontweight="bold", fontsize="small")
    axes.axvline(0.5, color=_GUIDE, linewidth=1, linestyle=":")
    axes.set(xlim=(0, 1), ylim=(place - 0.5, -0.8), xlabel="AUROC with its 95 % interval; hollow = few images")
    axes.set_yticks(positions, labels, fontsize="small")
    axes.tick_params(left=False)
    axes.spines[["left", "right", "top"]].set_visible(False)
    score = strata["score"].iloc[0]
    figure.suptitle(f"{score} by stratum (normal / abnormal images)")
    return figure
