"""Model bundles with random weights: what a score costs does not depend on what the model has learnt."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from skinvae.images.decode import DecodeSettings
from skinvae.model.scorer import ScoringSettings
from skinvae.model.vae import VAE, ModelSettings
from skinvae.records import SCORES
from skinvae.storage.bundle import BundleConfig, write_bundle
from skinvae.storage.filesystem import Location


def make_bundle(uri: str, settings: ModelSettings) -> None:
    """A complete bundle as `skinvae train` would write it, untrained and from a fixed seed."""
    torch.manual_seed(0)
    names = [f"normal-{index}" for index in range(64)]
    split = pd.DataFrame({"image_id": names, "group": None, "split": ["train", "validation"] * (len(names) // 2)})
    rng = np.random.default_rng(0)
    write_bundle(
        Location.parse(uri),
        config=BundleConfig(
            model=settings,
            decode=DecodeSettings().policy,
            sigma=0.1,
            normal_classes=["NV"],
            training={"best_epoch": 0, "validation_loss": 0.0},
            data={},
            calibration=ScoringSettings(),
            versions={},
        ),
        weights=VAE(settings).state_dict(),
        calibration=pd.DataFrame({name: rng.normal(size=len(names)) for name in (*SCORES, "ess")}),
        split=split,
        extras={},
    )
