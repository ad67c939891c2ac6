"""The fast network against the model as it is written: equal to rounding, whatever trick is left out."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skinvae.model import network
from skinvae.model.bounds import Draws
from skinvae.model.draws import collect_draws
from skinvae.model.network import FastNetwork, PlainNetwork, Tricks, rectangles
from skinvae.model.noise import draw_noise
from skinvae.model.vae import VAE, ModelSettings, to_unit_range
from tests.unit.model.small_models import trained_a_little

CPU = torch.device("cpu")
SWITCHES = [field.name for field in fields(Tricks) if field.type == "bool" and field.name != "cuda_graph"]
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def channels_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of tests are too small for overlap-add to pay."""
    monkeypatch.setattr(network, "_OVERLAP_ADD_CHANNELS", 16)


def draws_of(model: FastNetwork | PlainNetwork, *, dtype: torch.dtype, decode_batch_size: int = 9) -> Draws:
    eps_BKD = torch.from_numpy(draw_noise(IMAGES, seed=0, num_samples=5, num_latents=7))
    x_BCHW = to_unit_range(torch.from_numpy(IMAGES)).to(dtype)
    with torch.inference_mode():
        return collect_draws(model, x_BCHW, eps_BKD, decode_batch_size=decode_batch_size)


def model() -> VAE:
    return trained_a_little(ModelSettings(image_size=64, base_channels=4, num_latents=7))


def test_there_are_switches_to_take_out() -> None:
    assert len(SWITCHES) == 6


@pytest.mark.parametrize("decode_batch_size", [1, 2, 9, 1000])
@pytest.mark.parametrize("left_out", [*SWITCHES, None])
def test_in_float64_it_is_the_model(left_out: str | None, decode_batch_size: int) -> None:
    tricks = Tricks() if left_out is None else replace(Tricks(), **{left_out: False})
    fast = FastNetwork(model(), decoder_dtype=torch.float64, device=CPU, tricks=tricks)
    expected = draws_of(PlainNetwork(model().double()), dtype=torch.float64)
    actual = draws_of(fast, dtype=torch.float64, decode_batch_size=decode_batch_size)
    for name in ("sq_err_BK", "norm_gap_BK", "sum_logvar_B", "kl_B"):
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=1e-11, atol=1e-11)


def test_no_trick_at_all_is_the_model_too() -> None:
    tricks = Tricks(**dict.fromkeys(SWITCHES, False))
    fast = FastNetwork(model(), decoder_dtype=torch.float64, device=CPU, tricks=tricks)
    expected = draws_of(PlainNetwork(model().double()), dtype=torch.float64)
    torch.testing.assert_close(
        draws_of(fast, dtype=torch.float64).sq_err_BK, expected.sq_err_BK, rtol=1e-11, atol=1e-11
    )


def test_in_bfloat16_the_encoder_stays_in_float32() -> None:
    fast = FastNetwork(model(), decoder_dtype=torch.bfloat16, device=CPU)
    expected = draws_of(PlainNetwork(model().double()), dtype=torch.float64)
    actual = draws_of(fast, dtype=torch.float32)
    torch.testing.assert_close(actual.kl_B, expected.kl_B, rtol=1e-5, atol=0)
    torch.testing.assert_close(actual.sq_err_BK, expected.sq_err_BK, rtol=2e-2, atol=0)
    assert (actual.sq_err_BK != expected.sq_err_BK.float().double()).any()


def test_the_model_itself_is_left_as_it_was() -> None:
    before = model()
    FastNetwork(before, decoder_dtype=torch.bfloat16, device=CPU)
    for (name, mine), (_, fresh) in zip(before.state_dict().items(), model().state_dict().items(), strict=True):
        assert mine.dtype == fresh.dtype, name
        torch.testing.assert_close(mine, fresh, rtol=0, atol=0)


@given(num_images=st.integers(1, 40), num_samples=st.integers(1, 40), at_most=st.integers(1, 2000))
def test_rectangles_cover_every_draw_once_and_cut_every_image_alike(
    num_images: int, num_samples: int, at_most: int
) -> None:
    seen = np.zeros((num_images, num_samples), int)
    cuts: dict[int, list[tuple[int, int]]] = {}
    for images, draws in rectangles(num_images, num_samples, at_most=at_most):
        seen[images, draws] += 1
        assert seen[images, draws].size <= at_most
        for image in range(images.start, images.stop):
            cuts.setdefault(image, []).append((draws.start, draws.stop))
    assert (seen == 1).all()
    assert len({tuple(one) for one in cuts.values()}) == 1
    sizes = {images.stop - images.start for images, _ in rectangles(num_images, num_samples, at_most=at_most)}
    assert len(sizes) == 1


def test_overlap_add_is_used_where_it_pays() -> None:
    """Otherwise the tests above would compare nothing."""
    fast = FastNetwork(model(), decoder_dtype=torch.float64, device=CPU, tricks=Tricks())
    kinds = [type(next(iter(layer.children()))[0]).__name__ for layer in [*fast.layers.values()][-5:-1]]
    assert kinds == ["LatentToGrid", "OverlapAdd", "OverlapAdd", "ConvTranspose2d"]
