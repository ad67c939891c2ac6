"""The draws of an image: keyed by its pixels and a seed alone, the same everywhere, and standard normal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy import stats

from skinvae.model.noise import draw_noise, latin_hypercube, noise_key

KEY = 4304575967884964167
GOLDEN = [
    [1.3731387853622437, -1.0186986923217773, 0.04734589904546738],
    [-1.765083909034729, 0.33228030800819397, 0.37048786878585815],
]
GOLDEN_HYPERCUBE = [
    [0.7239524126052856, -0.8173857927322388],
    [-0.4178294837474823, 0.2420291304588318],
    [-0.587451696395874, 1.0125764608383179],
]
GOLDEN_STREAM_1 = [[-0.34610044956207275, 2.132005214691162, 0.17969900369644165]]


def picture(seed: int = 0, *, size: int = 8) -> NDArray[np.uint8]:
    """Pixels from plain arithmetic: no generator's version can change them."""
    return ((np.arange(size * size * 3) * 37 + 11 * seed) % 256).astype(np.uint8).reshape(size, size, 3)


def draws(*pictures: NDArray[np.uint8], seed: int = 0, k: int = 3, d: int = 5, stream: int = 0) -> NDArray[np.float32]:
    return draw_noise(np.stack(pictures), seed=seed, num_samples=k, num_latents=d, stream=stream)


def test_golden_values() -> None:
    """These numbers are part of every score ever written: a change of them needs a new name in `Noise`.

    Regenerate: python -c "from tests.unit.model.test_noise import *; print(noise_key(picture()),
    draws(picture(), seed=7, k=2, d=3).tolist(), draws(picture(), seed=7, k=1, d=3, stream=1).tolist())"
    """
    assert noise_key(picture()) == KEY
    np.testing.assert_array_equal(draws(picture(), seed=7, k=2, d=3)[0], np.array(GOLDEN, np.float32))
    np.testing.assert_array_equal(
        draws(picture(), seed=7, k=1, d=3, stream=1)[0], np.array(GOLDEN_STREAM_1, np.float32)
    )


@pytest.mark.parametrize("num_latents", [1, 3, 16, 300])
def test_draw_i_does_not_depend_on_k(num_latents: int) -> None:
    most = draws(picture(), k=40, d=num_latents)
    for k in (1, 2, 15, 39):
        np.testing.assert_array_equal(draws(picture(), k=k, d=num_latents), most[:, :k])


def test_a_picture_gets_the_same_draws_in_every_batch_and_place() -> None:
    batch = draws(*(picture(seed) for seed in range(6)))
    for place, seed in enumerate((4, 1, 5, 0)):
        np.testing.assert_array_equal(draws(*(picture(s) for s in (4, 1, 5, 0)))[place], batch[seed])
    np.testing.assert_array_equal(draws(picture(2))[0], batch[2])


@settings(max_examples=50, deadline=None)
@given(pixels=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=6).map(lambda shape: (*shape, 3))))
def test_the_key_depends_on_the_pixels_not_on_their_layout_in_memory(pixels: NDArray[np.uint8]) -> None:
    key = noise_key(pixels)
    assert noise_key(np.asfortranarray(pixels)) == key
    assert noise_key(np.repeat(pixels, 2, axis=1)[:, ::2]) == key
    assert noise_key(pixels[::-1].copy()[::-1]) == key
    read_only = np.frombuffer(pixels.tobytes(), np.uint8).reshape(pixels.shape)
    assert noise_key(read_only) == key
    assert 0 <= key < 2**64


def test_one_level_of_one_pixel_changes_the_key() -> None:
    pixels = picture()
    keys = {noise_key(pixels)}
    for index in np.ndindex(4, 4, 3):
        changed = pixels.copy()
        changed[index] ^= 1
        keys.add(noise_key(changed))
    assert len(keys) == 1 + 4 * 4 * 3


def test_pictures_seeds_and_streams_give_different_draws() -> None:
    blocks = [draws(picture(p), seed=s, stream=t) for p in range(3) for s in (0, 1, 2**63 - 1) for t in (0, 1, 40)]
    flat = np.stack(blocks).reshape(len(blocks), -1)
    assert len(np.unique(flat, axis=0)) == len(blocks)
    assert len(np.unique(flat[:, 0])) == len(blocks)  # not one of them starts like another


@given(seed=st.integers(0, 2**63 - 1), stream=st.integers(0, 2**63 - 1))
@settings(max_examples=30, deadline=None)
def test_any_seed_and_stream_give_finite_repeatable_draws(seed: int, stream: int) -> None:
    block = draws(picture(), seed=seed, stream=stream)
    assert np.isfinite(block).all()
    np.testing.assert_array_equal(block, draws(picture(), seed=seed, stream=stream))


def test_draws_are_standard_normal_and_uncorrelated() -> None:
    """256 pictures x 15 draws x 20 latents = 76,800 numbers, seeded; 5 standard errors."""
    block = draws(*(picture(seed, size=4) for seed in range(256)), k=15, d=20).astype(np.float64)
    n = block.size
    assert abs(block.mean()) < 5 / np.sqrt(n)
    assert abs(block.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs(stats.skew(block.ravel())) < 5 * np.sqrt(6 / n)
    assert abs(stats.kurtosis(block.ravel())) < 5 * np.sqrt(24 / n)
    assert stats.kstest(block.ravel(), "norm").pvalue > 1e-4
    for shifted in (block[1:] * block[:-1], block[:, 1:] * block[:, :-1], block[..., 1:] * block[..., :-1]):
        assert abs(shifted.mean()) < 5 / np.sqrt(shifted.size)


# Latin hypercubes


def hypercube(*, seed: int = 0, k: int = 15, d: int = 300) -> NDArray[np.float32]:
    return latin_hypercube(seed=seed, num_samples=k, num_latents=d)


def test_golden_hypercube() -> None:
    """Part of every score with noise = lhs.

    Regenerate: python -c "from tests.unit.model.test_noise import *; print(hypercube(seed=7, k=3, d=2).tolist())"
    """
    np.testing.assert_allclose(hypercube(seed=7, k=3, d=2), GOLDEN_HYPERCUBE, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 15, 100])
def test_every_latent_has_one_draw_in_each_of_k_equal_parts(k: int) -> None:
    parts = np.floor(stats.norm.cdf(hypercube(k=k).astype(np.float64)) * k)
    np.testing.assert_array_equal(np.sort(parts, axis=0), np.repeat(np.arange(k)[:, None], 300, axis=1))


def test_each_draw_alone_is_standard_normal_and_latents_are_independent() -> None:
    """2,000 seeds: the first draw's 20 latents, 40,000 numbers; 5 standard errors."""
    first = np.stack([hypercube(seed=seed, k=15, d=20)[0] for seed in range(2000)]).astype(np.float64)
    assert stats.kstest(first.ravel(), "norm").pvalue > 1e-4
    beside = first[:, 1:] * first[:, :-1]
    assert abs(beside.mean()) < 5 / np.sqrt(beside.size)


def test_seeds_give_different_hypercubes_and_one_seed_the_same() -> None:
    assert len({hypercube(seed=seed).tobytes() for seed in range(20)}) == 20
    np.testing.assert_array_equal(hypercube(seed=3), hypercube(seed=3))


def test_means_over_a_hypercube_vary_less_from_seed_to_seed() -> None:
    """Of z^2 + z, a sum over the latents: with independent draws its mean over k = 15 has variance 3/15 a latent."""
    means = [np.mean((h**2 + h).sum(1)) for h in (hypercube(seed=seed, d=30).astype(np.float64) for seed in range(500))]
    assert np.mean(means) == pytest.approx(30, abs=5 * np.std(means) / np.sqrt(500))
    assert np.var(means) < 30 * 3 / 15 / 4
