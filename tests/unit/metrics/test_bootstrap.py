"""The bootstrap draws whole lesions, and agrees with a closed form that knows them too."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skinvae.metrics.auroc import auroc, placements
from skinvae.metrics.bootstrap import Sample, bootstrap_lesions, number_lesions, weighted_placements


def sample(rng: np.random.Generator, *, num_lesions: int, num_photos: int, shift: float) -> Sample:
    """Photos of a lesion share half of their variance."""
    lesions = np.repeat(np.arange(num_lesions), num_photos)
    scores = shift + rng.normal(size=num_lesions)[lesions] + rng.normal(size=len(lesions))
    return Sample(scores=scores[None], lesions=lesions)


def obuchowski_variance(normal: Sample, abnormal: Sample) -> float:
    """Variance of the AUROC of clustered data, Obuchowski 1997, doi:10.2307/2533958, no lesion being on both sides."""
    total = 0.0
    for side, values in zip((normal, abnormal), placements(normal.scores[0], abnormal=abnormal.scores[0]), strict=True):
        sums = np.bincount(side.lesions, weights=values - values.mean())
        total += side.num_lesions / (side.num_lesions - 1) * (sums**2).sum() / len(values) ** 2
    return total


def test_weighted_placements_are_those_of_repeated_scores():
    rng = np.random.default_rng(0)
    normal, abnormal = rng.integers(0, 5, 20).astype(float), rng.integers(0, 5, 7).astype(float)
    weights = rng.integers(0, 4, (3, 20)).astype(float)
    result = weighted_placements(normal, abnormal=abnormal, normal_weights=weights)
    for row, weight in zip(result, weights, strict=True):
        _, expected = placements(np.repeat(normal, weight.astype(int)), abnormal=abnormal)
        np.testing.assert_allclose(row, expected, rtol=1e-12)


def test_variance_is_obuchowski_s():
    rng = np.random.default_rng(1)
    normal = sample(rng, num_lesions=120, num_photos=3, shift=0.0)
    abnormal = sample(rng, num_lesions=60, num_photos=2, shift=1.0)
    resampled = bootstrap_lesions(normal, abnormal=[abnormal], num_resamples=4000, rng=np.random.default_rng(2))
    expected = obuchowski_variance(normal, abnormal)
    # 4,000 resamples: 2.2 % standard error, and the bootstrap's own (L - 1) / L.
    assert resampled[0, 0].var() == pytest.approx(expected, rel=0.1)
    assert resampled[0, 0].mean() == pytest.approx(auroc(normal.scores[0], abnormal=abnormal.scores[0]), abs=0.005)
    alone = [Sample(scores=s.scores, lesions=np.arange(s.scores.shape[1])) for s in (normal, abnormal)]
    by_image = bootstrap_lesions(alone[0], abnormal=alone[1:], num_resamples=2000, rng=np.random.default_rng(2))
    assert by_image[0, 0].var() < 0.75 * expected


def test_macro_and_pooled_of_each_resample_follow_from_its_classes():
    rng = np.random.default_rng(3)
    normal = sample(rng, num_lesions=20, num_photos=2, shift=0.0)
    one = sample(rng, num_lesions=9, num_photos=1, shift=1.0)
    two = sample(rng, num_lesions=6, num_photos=3, shift=0.3)
    result = bootstrap_lesions(normal, abnormal=[one, two], num_resamples=60, rng=rng)[0]
    np.testing.assert_allclose(result[2], result[:2].mean(axis=0))
    # Every lesion of a class has equally many photos here, so its number of drawn images is fixed.
    np.testing.assert_allclose(result[3], (9 * result[0] + 18 * result[1]) / 27)


def test_same_generator_state_same_resamples():
    data = sample(np.random.default_rng(4), num_lesions=10, num_photos=2, shift=0.0)
    runs = [
        bootstrap_lesions(data, abnormal=[data], num_resamples=130, rng=np.random.default_rng(seed))
        for seed in (5, 5, 6)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_images_without_a_lesion_stand_alone():
    numbers = number_lesions(pd.Series(["L1", None, "L2", "L1", None]))
    assert numbers[0] == numbers[3]
    assert sorted(set(numbers.tolist())) == [0, 1, 2, 3]
    assert len(set(number_lesions(pd.Series([None, None, None], dtype=object)).tolist())) == 3
