"""AUROC against hand-computed values and sklearn; its variance against statsmodels and brute-force U-statistics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score
from statsmodels.stats.nonparametric import rank_compare_2indep

from skinvae.metrics.auroc import auroc, delong, macro_auroc, placements, single_auroc


def kernel(normal: np.ndarray, abnormal: np.ndarray) -> np.ndarray:
    """(n, m): 1 where the abnormal score is higher, 1/2 where equal. The definition, pair by pair."""
    return (abnormal[None] > normal[:, None]) + 0.5 * (abnormal[None] == normal[:, None])


def tied(seed: int, size: int, shift: float = 0.0) -> np.ndarray:
    """Scores with many ties."""
    return np.round(np.random.default_rng(seed).normal(shift, 1.0, size) * 2) / 2


small_scores = st.integers(1, 8).flatmap(lambda size: arrays(np.float64, size, elements=st.integers(-2, 2).map(float)))


def test_hand_computed_with_ties():
    # Pairs: 2 beats 0 and 1, ties with 2; 3 beats all: (2 + 1/2 + 3) / 6.
    assert auroc(np.array([0.0, 1.0, 2.0]), abnormal=np.array([2.0, 3.0])) == pytest.approx(5.5 / 6)
    assert auroc(np.array([0.0]), abnormal=np.array([1.0])) == 1.0
    assert auroc(np.array([1.0]), abnormal=np.array([1.0])) == 0.5


@given(normal=small_scores, abnormal=small_scores)
def test_placements_are_the_kernel_s_margins(normal, abnormal):
    of_normal, of_abnormal = placements(normal, abnormal=abnormal)
    pairs = kernel(normal, abnormal)
    np.testing.assert_allclose(of_normal, pairs.mean(axis=1), atol=1e-14)
    np.testing.assert_allclose(of_abnormal, pairs.mean(axis=0), atol=1e-14)


def test_equals_sklearn():
    normal, abnormal = tied(0, 300), tied(1, 80, 0.7)
    truth = np.r_[np.zeros(300), np.ones(80)]
    assert auroc(normal, abnormal=abnormal) == pytest.approx(roc_auc_score(truth, np.r_[normal, abnormal]), abs=1e-12)
    assert single_auroc(normal, abnormal=abnormal).value == pytest.approx(auroc(normal, abnormal=abnormal), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_delong_s_variance_is_statsmodels_and_brute_force(seed):
    normal, abnormal = tied(seed, 41), tied(seed + 100, 23, 0.8)
    pairs = kernel(normal, abnormal)
    brute = pairs.mean(axis=1).var(ddof=1) / 41 + pairs.mean(axis=0).var(ddof=1) / 23
    _, covariance = delong(normal, abnormal={"X": abnormal})
    assert covariance[0, 0] == pytest.approx(brute, rel=1e-12)
    assert rank_compare_2indep(abnormal, normal).var_prob == pytest.approx(brute, rel=1e-12)
    assert single_auroc(normal, abnormal=abnormal).variance == pytest.approx(brute, rel=1e-12)


def test_covariance_of_classes_that_share_normals_is_the_jackknife_s():
    """Leaving out each image in turn, normals and classes apart, gives DeLong's covariance exactly."""
    normal = tied(0, 30)
    classes = {"A": tied(1, 12, 0.5), "B": tied(2, 17, 1.0), "C": tied(3, 9, -0.4)}
    values, covariance = delong(normal, abnormal=classes)
    expected = np.zeros((3, 3))
    samples = [normal, *classes.values()]
    for index, sample in enumerate(samples):
        left_out = []
        for image in range(len(sample)):
            reduced = [*samples[:index], np.delete(sample, image), *samples[index + 1 :]]
            left_out.append([kernel(reduced[0], other).mean() for other in reduced[1:]])
        size = len(sample)
        expected += (size - 1) * np.cov(np.array(left_out).T, ddof=0)
    np.testing.assert_allclose(values, [kernel(normal, scores).mean() for scores in classes.values()], rtol=1e-12)
    np.testing.assert_allclose(covariance, expected, rtol=1e-9, atol=1e-15)


def test_macro_s_variance_is_that_of_repeated_sampling():
    """1,500 new archives: the mean estimated variance is the variance of the estimates (1.07 of it, measured; the
    standard error is 4 %). Ignoring that the classes share their normals would give .72 of it."""
    rng = np.random.default_rng(7)
    estimates, variances, independent = [], [], []
    for _ in range(1500):
        normal = rng.normal(size=30)
        classes = {"A": rng.normal(0.8, 1, 40), "B": rng.normal(1.2, 1, 25)}
        result = macro_auroc(normal, abnormal=classes)
        estimates.append(result.value)
        variances.append(result.variance)
        independent.append(np.trace(delong(normal, abnormal=classes)[1]) / 4)
    ratio = np.mean(variances) / np.var(estimates)
    assert ratio == pytest.approx(1.0, abs=0.12)
    assert np.mean(independent) / np.var(estimates) < 0.8


@settings(max_examples=200)
@given(normal=small_scores, classes=st.lists(small_scores, min_size=1, max_size=4))
def test_pooled_is_the_weighted_mean_of_the_classes(normal, classes):
    """Oracle 7 of scores.md, ties included."""
    sizes = np.array([len(scores) for scores in classes])
    values = np.array([auroc(normal, abnormal=scores) for scores in classes])
    pooled = auroc(normal, abnormal=np.concatenate(classes))
    assert pooled == pytest.approx(sizes @ values / sizes.sum(), abs=1e-12)


@given(normal=small_scores, abnormal=small_scores)
def test_swapping_sides_and_monotone_maps(normal, abnormal):
    value = auroc(normal, abnormal=abnormal)
    assert auroc(abnormal, abnormal=normal) == pytest.approx(1 - value, abs=1e-12)
    assert auroc(np.exp(normal), abnormal=np.exp(abnormal)) == pytest.approx(value, abs=1e-12)


def test_one_image_leaves_the_variance_open():
    one, many = np.array([1.0]), np.array([0.0, 2.0, 3.0])
    for normal, abnormal in ((one, many), (many, one)):
        assert np.isnan(single_auroc(normal, abnormal=abnormal).variance)
        assert np.isnan(macro_auroc(normal, abnormal={"X": abnormal}).variance)


@pytest.mark.parametrize(("normal", "abnormal"), [([], [1.0]), ([1.0], []), ([np.nan], [1.0]), ([1.0], [np.nan])])
def test_empty_or_nan_scores_are_refused(normal, abnormal):
    with pytest.raises(ValueError, match="normal score"):
        auroc(np.array(normal), abnormal=np.array(abnormal))
