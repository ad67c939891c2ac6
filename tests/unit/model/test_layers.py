"""The fast layers are the same functions: against torch's own convolutions, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from skinvae.model.layers import GridToLatent, InPlaceReLU, LatentToGrid, OverlapAdd, PhaseOutput


def upsampling(num_in: int, num_out: int) -> nn.ConvTranspose2d:
    torch.manual_seed(0)
    return nn.ConvTranspose2d(num_in, num_out, 4, stride=2, padding=1).double()


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (1, 1), (2, 5), (8, 3)])
def test_overlap_add_is_the_transposed_convolution(height: int, width: int) -> None:
    layer, x = upsampling(7, 5), images(3, 7, height, width)
    with torch.inference_mode():
        torch.testing.assert_close(OverlapAdd(layer)(x), layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (1, 1), (2, 5), (16, 3)])
def test_the_phases_are_the_transposed_convolution_s_pixels(height: int, width: int) -> None:
    layer, x = upsampling(6, 3), images(2, 6, height, width)
    with torch.inference_mode():
        phases = PhaseOutput(layer)(x)
        torch.testing.assert_close(phases, functional.pixel_unshuffle(layer(x), 2), rtol=1e-12, atol=1e-12)


def test_the_ends_of_the_latent_are_matrix_products() -> None:
    torch.manual_seed(0)
    from_latent, mean, spread = nn.ConvTranspose2d(6, 5, 4), nn.Conv2d(5, 6, 4), nn.Conv2d(5, 6, 4)
    z, h = images(3, 6).float(), images(3, 5, 4, 4).float()
    with torch.inference_mode():
        torch.testing.assert_close(LatentToGrid(from_latent)(z), from_latent(z[:, :, None, None]))
        both = torch.cat([mean(h), spread(h)], dim=1).flatten(1)
        torch.testing.assert_close(GridToLatent(mean, spread)(h), both)


def test_relu_is_the_end_of_its_layers() -> None:
    layer, x = nn.Conv2d(3, 2, 1).double(), images(2, 3, 4, 4)
    with torch.inference_mode():
        out = InPlaceReLU(layer)(x)
        torch.testing.assert_close(out, layer(x).clamp(min=0))
        assert (out == 0).any()
