"""MODEL_CARD.md of a bundle: what the model is, what it saw, how it did, what it is for."""

from __future__ import annotations

import json

import pandas as pd

from skinvae.model.objective import ObjectiveSettings
from skinvae.report.calibration import tail_sentence
from skinvae.storage.bundle import BundleConfig

_TEMPLATE = """\
# Model card

A convolutional variational autoencoder of normal dermoscopy images, for anomaly scores (Lu & Xu 2018,
arXiv:1807.01349). Trained by skinvae {version}.

## Intended use and limits
Research on anomaly detection in dermoscopy images. It gives no diagnosis and must not guide the care of a patient.
Scores compare images of one kind of camera and preparation; images unlike the training archive in those score high
for that reason alone.

## Data
| | |
|---|---|
| archives | {archives} |
| normal | {normal} |
| trained on | {num_train:,} images |
| held out to choose the epoch | {num_validation:,} images |
| split by | {split_by} |
| SHA-256 of the split | `{split_digest}` |

`split.parquet` names every image of both sides. Licence of the images: {licence}.

## Model
{image_size} x {image_size} pixels, {num_latents} latents, {base_channels} base channels; p(x|z) has sigma = {sigma:.4g}
({how_sigma}).

## Training
Best of {num_epochs} epochs by validation loss: epoch {best_epoch}.

{losses}
{curve}
Objective: {objective}. {loss} reconst = half the squared error summed over pixels on [-1, 1]; kl in nats.

## Normal scores
{tail}

![Scores of the held-out normals](normal_scores.png)

## How to make it again
{command}With these settings, whatever files and environment they came from:

```toml
{settings}
```
"""


def model_card(config: BundleConfig, *, history: pd.DataFrame, command: str) -> str:
    """The card as Markdown. `history` has the columns epoch, split, loss, reconst, kl; `command` made the bundle."""
    best = history[history["epoch"] == config.training["best_epoch"]]
    rows = [f"| {row.split} | {row.loss:.2f} | {row.reconst:.2f} | {row.kl:.2f} |" for row in best.itertuples()]
    losses = "\n".join(["| images | loss | reconst | kl |", "|---|---|---|---|", *rows])
    return _TEMPLATE.format(
        version=config.versions.get("skinvae", ""),
        archives=", ".join(f"`{uri}`" for uri in config.data["archives"]),
        normal=", ".join(config.normal_classes),
        num_train=config.data["num_train"],
        num_validation=config.data["num_validation"],
        split_by=config.data["split_by"],
        split_digest=config.data["split_digest"],
        image_size=config.model.image_size,
        num_latents=config.model.num_latents,
        base_channels=config.model.base_channels,
        sigma=config.sigma,
        how_sigma="learned" if config.objective.learn_sigma else "fixed",
        objective=_objective(config.objective),
        loss=_loss(config.objective),
        num_epochs=config.training["num_epochs"],
        best_epoch=config.training["best_epoch"],
        losses=losses,
        curve="\n![Losses by epoch](training_curve.png)\n" if len(history) > 1 else "",
        licence=config.data.get("licence") or "not stated when the model was trained (`train.data_licence`)",
        tail=tail_sentence(config.tail),
        command=f"```\n{command}\n```\n" if command else "",
        settings=_settings(config),
    )


def _settings(config: BundleConfig) -> str:
    """[model] and [train] as a file for `--config`."""
    results = {"run_digest", "best_epoch", "validation_loss"}
    sections = {
        "model": config.model.model_dump(),
        "train": {name: value for name, value in config.training.items() if name not in results},
    }
    return "\n\n".join(
        "\n".join([f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in settings.items())])
        for section, settings in sections.items()
    )


def _objective(settings: ObjectiveSettings) -> str:
    if settings.objective == "iwae":
        return f"the importance-weighted bound of {settings.num_samples} draws"
    draws = "one draw" if settings.num_samples == 1 else f"{settings.num_samples} draws"
    weighed = "" if settings.beta == 1 else f", its KL divergence weighed by beta = {settings.beta:g}"
    return f"the evidence lower bound by {draws} of z an image{weighed}"


def _loss(settings: ObjectiveSettings) -> str:
    if settings.learn_sigma:
        return "loss = the negative bound in nats;"
    if settings.objective == "iwae":
        return "loss = the negative bound times sigma^2, without its constant;"
    return f"loss = reconst + sigma^2 * {'' if settings.beta == 1 else 'beta * '}kl;"
