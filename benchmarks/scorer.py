"""The scorer against the released way of scoring, on the same images, weights and threads: `make bench`.

The released code (QuindiTech/VAE_ISIC2018) takes one image at a time and encodes and decodes it 30 times, 15 for the
VAE's scores and 15 for the IWAE's. Here that is written in our own words, and its scores must agree with ours.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skinvae.model.noise import draw_noise
from skinvae.model.scorer import Scorer, ScoringSettings, collect_draws
from skinvae.model.vae import VAE, ModelSettings, to_unit_range

NUM_IMAGES = 8
NUM_ROUNDS = 3
RATIO_FLOOR = 2.0
"""Half of it follows from encoding and drawing once, the rest from batches and channels last."""

Images = NDArray[np.uint8]


def released_way(model: VAE, images: Images, *, variance: float) -> NDArray[np.float64]:
    """vae_reconst of every image (exact mode), one image and one draw at a time, all done twice."""
    scores = np.empty(len(images))
    with torch.inference_mode():
        for number in range(len(images)):
            image = images[number : number + 1]
            x_BCHW = to_unit_range(torch.from_numpy(image)).contiguous()
            eps_KD = torch.from_numpy(draw_noise(image, seed=0, num_samples=15, num_latents=300))[0]
            for _ in ("vae", "iwae"):
                nats = []
                for eps_D in eps_KD:
                    draws = collect_draws(model, x_BCHW, eps_D[None, None], decode_batch_size=1)
                    nats.append(float(draws.sq_err_BK) / (2 * variance))
                scores[number] = np.mean(nats)
    constant = 0.5 * model.settings.num_pixels * np.log(2 * np.pi * variance)
    return scores + constant


def measure() -> dict[str, Any]:
    """Interleaved rounds of both ways on random images and the paper's model, untrained."""
    # One thread each: waiting for a second one, on a busy machine, would be counted against the way that waits more.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 128, 128, 3), dtype=np.uint8)
    plain = VAE(ModelSettings()).eval()
    fast = VAE(ModelSettings())
    fast.load_state_dict(plain.state_dict())
    scorer = Scorer(fast, variance=0.01, settings=ScoringSettings(), batch_size=NUM_IMAGES, decode_batch_size=64)
    ours, theirs = [], []
    for _ in range(NUM_ROUNDS):
        our_scores, seconds = _timed(lambda: scorer.score(images)["vae_reconst"])
        ours.append(NUM_IMAGES / seconds)
        their_scores, seconds = _timed(lambda: released_way(plain, images, variance=0.01))
        theirs.append(NUM_IMAGES / seconds)
        np.testing.assert_allclose(our_scores, their_scores, rtol=1e-6)
    return {
        "images_per_second": statistics.median(ours),
        "released_way_images_per_second": statistics.median(theirs),
        "ratio": statistics.median(ours) / statistics.median(theirs),
        "num_threads": torch.get_num_threads(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
    }


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    result = measure()
    print(json.dumps(result, indent=2))
    if result["ratio"] < RATIO_FLOOR:
        sys.exit(f"the scorer is {result['ratio']:.2f} times as fast as the released way, and must be {RATIO_FLOOR}")
