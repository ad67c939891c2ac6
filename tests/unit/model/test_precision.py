"""Which precision a device gets, and how near the fast ones come to float64 on images of skin."""

from __future__ import annotations

import zipfile
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from skinvae.images.decode import DecodeSettings, decode
from skinvae.model import network
from skinvae.model.precision import DTYPES, Precision, emulates, fastest_precision, lacks, matrix_precision
from skinvae.model.scorer import Scorer, ScoringSettings
from skinvae.model.vae import VAE, ModelSettings, to_unit_range
from skinvae.records import SCORES
from tests.isic import ISIC, WHY_NOT

CPU = torch.device("cpu")
NUM_IMAGES, SIZE = 1000, 32
NUM_NORMALS, MAX_P_VALUE_MOVE = 300, 0.02
"""p-values are ranks among normals that were scored in float32."""
MIN_RANK_CORRELATION = 0.9999
MAX_ERROR = {"float32": 1e-5, "bfloat16": 2e-2}
"""Of a score, relative to the standard deviation of that score over the images."""


def test_every_precision_has_a_format() -> None:
    assert set(DTYPES) == set(get_args(Precision))


def test_a_cpu_is_fastest_in_what_it_multiplies_natively() -> None:
    with_tiles = torch.cpu._is_amx_tile_supported()
    assert fastest_precision(CPU) == ("bfloat16" if with_tiles else "float32")


def test_tf32_is_for_gpus() -> None:
    assert "GPU" in str(lacks(CPU, "tf32"))
    assert all(lacks(CPU, precision) is None for precision in ("float32", "bfloat16", "float64"))
    assert emulates(CPU, "bfloat16") == (fastest_precision(CPU) == "float32")
    assert not emulates(CPU, "float32")


@pytest.mark.parametrize(
    ("precision", "is_short"), [("float32", False), ("float64", False), ("tf32", True), ("bfloat16", True)]
)
def test_short_products_are_allowed_within_the_block_only(precision: Precision, is_short: bool) -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with matrix_precision(precision):
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (is_short, is_short)
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


@pytest.fixture(scope="module")
def skin() -> NDArray[np.uint8]:
    """1,000 real images."""
    with zipfile.ZipFile(ISIC / "ISIC2018_small.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][:NUM_IMAGES]
        found = [decode(archive.read(name), size=SIZE, settings=DecodeSettings()).pixels for name in names]
    return np.stack([pixels for pixels in found if pixels is not None])


@pytest.fixture(scope="module")
def trained(skin: NDArray[np.uint8]) -> VAE:
    """On the images themselves, for as many steps as make reconstructions of them."""
    torch.manual_seed(0)
    model = VAE(ModelSettings(image_size=SIZE, base_channels=16, num_latents=32))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    x_BCHW = to_unit_range(torch.from_numpy(skin))
    for step in range(120):
        batch = x_BCHW[torch.randint(len(x_BCHW), (32,))]
        x_hat, mu, logvar = model(batch, torch.randn(32, 32))
        kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1)
        loss = (0.5 * (batch - x_hat).square().flatten(1).sum(1) + 0.01 * kl).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 0:
            at_first = loss.item()
    assert loss.item() < 0.2 * at_first, "these are no trained weights"
    return model.eval()


@pytest.mark.skipif(not ISIC.exists(), reason=WHY_NOT)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_a_thousand_real_images_ranks_and_scores_are_float64_s(
    skin: NDArray[np.uint8], trained: VAE, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in the paper's model, where the first two layers have the channels that make it pay.
    monkeypatch.setattr(network, "_OVERLAP_ADD_CHANNELS", 32)

    def scored(precision: Precision) -> dict[str, NDArray[np.float64]]:
        settings = ScoringSettings(precision=precision)
        model = VAE(trained.settings)
        model.load_state_dict(trained.state_dict())
        return Scorer(model, variance=0.01, settings=settings).score(skin)

    expected, actual = scored("float64"), scored(precision)
    assert len(skin) == NUM_IMAGES
    for name in SCORES:
        correlation = spearmanr(actual[name], expected[name]).statistic
        assert correlation >= MIN_RANK_CORRELATION, (name, correlation)
        error = np.abs(actual[name] - expected[name]).max() / expected[name].std()
        assert error <= MAX_ERROR[precision], (name, error)
    assert _most_moved_p_value(actual, expected) <= MAX_P_VALUE_MOVE
    if precision == "bfloat16":
        assert (actual["vae_reconst"] != expected["vae_reconst"]).any(), "as if nothing were in bfloat16"


def _most_moved_p_value(actual: dict[str, NDArray[np.float64]], expected: dict[str, NDArray[np.float64]]) -> float:
    """The first images play the normals, whose scores are float64's, the others are ranked among them."""
    normals = np.sort(expected["vae_reconst"][:NUM_NORMALS])
    first, second = (
        (1 + NUM_NORMALS - np.searchsorted(normals, scores["vae_reconst"][NUM_NORMALS:])) / (1 + NUM_NORMALS)
        for scores in (actual, expected)
    )
    return float(np.abs(first - second).max())
