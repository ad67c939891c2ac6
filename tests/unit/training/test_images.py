"""Batches and shares cover every image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinvae.errors import UsageError
from skinvae.pipelines.fitting import require_work_for_all
from skinvae.training.images import epoch_order, global_batches, share_of
from tests.conftest import train_config


@given(num_images=st.integers(1, 300), batch_size=st.integers(1, 100), num_workers=st.integers(1, 9))
def test_the_workers_shares_cover_every_image_exactly_once(num_images: int, batch_size: int, num_workers: int) -> None:
    order = np.random.default_rng(0).permutation(num_images)
    batches = global_batches(order, size=batch_size)
    shares = [[share_of(one, rank=rank, num_workers=num_workers) for rank in range(num_workers)] for one in batches]
    taken = np.concatenate([np.concatenate(one) for one in shares])
    assert sorted(taken) == list(range(num_images))
    assert max(map(len, batches)) <= batch_size
    sizes = [len(share) for one in shares for share in one]
    assert max(sizes) - min(sizes) <= 2, "batches differ by one image, and so do the shares of one"
    if min(sizes) == 0:
        settings = train_config(batch_size=batch_size).train
        with pytest.raises(UsageError, match=f"{num_workers} training workers are more than"):
            require_work_for_all(num_images, settings=settings, num_workers=num_workers)


@given(num_images=st.integers(0, 60), seed=st.integers(0, 5), epoch=st.integers(1, 5))
def test_an_epoch_is_a_permutation_of_its_own(num_images: int, seed: int, epoch: int) -> None:
    indices = np.arange(num_images)
    order = epoch_order(indices, seed=seed, epoch=epoch)
    assert sorted(order) == list(indices)
    assert (order == epoch_order(indices, seed=seed, epoch=epoch)).all()
    if num_images > 20:
        assert (order != epoch_order(indices, seed=seed, epoch=epoch + 1)).any()
