"""Slices take seconds, whatever the speed, and give every actor several."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinvae.pipelines.tuning import (
    MAX_SLICE_SIZE,
    MIN_SLICE_SIZE,
    SLICE_SECONDS,
    SLICES_PER_ACTOR,
    choose_slice_size,
)


@pytest.mark.parametrize(
    ("rate", "batch_size", "num_members", "num_actors", "expected"),
    [
        (15.0, 16, 1_000_000, 1, 48),  # the paper's model on two cores: whole batches in four seconds
        (60.0, 16, None, 1, 240),
        (22_000.0, 512, 10**8, 64, 1024),
        (22_000.0, 512, 10_015, 8, 312),  # four slices for each of eight GPUs rather than 20 in whole batches
        (0.1, 16, 10**6, 1, 16),
        (300.0, 16, 1371, 2, 160),
    ],
)
def test_by_hand(rate: float, batch_size: int, num_members: int | None, num_actors: int, expected: int) -> None:
    found = choose_slice_size(rate, batch_size=batch_size, num_members=num_members, num_actors=num_actors)
    assert found == expected


@given(
    rate=st.floats(0.01, 1e6),
    batch_size=st.integers(1, 2048),
    num_members=st.none() | st.integers(1, 10**9),
    num_actors=st.integers(1, 100),
)
def test_bounds(rate: float, batch_size: int, num_members: int | None, num_actors: int) -> None:
    size = choose_slice_size(rate, batch_size=batch_size, num_members=num_members, num_actors=num_actors)
    assert MIN_SLICE_SIZE <= size <= MAX_SLICE_SIZE
    if size > max(MIN_SLICE_SIZE, batch_size):
        assert size <= rate * SLICE_SECONDS
    if num_members is not None and size > MIN_SLICE_SIZE:
        assert size * SLICES_PER_ACTOR * num_actors <= num_members, "an actor goes without"
