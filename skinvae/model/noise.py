"""The normal draws of an image, the same on every machine and device, whatever its name, archive, batch or actor."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Noise = Literal["independent", "lhs"]
"""`independent`: NumPy's Philox 4x64, keyed by a seed and the image's pixels; the paper's. `lhs`: one Latin hypercube
for all images, keyed by the seed. Part of what identifies a scoring."""


Map = Callable[[Callable[[int], None], Iterable[int]], Iterator[None]]
"""The built-in `map`, or one that does the calls side by side."""


def noise_key(pixels: NDArray[np.uint8]) -> int:
    """64-bit BLAKE2b of the resized uint8 pixels (H, W, 3), read in C order."""
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=8).digest()
    return int.from_bytes(digest, "little")


def draw_noise(
    pixels_BHWC: NDArray[np.uint8], *, seed: int, num_samples: int, num_latents: int, stream: int = 0, each: Map = map
) -> NDArray[np.float32]:
    """Independent standard normal draws (B, num_samples, num_latents).

    Draw i of an image does not depend on `num_samples`. `stream` selects one of 2^64 independent sequences of the
    same key: 0 for scoring, the epoch (from 1) for training. `each` maps over the images, as a thread pool may: both
    the digest and the draws let go of the interpreter.
    """
    eps_BKD = np.empty((len(pixels_BHWC), num_samples, num_latents), np.float32)

    def fill(index: int) -> None:
        generator = _generator(seed, noise_key(pixels_BHWC[index]), stream)
        generator.standard_normal(out=eps_BKD[index], dtype=np.float32)

    for _ in each(fill, range(len(pixels_BHWC))):
        pass
    return eps_BKD


def latin_hypercube(*, seed: int, num_samples: int, num_latents: int) -> NDArray[np.float32]:
    """Standard normal draws (num_samples, num_latents), each latent stratified: one draw in each of K equal parts.

    Each draw alone is standard normal, so a mean over the draws is as unbiased as with independent ones, and varies
    less with the seed (McKay, Beckman & Conover 1979). Draw i depends on `num_samples`.
    """
    generator = _generator(seed, 0, 0)
    strata_KD = np.argsort(generator.random((num_samples, num_latents)), axis=0)
    uniform_KD = (strata_KD + generator.random((num_samples, num_latents))) / num_samples
    # Neither 0 nor 1, to which the last draw may round, has a quantile.
    eps_KD: NDArray[np.float32] = ndtri(np.clip(uniform_KD, 2.0**-54, 1 - 2.0**-53)).astype(np.float32)
    return eps_KD


def _generator(seed: int, key: int, stream: int) -> np.random.Generator:
    # The stream is the counter's highest word, so the sequences of two streams cannot meet.
    counter = np.array([0, 0, 0, stream], np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([seed, key], np.uint64), counter=counter))
