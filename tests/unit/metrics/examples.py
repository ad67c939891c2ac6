"""Small frames that the tests of metrics/ and report/ share."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import norm

from skinvae.metrics.detection import HeldOut
from skinvae.records import SCORES

HELD_OUT = HeldOut({f"V{number}" for number in range(2000)}, tail="empirical")
"""Normals that none of the frames here holds."""


def evaluated_frame(counts: dict[str, int], *, seed: int, shift: float = 1.0, num_per_lesion: int = 0) -> pd.DataFrame:
    """Frame like LabelJoin.evaluated: normals NV around 0, others `shift` higher; photos of a lesion share a term."""
    rng = np.random.default_rng(seed)
    label = np.repeat(list(counts), list(counts.values()))
    size = len(label)
    frame = pd.DataFrame({"image_id": [f"I{i:05d}" for i in range(size)], "label": label, "group": None})
    shared = np.zeros(size)
    if num_per_lesion:
        lesion = np.arange(size) // num_per_lesion
        frame["group"] = [f"{name}-{number}" for name, number in zip(label, lesion, strict=True)]
        shared = rng.normal(size=size)[lesion]
    for score in SCORES:
        frame[score] = shift * (label != "NV") + shared + rng.normal(size=size)
    # As if the standard normal distribution had been fitted to the held-out normals.
    return frame.assign(p_value=norm.sf(frame["vae_reconst"]))
