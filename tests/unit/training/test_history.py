"""An epoch in one line, and the best of them."""

from __future__ import annotations

import numpy as np

from skinvae.training.history import Row, best_epoch, epoch_line


def test_an_epoch_is_told_in_one_line() -> None:
    line = epoch_line(
        12,
        40,
        trained={"loss": 43.08, "reconst": 40.1, "kl": 298.5, "num_images": 9},
        validated={"loss": 45.6, "reconst": 42.64, "kl": 292.5, "num_images": 3},
    )
    assert line == (
        "epoch 12 of 40: train loss 43.1 (reconst 40.1, kl 298.5), validation loss 45.6 (reconst 42.6, kl 292.5)"
    )


def test_the_best_epoch_is_the_first_of_the_lowest_finite_losses() -> None:
    found = [("train", 1, 0.1), ("validation", 1, 3.0), ("validation", 2, 2.0), ("validation", 3, 2.0)]
    history: list[Row] = [
        {"split": split, "epoch": epoch, "loss": loss} for split, epoch, loss in [*found, ("validation", 4, np.nan)]
    ]
    assert best_epoch(history)["epoch"] == 2
