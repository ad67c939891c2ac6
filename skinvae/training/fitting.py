"""A whole training run in this process: for notebooks, for machines without Ray, and for measuring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from skinvae.model.vae import ModelSettings
from skinvae.training.history import Row, best_epoch
from skinvae.training.images import ImageStore
from skinvae.training.settings import TrainSettings
from skinvae.training.trainer import Trainer


@dataclass(frozen=True)
class Fitted:
    """What training found."""

    weights: dict[str, Tensor]
    """Of the best epoch, on the CPU."""
    best: Row
    """The validation row of the best epoch."""
    history: pd.DataFrame
    """Its rows are `history.Row`."""

    @property
    def best_epoch(self) -> int:
        return int(self.best["epoch"])

    @property
    def variance(self) -> float:
        """sigma^2 of p(x|z) in the best epoch."""
        return float(self.best["sigma"]) ** 2


def fit_in_process(
    images_BHWC: NDArray[np.uint8],
    names: list[str],
    *,
    is_held_out: NDArray[np.bool_],
    model: ModelSettings,
    settings: TrainSettings,
    device: str = "cpu",
    on_epoch: Callable[[Row, Row], None] = lambda trained, validated: None,
) -> Fitted:
    """Train on uint8 images (B, H, W, 3), and keep the epoch that is best on the held-out ones.

    With the same images in the same order this learns what `skinvae train` does. Raises DivergedError.
    """
    trainer = Trainer(model, settings, ImageStore([images_BHWC], names), device=torch.device(device))
    train, validation = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
    weights: dict[str, Tensor] = {}
    for epoch in range(min(1, settings.num_epochs), settings.num_epochs + 1):
        if epoch:
            on_epoch(*trainer.run_epoch(epoch, train, validation))
        else:
            trainer.validate(0, validation)
        if best_epoch(trainer.history)["epoch"] == epoch:
            weights = {
                name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, value in trainer.vae.state_dict().items()
            }
    return Fitted(weights, best_epoch(trainer.history), pd.DataFrame(trainer.history))
