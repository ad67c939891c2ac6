"""Models and pixels to measure with: the paper's architecture, trained for a moment on the images it will score."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import Scale
from benchmarks.images import named_jpegs
from skinvae.images.decode import DecodeSettings, decode
from skinvae.model.objective import Objective, ObjectiveSettings
from skinvae.model.scorer import Scorer, ScoringSettings
from skinvae.model.vae import VAE, ModelSettings, to_unit_range

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAPER = ModelSettings()
TINY = ModelSettings(image_size=32, base_channels=8, num_latents=16)
VARIANCE = 0.01
NUM_SAMPLES = 15
"""k of the paper."""


def small_model() -> ModelSettings:
    """That of configs/cpu.toml."""
    path = Path(__file__).parents[1] / "configs" / "cpu.toml"
    return ModelSettings(**tomllib.loads(path.read_text())["model"])


def settings_for(scale: Scale) -> ModelSettings:
    """The paper's model, or one that takes no time."""
    return TINY if scale.small else PAPER


def pixels_for(scale: Scale, count: int, *, size: int) -> tuple[NDArray[np.uint8], str]:
    """uint8 (count, size, size, 3), and what they are: real images as far as there are any."""
    jpegs, what = named_jpegs(scale, count)
    decoded = [decode(data, size=size, settings=DecodeSettings()).pixels for _, data in jpegs]
    return np.stack([pixels for pixels in decoded if pixels is not None]), what


def trained(settings: ModelSettings, images: NDArray[np.uint8], *, steps: int, device: str = "cpu") -> VAE:
    """After so many steps of 32 images: weights whose reconstructions are of skin, on the CPU."""
    torch.manual_seed(0)
    model = VAE(settings).to(device).to(memory_format=torch.channels_last).train()
    objective = Objective(ObjectiveSettings())
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    x_BCHW = to_unit_range(torch.from_numpy(images)).to(device)
    for _ in range(steps):
        batch = x_BCHW[torch.randint(len(x_BCHW), (32,), device=device)]
        loss = objective(model, batch, torch.randn(len(batch), 1, settings.num_latents, device=device))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    return model.eval().cpu()


def scorer_of(model: VAE, settings: ScoringSettings, *, device: str = "cpu", **how: Any) -> Scorer:
    """A scorer of a copy: a scorer may convert the model it is given."""
    return Scorer(copy.deepcopy(model), variance=VARIANCE, settings=settings, device=device, **how)
