"""The normal draws of an image, keyed by a seed and the image's own pixels.

The same picture gets the same draws on every machine and device, whatever its name, archive, batch or actor.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

NOISE_KIND = "philox"
"""Independent draws from NumPy's Philox 4x64; part of what identifies a scoring."""


def noise_key(pixels: NDArray[np.uint8]) -> int:
    """64-bit BLAKE2b of the resized uint8 pixels (H, W, 3), read in C order."""
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=8).digest()
    return int.from_bytes(digest, "little")


def draw_noise(
    pixels_BHWC: NDArray[np.uint8], *, seed: int, num_samples: int, num_latents: int, stream: int = 0
) -> NDArray[np.float32]:
    """Standard normal draws (B, num_samples, num_latents).

    Draw i of an image does not depend on `num_samples`. `stream` selects one of 2^64 independent sequences of the
    same key: 0 for scoring, the epoch (from 1) for training.
    """
    eps_BKD = np.empty((len(pixels_BHWC), num_samples, num_latents), np.float32)
    for pixels, eps_KD in zip(pixels_BHWC, eps_BKD, strict=True):
        key = np.array([seed, noise_key(pixels)], np.uint64)
        # The stream is the counter's highest word, so the sequences of two streams cannot meet.
        bits = np.random.Philox(key=key, counter=np.array([0, 0, 0, stream], np.uint64))
        np.random.Generator(bits).standard_normal(out=eps_KD, dtype=np.float32)
    return eps_BKD
