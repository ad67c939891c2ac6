"""Error maps add up to the data part of vae_reconst, and each cell is the error of its own pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skinvae.model.bounds import ScoreMode
from skinvae.model.error_map import ErrorMapper, error_maps, mean_error_maps, pooled
from skinvae.model.noise import Noise
from skinvae.model.scorer import Scorer, ScoringSettings
from skinvae.model.vae import VAE, ModelSettings
from tests.unit.model.conftest import one_thread  # noqa: F401  # also where no conftest is loaded
from tests.unit.model.small_models import trained_a_little

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
VARIANCE = 0.02


def small_model() -> VAE:
    return trained_a_little(ModelSettings(image_size=32, base_channels=4, num_latents=6))


@pytest.mark.parametrize("size", [1, 4, 32])
@pytest.mark.parametrize("noise", ["independent", "lhs"])
@pytest.mark.parametrize("mode", ["exact", "released"])
def test_the_cells_add_up_to_the_score(mode: ScoreMode, noise: Noise, size: int) -> None:
    settings = ScoringSettings(mode=mode, noise=noise, num_samples=7, seed=3, precision="float64")
    score = Scorer(small_model(), variance=VARIANCE, settings=settings).score(IMAGES)["vae_reconst"]
    maps = ErrorMapper(small_model(), variance=VARIANCE, settings=settings).maps(IMAGES, size=size)
    assert maps.shape == (5, size, size)
    num_pixels = IMAGES[0].size
    data_part = score - num_pixels / 2 * np.log(2 * np.pi * VARIANCE) if mode == "exact" else score / VARIANCE
    np.testing.assert_allclose(maps.sum((1, 2)), data_part, rtol=1e-9)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_shorter_precisions_of_the_score_have_maps_in_float32(precision: str) -> None:
    exact = ErrorMapper(small_model(), variance=VARIANCE, settings=ScoringSettings(precision="float64"))
    shorter = ErrorMapper(
        small_model(), variance=VARIANCE, settings=ScoringSettings.model_validate({"precision": precision})
    )
    np.testing.assert_allclose(shorter.maps(IMAGES, size=8), exact.maps(IMAGES, size=8), rtol=1e-4)


@pytest.mark.parametrize("decode_batch_size", [1, 4, 15, 1000])
def test_batch_sizes_change_no_map(decode_batch_size: int) -> None:
    settings = ScoringSettings(precision="float64")
    expected = ErrorMapper(small_model(), variance=VARIANCE, settings=settings).maps(IMAGES, size=8)
    mapper = ErrorMapper(small_model(), variance=VARIANCE, settings=settings, decode_batch_size=decode_batch_size)
    np.testing.assert_allclose(mapper.maps(IMAGES, size=8), expected, rtol=1e-9)
    assert mapper.batch_size == max(1, decode_batch_size // 15)


class Constant:
    """Reconstructs every image as grey."""

    def encode(self, x_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(x_BCHW), 2), torch.zeros(len(x_BCHW), 2)

    def decode(self, z_BD: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(z_BD), 3, 8, 8)


def test_each_cell_is_the_error_of_its_own_pixels() -> None:
    """By hand: one wrong pixel of three channels, 1/2 away from grey: 3 * (1/2)^2 / (2 * 1/4) nats."""
    x_BCHW = torch.zeros(1, 3, 8, 8)
    x_BCHW[0, :, 6, 1] = 0.5
    maps = error_maps(Constant(), x_BCHW, torch.randn(1, 4, 2), variance=0.25, size=4, decode_batch_size=3)
    expected = torch.zeros(1, 4, 4, dtype=torch.float64)
    expected[0, 3, 0] = 1.5
    torch.testing.assert_close(maps, expected)


def test_the_error_of_a_reconstruction_is_summed_over_the_channels_of_a_pixel() -> None:
    """By hand: three channels wrong by 2, and one by 3/2, at a variance of 1/2: 12 and 2.25 nats."""
    images_BHWC = np.zeros((1, 2, 2, 3), np.uint8)  # -1 in the model's range
    images_BHWC[0, 0, 1] = 255
    m_BCHW = torch.full((1, 3, 2, 2), -1.0)
    m_BCHW[0, 0, 1, 1] = 0.5
    maps_BHW = mean_error_maps(images_BHWC, m_BCHW=m_BCHW, variance=0.5)
    np.testing.assert_allclose(maps_BHW, [[[0, 12], [0, 2.25]]])


@given(side=st.sampled_from([1, 2, 8, 32]), factor=st.sampled_from([1, 2, 4]))
def test_pooling_preserves_the_sum_and_the_place(side: int, factor: int) -> None:
    maps_BHW = torch.rand(3, side * factor, side * factor, dtype=torch.float64)
    cells = pooled(maps_BHW, size=side)
    torch.testing.assert_close(cells.sum((1, 2)), maps_BHW.sum((1, 2)))
    torch.testing.assert_close(cells[1, -1, 0], maps_BHW[1, -factor:, :factor].sum())


def test_cells_that_cut_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="3 cells a side do not divide 8 pixels"):
        pooled(torch.zeros(1, 8, 8), size=3)
