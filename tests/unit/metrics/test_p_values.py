"""p-values hold what they promise: as ranks, as a fitted tail, and by being absent where they would mean nothing."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from skinvae.metrics.p_values import NormalTail, PValues, Tail, fit_tail


def p_values(
    scores: list[float], *, normals: list[float], image_ids: list[str] | None = None, trained_on: tuple[str, ...] = ()
) -> list[float]:
    frame = pd.DataFrame({"image_id": image_ids or [f"new{i}" for i in range(len(scores))], "vae_reconst": scores})
    return list(PValues(np.sort(normals), tail=None, trained_on=trained_on)(frame))


def fitted(
    normals: NDArray[np.float64], kind: Tail | Literal["auto"] = "auto", offset: float = -68_009.0
) -> NormalTail:
    return fit_tail(normals + offset, offset_nats=offset, kind=kind, rng=np.random.default_rng(0))


def test_hand_computed_with_ties() -> None:
    # Of the normals 1, 2, 2, 3, at least as high: 4, 4, 3, 1, 1, 0; plus one, over five.
    found = p_values([0.5, 1.0, 2.0, 2.5, 3.0, 3.5], normals=[2.0, 3.0, 1.0, 2.0])
    assert found == [1.0, 1.0, 0.8, 0.4, 0.4, 0.2]


numbers = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=20)


@settings(deadline=None)
@given(scores=numbers, normals=numbers)
def test_the_definition(scores: list[float], normals: list[float]) -> None:
    """(1 + normals at least as high) / (1 + normals): never below 1/(n+1), never above 1."""
    found = p_values(scores, normals=normals)
    n = len(normals)
    assert found == [(1 + sum(normal >= score for normal in normals)) / (1 + n) for score in scores]
    assert all(1 / (n + 1) <= one <= 1 for one in found)


@settings(deadline=None)
@given(normals=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30, unique=True))
def test_of_an_exchangeable_normal_they_are_valid(normals: list[float]) -> None:
    """Each of n + 1 normals, ranked among the others: no level is reached more often than it says."""
    if len(normals) < 2:
        return
    found = [p_values([one], normals=[*normals[:i], *normals[i + 1 :]])[0] for i, one in enumerate(normals)]
    for level in (0.05, 0.1, 0.5, 0.9):
        assert np.mean(np.array(found) <= level) <= level + 1e-12


def test_images_that_the_model_was_trained_on_have_none() -> None:
    found = p_values([9.0] * 3, normals=[1.0], image_ids=["a", "held-out", "b"], trained_on=("a", "z"))
    assert np.isnan(found).tolist() == [True, False, False]


def test_images_without_scores_have_none() -> None:
    assert np.isnan(p_values([np.nan, 2.0], normals=[1.0])).tolist() == [True, False]


def test_without_held_out_normals_there_are_none() -> None:
    assert np.isnan(p_values([1.0, 2.0], normals=[])).all()


# The fitted tail


def test_a_gamma_distribution_is_found_below_a_large_negative_constant() -> None:
    """At 128 pixels and sigma 0.1 the constant is -68,009 nats: scores are negative, what is fitted is not."""
    tail = fitted(np.random.default_rng(1).gamma(5.0, 100.0, size=2_000))
    assert tail.kind == "gamma"
    assert tail.shape == pytest.approx(5.0, rel=0.1)
    assert tail.scale_nats == pytest.approx(100.0, rel=0.1)
    assert tail.fit_p_value is not None
    assert tail.fit_p_value > 0.05


def test_other_distributions_are_refused_and_ranks_take_their_place() -> None:
    heavy = np.exp(np.random.default_rng(1).normal(6.0, 0.7, size=500))
    tail = fitted(heavy)
    assert (tail.kind, tail.is_fitted) == ("empirical", True)
    assert fitted(heavy, kind="gamma").kind == "gamma"
    found = PValues(np.sort(heavy) + tail.offset_nats, tail=tail, trained_on=())
    frame = pd.DataFrame({"image_id": ["far"], "vae_reconst": [1e9]})
    assert found(frame)[0] == tail.floor == 1 / 501


def test_under_the_null_the_test_refuses_as_often_as_it_says() -> None:
    """Parameters are estimated from the same normals: a plain Kolmogorov-Smirnov test would hardly refuse any."""
    rng = np.random.default_rng(2)
    refused = [fitted(rng.gamma(3.0, 10.0, size=60)).kind == "empirical" for _ in range(100)]
    low, high = stats.binom.interval(0.999, 100, 0.05)
    assert low <= sum(refused) <= high


def test_fitted_p_values_of_new_normals_are_uniform_and_go_below_the_floor_of_ranks() -> None:
    rng = np.random.default_rng(3)
    normals = rng.gamma(5.0, 100.0, size=2_000)
    tail = fitted(normals)
    new = rng.gamma(5.0, 100.0, size=2_000) + tail.offset_nats
    found = PValues(np.sort(normals), tail=tail, trained_on=())(
        pd.DataFrame({"image_id": [f"{i}" for i in range(len(new))], "vae_reconst": new})
    )
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert tail.survival(np.array([tail.offset_nats + 5_000.0]))[0] == pytest.approx(
        stats.gamma.sf(5_000, 5, 0, 100), rel=2
    )
    assert 0 < tail.survival(np.array([1e12]))[0] < tail.floor


def test_p_values_fall_as_scores_rise_and_are_one_below_all() -> None:
    tail = fitted(np.random.default_rng(4).gamma(2.0, 10.0, size=100))
    scores = np.linspace(tail.offset_nats - 10, tail.offset_nats + 400, 200)
    found = tail.survival(scores)
    assert (np.diff(found) <= 0).all()
    assert found[0] == 1


@pytest.mark.parametrize("normals", [[], [5.0], [5.0, 5.0], [0.0, 3.0, 4.0]])
def test_to_scores_without_a_spread_or_below_zero_none_is_fitted(normals: list[float]) -> None:
    tail = fitted(np.array(normals), kind="gamma", offset=0.0)
    assert (tail.kind, tail.is_fitted, tail.num_normals) == ("empirical", False, len(normals))


def test_few_normals_are_ranked_since_the_test_would_refuse_nothing() -> None:
    tail = fitted(np.random.default_rng(5).gamma(5.0, 100.0, size=19))
    assert (tail.kind, tail.is_fitted) == ("empirical", True)
