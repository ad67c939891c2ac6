"""The held-out normals' scores, in a sentence and as a picture, with the Gamma distribution fitted to them."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from skinvae.metrics.p_values import NormalTail

_NUM_BINS = 40
_NORMALS, _NORMALS_FILL, _FITTED = "#767676", "#76767640", "#0072B2"
"""Lines and edges have 3:1 on white and on the page's dark background; the fill lets the fitted line stand out."""


def tail_sentence(tail: NormalTail | None) -> str:
    """What the p-values of a model's scores come from, and how well that fits."""
    if tail is None:
        return "P-values are ranks among the held-out normals."
    ranks = f"ranks among {tail.num_normals:,} held-out normals: none is below {tail.floor:.2g}"
    if not tail.is_fitted:
        return f"P-values are {ranks}. To so few normals, or scores so alike, no Gamma distribution was fitted."
    test = f"an Anderson-Darling test of its fit has p = {tail.fit_p_value:.3g}"
    if tail.kind == "gamma":
        return (
            f"P-values come from a Gamma distribution of shape {tail.shape:.4g} and scale {tail.scale_nats:.4g} nats, "
            f"fitted to vae_reconst {-tail.offset_nats:+,.0f} of {tail.num_normals:,} held-out normals; {test}."
        )
    return f"P-values are {ranks}. A Gamma distribution was not used: {test}."


def normal_scores(normals: NDArray[np.float64], *, tail: NormalTail) -> Figure:
    """Two panels of vae_reconst (n,) in nats: the density, and how often a normal is higher, on a logarithmic axis."""
    figure = Figure(figsize=(9.2, 3.6), layout="constrained")
    density, exceedance = figure.subplots(1, 2)
    ordered = np.sort(normals)
    label = f"{len(ordered):,} held-out normals"
    density.hist(ordered, bins=_NUM_BINS, density=True, color=_NORMALS_FILL, edgecolor=_NORMALS, label=label)
    ranks = 1 - np.arange(len(ordered)) / max(1, len(ordered))
    exceedance.step(ordered, ranks, where="pre", color=_NORMALS, linewidth=2.4, label="held-out normals")
    if tail.is_fitted:
        grid = np.linspace(ordered[0], ordered[-1] + 0.25 * np.ptp(ordered), 400)
        label = f"Gamma, shape {tail.shape:.3g}, scale {tail.scale_nats:.3g} nats"
        density.plot(grid, tail.density(grid), color=_FITTED, label=label)
        exceedance.plot(grid, tail.survival(grid), color=_FITTED, label=label)
    exceedance.axhline(
        tail.floor, color=mpl.rcParams["text.color"], linestyle=":", linewidth=1, label=f"least rank: {tail.floor:.2g}"
    )
    exceedance.set(yscale="log", ylabel="share of normals at least as high", ylim=(tail.floor / 30, 1.3))
    density.set(ylabel="density")
    for axes in (density, exceedance):
        axes.set(xlabel="vae_reconst (nats)")
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.legend(fontsize="small")
    figure.suptitle(f"P-values come from {'the Gamma distribution' if tail.kind == 'gamma' else 'ranks'}")
    return figure
