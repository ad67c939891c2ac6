"""Score the held-out normals with the trained model: what scores are normal, and pictures of what it reconstructs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import ray
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from ray.data.dataset import MaterializedDataset

from skinvae.config import Config
from skinvae.model.scorer import Scorer
from skinvae.model.vae import VAE, to_uint8
from skinvae.pipelines.runtime import Resources
from skinvae.report.figures import reconstructions
from skinvae.training.fitting import Fitted

_NUM_PICTURED = 8


def calibrate(
    dataset: MaterializedDataset[Any], fitted: Fitted, *, config: Config, resources: Resources
) -> tuple[pd.DataFrame, Figure]:
    """The held-out normals' scores in nats, computed where the model is fastest; the first few reconstructed."""
    task = ray.remote(num_cpus=resources.cpus_per_actor, num_gpus=resources.gpus_per_actor)(_calibrate_task)
    frame, originals, reconstructed = ray.get(task.remote(dataset, fitted, config, resources))
    captions = [f"vae_reconst {nats:,.0f} nats" for nats in frame["vae_reconst"].iloc[: len(originals)]]
    return frame, reconstructions(originals, reconstructed=reconstructed, captions=captions)


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
