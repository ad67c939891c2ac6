"""The variance of influences is DeLong's where images are independent, and that of lesions where they are not."""

from __future__ import annotations

import numpy as np
import pytest

from skinvae.metrics.auroc import delong
from skinvae.metrics.evaluation import estimate_targets
from skinvae.metrics.influence import influences


def sides(*, seed: int, num_photos: int = 1) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Scores with ties; `num_photos` equal photos of each lesion."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=40).round(1)
    abnormal = {name: rng.normal(loc=0.7, size=size).round(1) for name, size in (("MEL", 15), ("DF", 9))}
    lesions = np.repeat(np.arange(64), num_photos)
    repeated = {name: np.repeat(scores, num_photos) for name, scores in abnormal.items()}
    return np.repeat(normal, num_photos), repeated, lesions


def test_independent_images_give_delong_s_variances() -> None:
    normal, abnormal, lesions = sides(seed=0)
    found = influences(normal, abnormal=abnormal)
    expected = estimate_targets(normal, abnormal=abnormal).values()
    np.testing.assert_allclose(found.values, [one.value for one in expected], rtol=1e-12)
    np.testing.assert_allclose(found.variances(lesions), [one.variance for one in expected], rtol=1e-12)
    _, covariance = delong(normal, abnormal=abnormal)
    assert found.parts[0] @ found.parts[1] == pytest.approx(covariance[0, 1], rel=1e-12)


def test_copies_of_an_image_tell_no_more_than_the_image() -> None:
    """Five equal photos of each lesion: the AUROC is that of one photo, and so is its variance."""
    alone = influences(*sides(seed=1)[:1], abnormal=sides(seed=1)[1])
    normal, abnormal, lesions = sides(seed=1, num_photos=5)
    photos = influences(normal, abnormal=abnormal, lesions=lesions)
    np.testing.assert_allclose(photos.values, alone.values, rtol=1e-12)
    np.testing.assert_allclose(photos.variances(lesions), alone.variances(np.arange(64)), rtol=1e-12)
    too_narrow = influences(normal, abnormal=abnormal)
    assert (too_narrow.variances(np.arange(320)) < photos.variances(lesions) / 4).all()


def test_one_image_on_a_side_has_no_variance() -> None:
    found = influences(np.arange(5.0), abnormal={"MEL": np.array([3.0]), "DF": np.array([1.0, 4.0])})
    assert np.isnan(found.variances(np.arange(8))).tolist() == [True, False, True, False]
