"""A real GPU with too little memory for a batch: smaller batches, the same scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skinvae.model.scorer import Scorer, ScoringSettings
from skinvae.model.vae import VAE, ModelSettings
from skinvae.records import SCORES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: torch sees none on this machine")

IMAGES = np.random.default_rng(0).integers(0, 256, (96, 128, 128, 3), dtype=np.uint8)
HEADROOM_BYTES = 1 << 30
"""Beside the model: enough for small batches, too little for 64 images and 960 draws at once."""


def scorer(*, batch_size: int, decode_batch_size: int) -> Scorer:
    torch.manual_seed(0)
    return Scorer(
        VAE(ModelSettings()),
        variance=0.01,
        settings=ScoringSettings(),
        device="cuda",
        batch_size=batch_size,
        decode_batch_size=decode_batch_size,
    )


def test_batches_shrink_to_what_fits_and_scores_stay_the_same() -> None:
    expected = scorer(batch_size=32, decode_batch_size=32).score(IMAGES)
    torch.cuda.empty_cache()
    greedy = scorer(batch_size=64, decode_batch_size=4096)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + HEADROOM_BYTES) / total)
    try:
        scores = greedy.score(IMAGES)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert greedy.decode_batch_size < 4096
    for name in SCORES:
        np.testing.assert_allclose(scores[name], expected[name], rtol=1e-6, err_msg=name)
