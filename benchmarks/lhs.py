"""What one Latin hypercube for all images does to the variance of the scores from seed to seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import Part, Scale
from benchmarks.models import TINY, pixels_for, scorer_of, small_model, trained
from skinvae.model.noise import Noise
from skinvae.model.precision import fastest_precision
from skinvae.model.scorer import ScoringSettings

NAMES = ("vae", "vae_reconst", "iwae", "iwae_reconst", "iwae_kl")


def measure(scale: Scale) -> Part:
    """One row a score: the variance over seeds, of independent draws relative to the hypercube's."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(scale.threads)
    # Dozens of seeds of the paper's model would take an hour on two cores.
    settings = TINY if scale.small else small_model()
    count, num_seeds, steps = (20, 4, 20) if scale.small else (100, 40, 500)
    pixels, what = pixels_for(scale, 6 * count, size=settings.image_size)
    images = pixels[:count]
    scale.say("training")
    model = trained(settings, pixels, steps=steps, device=device)
    precision = fastest_precision(torch.device(device))

    def scores_by_seed(noise: Noise) -> dict[str, NDArray[np.float64]]:
        found = []
        for seed in range(num_seeds):
            scale.say(f"{noise}, seed {seed + 1} of {num_seeds}")
            scoring = ScoringSettings(noise=noise, seed=seed, precision=precision)
            found.append(scorer_of(model, scoring, device=device).score(images))
        return {name: np.stack([one[name] for one in found]) for name in NAMES}

    independent, hypercube = scores_by_seed("independent"), scores_by_seed("lhs")
    rows: list[dict[str, Any]] = []
    for name in NAMES:
        before, after = (one[name].var(axis=0, ddof=1) for one in (independent, hypercube))
        between = independent[name].mean(0).std()
        rows.append(
            {
                "score": name,
                "variance ratio, median": float(np.median(before / after)),
                "variance ratio, mean": float(before.mean() / after.mean()),
                "SD over seeds, independent": float(np.sqrt(before.mean())),
                "SD over seeds, lhs": float(np.sqrt(after.mean())),
                "SD over images": float(between),
                "shift of the mean": float((hypercube[name].mean() - independent[name].mean()) / between),
            }
        )
    return Part(
        name="lhs",
        title="A Latin hypercube against independent draws",
        rows=rows,
        notes=[
            f"{len(images):,} {what}, {num_seeds} seeds, k = 15, {precision} on {device}; a model of "
            f"{settings.image_size} pixels and {settings.base_channels} channels, trained on {len(pixels):,} for "
            f"{steps} steps of 32.",
            "A ratio above 1 is variance that the hypercube takes away. All in nats; vae_kl has no draws.",
        ],
        bars=("score", "variance ratio, median"),
    )
