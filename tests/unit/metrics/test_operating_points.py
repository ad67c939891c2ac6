"""Sensitivity at a specificity: the threshold's meaning, and intervals that hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from skinvae.metrics.operating_points import sensitivity_interval, threshold, threshold_ranks


@pytest.mark.parametrize(("num", "level", "rank"), [(10, 0.9, 9), (100, 0.95, 95), (7, 0.9, 7), (1, 0.9, 1)])
def test_the_threshold_is_the_smallest_that_is_specific_enough(num: int, level: float, rank: int) -> None:
    normal = np.random.default_rng(0).permutation(np.arange(1.0, num + 1))
    assert threshold(normal, specificity=level) == rank
    assert (normal <= rank).mean() >= level > (normal <= rank - 1).mean()


def test_few_normals_leave_the_threshold_open_above() -> None:
    ranks = threshold_ranks(20, specificity=0.95, num_effective=20)
    assert ranks.high == 21
    low, high = sensitivity_interval(
        np.arange(20.0), abnormal=np.full(50, 100.0), specificity=0.95, num_effective=(20, 50)
    )
    assert low == 0.0
    assert high == 1.0


def test_photos_that_are_alike_count_less() -> None:
    all_alone = threshold_ranks(1000, specificity=0.9, num_effective=1000)
    in_pairs = threshold_ranks(1000, specificity=0.9, num_effective=500)
    assert in_pairs.low < all_alone.low < 900 < all_alone.high < in_pairs.high


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_interval_holds_the_true_sensitivity(level: float) -> None:
    """In at least 95 % of 400 draws, threshold and share both unknown; standard error 1.1 %."""
    truth = norm.sf(norm.ppf(level) - 1.0)
    rng, held = np.random.default_rng(1), 0
    for _ in range(400):
        normal, abnormal = rng.normal(size=150), rng.normal(loc=1.0, size=60)
        low, high = sensitivity_interval(normal, abnormal=abnormal, specificity=level, num_effective=(150, 60))
        held += low <= truth <= high
    assert held / 400 > 0.94
