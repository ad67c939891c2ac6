"""Loss curves and ROC curves of an experiment, without a pixel of the archive; reconstructions, for out/ only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.reproduction.data import Data
from benchmarks.reproduction.experiment import NORMAL, SPLITS, Experiment
from skinvae.model.scorer import Scorer, ScoringSettings
from skinvae.model.vae import VAE, to_uint8
from skinvae.report.figures import png_bytes, reconstructions, roc_curves

COLOURS = {"train": "#0072B2", "validation": "#D55E00"}
PANELS = {"loss": "loss, as minimised", "reconst": "half the squared error", "kl": "KL divergence (nats)"}
NUM_PICTURED = 3
"""Images of each class."""


def write_pictures(document: dict[str, Any], *, work: Path, docs: Path) -> None:
    """NAME-losses.png and NAME-roc-SPLIT.png."""
    name = document["name"]
    (docs / f"{name}-losses.png").write_bytes(png_bytes(losses(document["results"])))
    for split_by in SPLITS:
        frame = pd.read_parquet(work / f"{split_by}-0.parquet")
        exact = frame[(frame["mode"] == "exact") & ~frame["is_leaked"]]
        figure = roc_curves(exact, normal=[NORMAL], scores=("vae_reconst", "iwae", "vae_kl"))
        (docs / f"{name}-roc-{split_by}.png").write_bytes(png_bytes(figure))


def losses(results: list[dict[str, Any]]) -> Figure:
    """Every seed of both splits by epoch, a row of panels a split, the epoch that was kept as a dot."""
    figure = Figure(figsize=(11, 3.1 * len(SPLITS)), layout="constrained")
    for row, split_by in enumerate(SPLITS):
        for column, (what, title) in enumerate(PANELS.items()):
            axes: Axes = figure.add_subplot(len(SPLITS), len(PANELS), row * len(PANELS) + column + 1)
            for result in (one for one in results if one["split_by"] == split_by):
                history = pd.DataFrame(result["history"])
                for side, colour in COLOURS.items():
                    rows = history[history["split"] == side]
                    label = side if result["seed"] == 0 else None
                    axes.plot(rows["epoch"], rows[what], color=colour, linewidth=1, alpha=0.7, label=label)
                kept = history[(history["split"] == "validation") & (history["epoch"] == result["best_epoch"])]
                axes.plot(kept["epoch"], kept[what], "o", color="black", markersize=4)
            axes.set_yscale("log")
            axes.set(title=f"split by {split_by}: {title}", xlabel="epoch")
            if row == column == 0:
                axes.legend(fontsize="small")
    return figure


def write_reconstructions(experiment: Experiment, data: Data, *, work: Path) -> Path:
    """Images of every class beside their reconstructions by seed 0 of the split by lesion; shows archive images."""
    model = VAE(experiment.model)
    model.load_state_dict(safetensors.torch.load_file(work / "lesion-0.safetensors"))
    scorer = Scorer(model, variance=experiment.train.sigma**2, settings=ScoringSettings())
    frame = pd.read_parquet(work / "lesion-0.parquet").query("mode == 'exact' and not is_leaked")
    chosen = pd.concat([rows.head(NUM_PICTURED) for _, rows in frame.groupby("label", sort=True)])
    originals = data.pixels_BHWC[data.where(chosen["image_id"].tolist())]
    captions = [f"{row.label}: {row.vae_reconst:,.0f} nats" for row in chosen.itertuples()]
    reconstructed = to_uint8(scorer.reconstruct(originals)).numpy()
    path = work / "reconstructions.png"
    figure = reconstructions(np.asarray(originals), reconstructed=reconstructed, captions=captions, num_columns=3)
    path.write_bytes(png_bytes(figure))
    return path
