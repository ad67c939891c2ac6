"""Score the held-out normals with the trained model: what scores are normal, and pictures of what it reconstructs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import ray
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from ray.data.dataset import MaterializedDataset

from skinvae.config import Config
from skinvae.metrics.p_values import NormalTail, fit_tail
from skinvae.model.bounds import reconst_constant
from skinvae.model.scorer import Scorer
from skinvae.model.vae import VAE, to_uint8
from skinvae.pipelines.runtime import Resources
from skinvae.report.calibration import normal_scores
from skinvae.report.figures import reconstructions
from skinvae.training.fitting import Fitted

_NUM_PICTURED = 8


@dataclass(frozen=True)
class Calibration:
    """What the held-out normals say of the model."""

    scores: pd.DataFrame
    """The columns of records.SCORES and `ess`, in nats, one row a normal."""
    tail: NormalTail
    figures: dict[str, Figure]
    """By the name of their file: the first few normals reconstructed, and how the scores of all are distributed."""


def calibrate(
    dataset: MaterializedDataset[Any], fitted: Fitted, *, config: Config, resources: Resources
) -> Calibration:
    """The held-out normals' scores, computed where the model is fastest, and the tail fitted to them."""
    task = ray.remote(num_cpus=resources.cpus_per_actor, num_gpus=resources.gpus_per_actor)(_calibrate_task)
    frame, originals, reconstructed = ray.get(task.remote(dataset, fitted, config, resources))
    captions = [f"vae_reconst {nats:,.0f} nats" for nats in frame["vae_reconst"].iloc[: len(originals)]]
    tail = _tail(frame, fitted, config)
    figures = {
        "reconstructions.png": reconstructions(originals, reconstructed=reconstructed, captions=captions),
        "normal_scores.png": normal_scores(frame["vae_reconst"].to_numpy(), tail=tail),
    }
    return Calibration(frame, tail, figures)


def _tail(frame: pd.DataFrame, fitted: Fitted, config: Config) -> NormalTail:
    constant = reconst_constant(
        num_pixels=3 * config.model.image_size**2, variance=fitted.variance, mode=config.score.mode
    )
    rng = np.random.default_rng(config.train.seed)
    return fit_tail(frame["vae_reconst"].to_numpy(), offset_nats=constant, kind=config.train.tail, rng=rng)


def _calibrate_task(
    dataset: MaterializedDataset[Any], fitted: Fitted, config: Config, resources: Resources
) -> tuple[pd.DataFrame, NDArray[np.uint8], NDArray[np.uint8]]:
    torch.set_num_threads(resources.threads_per_actor)
    batches = dataset.iter_batches(batch_size=None, batch_format="numpy")
    images = np.concatenate([batch["image"][batch["held_out"]] for batch in batches])
    model = VAE(config.model)
    model.load_state_dict(fitted.weights)
    scorer = Scorer(
        model,
        variance=fitted.variance,
        settings=config.score.calibration,
        device=resources.device,
        batch_size=config.score.batch_size,
        decode_batch_size=config.score.decode_batch_size,
    )
    scores = scorer.score(images)
    pictured = images[:_NUM_PICTURED]
    return pd.DataFrame(scores), pictured, to_uint8(scorer.reconstruct(pictured)).numpy()
