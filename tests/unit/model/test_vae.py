"""The network is the paper's, layer by layer, at every size that the settings allow."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from skinvae.model.vae import LOGVAR_MAX, LOGVAR_MIN, VAE, ModelSettings, to_uint8, to_unit_range

SMALL = ModelSettings(image_size=32, base_channels=4, num_latents=6)


def layers(module: nn.Module) -> list[nn.Module]:
    """All layers in the order in which they run."""
    return [layer for layer in module.modules() if not list(layer.children())]


def weight_shapes(module: nn.Module) -> list[list[int]]:
    return [list(layer.weight.shape) for layer in layers(module) if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]


def test_the_paper_s_model_has_37_046_363_parameters() -> None:
    with torch.device("meta"):
        model = VAE(ModelSettings())
    assert sum(parameter.numel() for parameter in model.parameters()) == 37_046_363


def test_the_paper_s_layers() -> None:
    with torch.device("meta"):
        model = VAE(ModelSettings())
    channels = [3, 64, 128, 256, 512, 1024]
    # Conv weights are (out, in, 4, 4), ConvTranspose weights (in, out, 4, 4).
    assert weight_shapes(model.encoder) == [[channels[i + 1], channels[i], 4, 4] for i in range(5)]
    assert weight_shapes(model.mu) == weight_shapes(model.logvar) == [[300, 1024, 4, 4]]
    widths = [300, *channels[:0:-1], 3]
    assert weight_shapes(model.decoder) == [[widths[i], widths[i + 1], 4, 4] for i in range(6)]
    all_layers = layers(model)
    convolutions = [one for one in all_layers if isinstance(one, nn.Conv2d | nn.ConvTranspose2d)]
    assert all(one.bias is not None for one in convolutions)
    strides = [(one.stride[0], one.padding[0]) for one in convolutions]
    assert strides == [(2, 1)] * 5 + [(1, 0)] * 3 + [(2, 1)] * 5
    kinds = [type(one).__name__ for one in layers(model.encoder)]
    assert kinds == ["Conv2d", "ReLU"] + ["Conv2d", "BatchNorm2d", "ReLU"] * 4
    kinds = [type(one).__name__ for one in layers(model.decoder)]
    assert kinds == ["ConvTranspose2d", "BatchNorm2d", "ReLU"] * 5 + ["ConvTranspose2d", "Tanh"]


@pytest.mark.parametrize("image_size", [32, 64, 256])
def test_other_sizes_change_the_number_of_blocks_only(image_size: int) -> None:
    settings = ModelSettings(image_size=image_size, base_channels=2, num_latents=5)
    model = VAE(settings).eval()
    x_BCHW = torch.rand(2, 3, image_size, image_size) * 2 - 1
    with torch.inference_mode():
        assert model.encoder(x_BCHW).shape[2:] == (4, 4)
        x_hat_BCHW, mu_BD, logvar_BD = model(x_BCHW, torch.zeros(2, 5))
    assert x_hat_BCHW.shape == x_BCHW.shape
    assert mu_BD.shape == logvar_BD.shape == (2, 5)
    assert x_hat_BCHW.abs().max() < 1
    assert settings.num_pixels == x_BCHW[0].numel()


@pytest.mark.parametrize("image_size", [0, 16, 31, 33, 48, 100, 127, 130])
def test_other_image_sizes_are_refused_by_name(image_size: int) -> None:
    with pytest.raises(ValidationError, match=r"image_size(.|\n)*(power of two|equal to 32)") as caught:
        ModelSettings(image_size=image_size)
    assert caught.value.errors()[0]["input"] == image_size


@pytest.mark.parametrize(("bias", "bound"), [(1e6, LOGVAR_MAX), (-1e6, LOGVAR_MIN)])
def test_logvar_is_clamped_so_that_its_exponential_stays_finite(bias: float, bound: float) -> None:
    model = VAE(SMALL).eval()
    with torch.inference_mode():
        model.logvar.bias.fill_(bias)
        x_hat_BCHW, mu_BD, logvar_BD = model(torch.zeros(2, 3, 32, 32), torch.ones(2, 6))
    assert (logvar_BD == bound).all()
    assert torch.isfinite(x_hat_BCHW).all()
    assert mu_BD.abs().max() < abs(LOGVAR_MIN)  # the mean is not clamped with it
    assert 0 < float(logvar_BD.exp().min()) <= float(logvar_BD.exp().max()) < torch.inf


@pytest.mark.parametrize(("output", "own", "other"), [(0, "mu", "logvar"), (1, "logvar", "mu")])
def test_the_heads_are_separate(output: int, own: str, other: str) -> None:
    model = VAE(SMALL)
    model.encode(torch.rand(2, 3, 32, 32))[output].square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert gradients[f"{own}.weight"] is not None
    assert gradients[f"{other}.weight"] is None
    assert gradients["encoder.0.weight"] is not None


def test_in_evaluation_an_image_s_code_does_not_depend_on_its_batch() -> None:
    model = VAE(SMALL).eval().double()
    x_BCHW = torch.rand(5, 3, 32, 32, dtype=torch.float64) * 2 - 1
    with torch.inference_mode():
        together, alone = model.encode(x_BCHW), model.encode(x_BCHW[[3]])
    for whole, part in zip(together, alone, strict=True):
        torch.testing.assert_close(whole[[3]], part, rtol=1e-12, atol=1e-14)


def test_one_draw_is_mu_plus_the_standard_deviation_times_eps() -> None:
    model = VAE(SMALL).eval().double()
    x_BCHW, eps_BD = torch.rand(2, 3, 32, 32, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    with torch.inference_mode():
        x_hat_BCHW, mu_BD, logvar_BD = model(x_BCHW, eps_BD)
        again_BCHW = model.decode(mu_BD + logvar_BD.exp().sqrt() * eps_BD)
    torch.testing.assert_close(x_hat_BCHW, again_BCHW, rtol=1e-12, atol=1e-14)


def test_all_256_levels_survive_the_unit_range() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).repeat(1, 1, 1, 3)
    x_BCHW = to_unit_range(levels)
    assert (float(x_BCHW.min()), float(x_BCHW.max())) == (-1.0, 1.0)
    assert torch.equal(to_uint8(x_BCHW), levels)


def test_channels_keep_their_place() -> None:
    picture = torch.randint(0, 256, (2, 4, 6, 3), dtype=torch.uint8)
    x_BCHW = to_unit_range(picture)
    assert torch.equal(x_BCHW[1, 2], picture[1, :, :, 2] / 127.5 - 1)
    assert torch.equal(to_uint8(x_BCHW), picture)


def test_values_out_of_range_saturate() -> None:
    assert to_uint8(torch.tensor([-1.5, -1.0, 1.0, 3.0]).view(1, 1, 1, 4)).flatten().tolist() == [0, 0, 255, 255]
