"""A real GPU: the scores of the CPU in float32, and near them in the fast formats; every trick gives the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from skinvae.model import network
from skinvae.model.network import Tricks
from skinvae.model.noise import Noise
from skinvae.model.precision import Precision
from skinvae.model.scorer import Scorer, ScoringSettings
from skinvae.model.squared_error import squared_errors
from skinvae.model.vae import ModelSettings
from skinvae.records import SCORES
from tests.unit.model.small_models import trained_a_little

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: torch sees none on this machine")

SETTINGS = ModelSettings(image_size=64, base_channels=16, num_latents=32)
GPU_TRICKS = Tricks.for_device(torch.device("cuda"))
Scores = dict[str, NDArray[np.float64]]


def images() -> NDArray[np.uint8]:
    """Of very different contrast, so that scores spread as those of real ones do."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 64, 64, 3), dtype=np.uint8)
    return (noise * np.linspace(0.1, 1, 300)[:, None, None, None]).astype(np.uint8)


@pytest.fixture(autouse=True)
def channels_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise so small a model has no layer for overlap-add."""
    monkeypatch.setattr(network, "_OVERLAP_ADD_CHANNELS", 32)


def scored(
    precision: Precision,
    *,
    device: str = "cuda",
    tricks: Tricks | None = None,
    batch_size: int = 0,
    noise: Noise = "independent",
) -> Scores:
    scorer = Scorer(
        trained_a_little(SETTINGS),
        variance=0.01,
        settings=ScoringSettings(precision=precision, noise=noise),
        device=device,
        batch_size=batch_size,
        tricks=tricks,
    )
    return scorer.score(images())


def assert_near(actual: Scores, expected: Scores, *, of_deviation: float) -> None:
    for name in SCORES:
        error = np.abs(actual[name] - expected[name]).max() / expected[name].std()
        assert error <= of_deviation, (name, error)


@pytest.mark.parametrize("noise", ["independent", "lhs"])
def test_in_float32_it_is_the_cpu(noise: Noise) -> None:
    expected = scored("float32", device="cpu", noise=noise)
    assert_near(scored("float32", noise=noise), expected, of_deviation=1e-5)


@pytest.mark.parametrize(("precision", "of_deviation"), [("tf32", 1e-2), ("bfloat16", 2e-2)])
def test_fast_formats_are_near_float64(precision: Precision, of_deviation: float) -> None:
    expected, actual = scored("float64"), scored(precision)
    assert_near(actual, expected, of_deviation=of_deviation)
    for name in SCORES:
        assert spearmanr(actual[name], expected[name]).statistic >= 0.9999, name


@pytest.mark.parametrize(
    "change",
    [
        {"cuda_graph": True},
        {"squared_error": "triton"},
        {"cuda_graph": True, "squared_error": "triton"},
        {"overlap_add": True},
    ],
    ids=str,
)
def test_no_trick_changes_a_score(change: dict[str, object]) -> None:
    tricks = replace(GPU_TRICKS, **change)
    assert_near(scored("float32", tricks=tricks), scored("float32"), of_deviation=1e-5)


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("batch_size", [7, 64, 1000])
def test_batches_in_flight_are_not_mixed_up(batch_size: int, cuda_graph: bool) -> None:
    tricks = replace(GPU_TRICKS, cuda_graph=cuda_graph)
    assert_near(scored("float32", tricks=tricks, batch_size=batch_size), scored("float32"), of_deviation=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_kernel_is_the_plain_way(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    raw = (3 * torch.randn(30, 12, 64, 64, device="cuda")).to(dtype).contiguous(memory_format=torch.channels_last)
    target = (torch.rand(2, 12, 64, 64, device="cuda") * 2 - 1).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        squared_errors(raw, target, way="triton"), squared_errors(raw, target), rtol=1e-5, atol=0
    )
