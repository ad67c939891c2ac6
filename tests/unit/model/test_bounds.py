"""The six scores in both modes: against the formulas written out loop by loop, and laws that hold for every draw."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from skinvae.model.bounds import Draws, ScoreMode, Scores, effective_sample_size, scores_from_draws
from skinvae.model.draws import collect_draws
from skinvae.model.network import PlainNetwork
from skinvae.records import SCORES
from tests.unit.model.linear_gaussian import LinearGaussian, normal_draws, pictures

MODES: tuple[ScoreMode, ...] = ("exact", "released")


def log_mean_exp(values: list[float]) -> float:
    largest = max(values)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in values) / len(values))


def written_out(
    x: np.ndarray, m: np.ndarray, z: np.ndarray, eps: np.ndarray, logvar: np.ndarray, mu: np.ndarray, *, beta: float
) -> dict[str, dict[str, float]]:
    """The table of the scores of one image, formula by formula: x (N,), m (K, N), z and eps (K, D), mu, logvar (D,)."""
    k, n = len(z), len(x)
    kl = 0.5 * math.fsum(mu[j] ** 2 + math.exp(logvar[j]) - 1 - logvar[j] for j in range(len(mu)))
    e = [math.fsum((x[p] - m[i, p]) ** 2 for p in range(n)) for i in range(k)]
    r = [e[i] / (2 * beta) + n / 2 * math.log(2 * math.pi * beta) for i in range(k)]
    gap = [math.fsum(z[i] ** 2) - math.fsum(eps[i] ** 2) for i in range(k)]
    d = [0.5 * gap[i] - 0.5 * math.fsum(logvar) for i in range(k)]
    w = [math.exp(-r[i] - d[i] - max(-r[j] - d[j] for j in range(k))) for i in range(k)]
    exponent = [-e[i] - beta * gap[i] for i in range(k)]
    v = [math.exp(a - max(exponent)) for a in exponent]
    return {
        "exact": {
            "vae": math.fsum(r) / k + kl,
            "vae_reconst": math.fsum(r) / k,
            "vae_kl": kl,
            "iwae": -log_mean_exp([-r[i] - d[i] for i in range(k)]),
            "iwae_reconst": -log_mean_exp([-a for a in r]),
            "iwae_kl": -log_mean_exp([-a for a in d]),
            "ess": math.fsum(w) ** 2 / math.fsum(a**2 for a in w),
        },
        "released": {
            "vae": math.fsum(0.5 * a for a in e) / k + beta * kl,
            "vae_reconst": math.fsum(0.5 * a for a in e) / k,
            "vae_kl": kl,
            "iwae": -log_mean_exp(exponent),
            "iwae_reconst": -log_mean_exp([-a for a in e]),
            "iwae_kl": -log_mean_exp([-a for a in gap]),
            "ess": math.fsum(v) ** 2 / math.fsum(a**2 for a in v),
        },
    }


def scored(
    *, mode: ScoreMode, num_images: int = 4, num_samples: int = 6, variance: float = 0.2, seed: int = 2
) -> Scores:
    model = LinearGaussian(shift=0.3, stretch=1.4)
    eps_BKD = normal_draws(num_images, num_samples, seed=seed)
    draws = collect_draws(PlainNetwork(model), pictures(num_images), eps_BKD, decode_batch_size=7)
    return scores_from_draws(draws, variance=variance, mode=mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_samples", [1, 2, 15])
@pytest.mark.parametrize("beta", [0.01, 0.5])
def test_all_scores_are_the_written_out_formulas(mode: ScoreMode, num_samples: int, beta: float) -> None:
    model, x_BCHW = LinearGaussian(shift=0.3, stretch=1.4), pictures(3)
    eps_BKD = normal_draws(3, num_samples)
    draws = collect_draws(PlainNetwork(model), x_BCHW, eps_BKD, decode_batch_size=4)
    scores = scores_from_draws(draws, variance=beta, mode=mode)
    mu_BD, logvar_BD = model.encode(x_BCHW)
    for b in range(3):
        mu, logvar, eps = mu_BD[b].numpy(), logvar_BD[b].numpy(), eps_BKD[b].numpy()
        z = mu + np.exp(logvar / 2) * eps
        m = model.decode(torch.from_numpy(z)).flatten(1).numpy()
        expected = written_out(x_BCHW[b].flatten().numpy(), m, z, eps, logvar, mu, beta=beta)[mode]
        actual = {name: float(value[b]) for name, value in vars(scores).items()}
        assert actual == pytest.approx(expected, rel=1e-12)


# A sum of squares of 3*128*128 pixels in [-1, 1] is below 4 * 49,152; the norms of latents stay below thousands.
errors = st.floats(0, 4 * 49_152)
gaps = st.floats(-5000, 5000)


@st.composite
def draws_of_images(draw: st.DrawFn) -> Draws:
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 6)))

    def tensor(shape: Any, elements: st.SearchStrategy[float]) -> Tensor:
        return torch.from_numpy(draw(arrays(np.float64, shape, elements=elements)))

    return Draws(
        sq_err_BK=tensor(shape, errors),
        norm_gap_BK=tensor(shape, gaps),
        sum_logvar_B=tensor(shape[0], gaps),
        kl_B=tensor(shape[0], st.floats(0, 5000)),
        num_pixels=49_152,
    )


@settings(max_examples=50, deadline=None)
@given(draws=draws_of_images(), variance=st.sampled_from([0.01, 0.1, 1.0]))
def test_importance_bounds_lie_between_the_least_draw_and_the_mean(draws: Draws, variance: float) -> None:
    """min(a) <= -LME(-a) <= min(min(a) + log k, mean(a)), for each image and each of a = R + D, R and D."""
    scores = scores_from_draws(draws, variance=variance, mode="exact")
    one_by_one = [
        scores_from_draws(only_draw(draws, i), variance=variance, mode="exact") for i in range(draws.sq_err_BK.shape[1])
    ]
    for name in ("iwae", "iwae_reconst", "iwae_kl"):
        bound_B, a_BK = getattr(scores, name), torch.stack([getattr(one, name) for one in one_by_one], 1)
        least_B, slack = a_BK.min(1).values, 1e-13 * float(a_BK.abs().max()) + 1e-13
        assert (bound_B >= least_B - slack).all()
        assert (bound_B <= least_B + math.log(a_BK.shape[1]) + slack).all()
        assert (bound_B <= a_BK.mean(1) + slack).all()
    assert (scores.iwae_reconst <= scores.vae_reconst + 1e-13 * scores.vae_reconst.abs()).all()


@settings(max_examples=50, deadline=None)
@given(draws=draws_of_images(), mode=st.sampled_from(MODES))
def test_ess_lies_between_one_and_k_and_scores_are_finite(draws: Draws, mode: ScoreMode) -> None:
    scores = scores_from_draws(draws, variance=0.01, mode=mode)
    num_samples = draws.sq_err_BK.shape[1]
    assert all(torch.isfinite(value).all() for value in vars(scores).values())
    assert (scores.ess >= 1).all()
    assert (scores.ess <= num_samples * (1 + 1e-15)).all()  # float64 rounds in the last bit


def test_ess_counts_equal_weights() -> None:
    log_w_BK = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1e6, 1e6, -1e6, -1e6], [-1e6, 5.0, -1e6, -1e6]]).double()
    assert effective_sample_size(log_w_BK).tolist() == [4.0, 2.0, 1.0]


def test_ess_keeps_its_precision_at_huge_log_weights() -> None:
    """Log-weights are up to 1e7 in size, and only their differences count."""
    log_w_BK = torch.tensor([[0.0, -0.5, -3.0]]).double()
    shifted_BK = log_w_BK - 2.0**23
    torch.testing.assert_close(effective_sample_size(shifted_BK), effective_sample_size(log_w_BK), rtol=1e-15, atol=0)


@settings(max_examples=50, deadline=None)
@given(draws=draws_of_images(), mode=st.sampled_from(MODES), variance=st.sampled_from([0.01, 0.5]))
def test_vae_is_the_sum_of_its_parts_in_the_modes_own_weights(draws: Draws, mode: ScoreMode, variance: float) -> None:
    scores = scores_from_draws(draws, variance=variance, mode=mode)
    kl_weight = 1.0 if mode == "exact" else variance
    torch.testing.assert_close(scores.vae, scores.vae_reconst + kl_weight * scores.vae_kl, rtol=1e-14, atol=0)


def test_iwae_is_not_the_sum_of_its_parts() -> None:
    scores = scored(mode="exact")
    assert (scores.iwae - scores.iwae_reconst - scores.iwae_kl).abs().min() > 1e-3
    alone = scored(mode="exact", num_samples=1)
    torch.testing.assert_close(alone.iwae, alone.iwae_reconst + alone.iwae_kl, rtol=1e-12, atol=0)


def test_with_one_draw_the_reconstruction_scores_agree_and_ess_is_one() -> None:
    exact, released = scored(mode="exact", num_samples=1), scored(mode="released", num_samples=1)
    torch.testing.assert_close(exact.iwae_reconst, exact.vae_reconst, rtol=1e-14, atol=0)
    torch.testing.assert_close(released.iwae_reconst, 2 * released.vae_reconst, rtol=1e-14, atol=0)
    assert exact.ess.tolist() == released.ess.tolist() == [1.0] * 4


def test_vae_kl_is_torch_s_kl_divergence() -> None:
    model, x_BCHW = LinearGaussian(shift=0.3, stretch=1.4), pictures(4)
    mu_BD, logvar_BD = model.encode(x_BCHW)
    q, prior = Normal(mu_BD, (0.5 * logvar_BD).exp()), Normal(torch.zeros_like(mu_BD), torch.ones_like(mu_BD))
    torch.testing.assert_close(scored(mode="exact").vae_kl, kl_divergence(q, prior).sum(1), rtol=1e-12, atol=0)


@settings(max_examples=50, deadline=None)
@given(draws=draws_of_images(), beta=st.sampled_from([0.01, 0.1, 0.7]))
def test_released_exponents_are_tempered_exact_ones_without_the_log_determinant(draws: Draws, beta: float) -> None:
    """exponent_i = 2 beta (log w_i without its constant) - beta sum(logvar): oracle 6, draw by draw."""
    constant = draws.num_pixels / 2 * math.log(2 * math.pi * beta)
    for i in range(draws.sq_err_BK.shape[1]):
        alone = only_draw(draws, i)
        log_w_B = -scores_from_draws(alone, variance=beta, mode="exact").iwae
        exponent_B = -scores_from_draws(alone, variance=beta, mode="released").iwae
        expected_B = 2 * beta * (log_w_B + constant) - beta * draws.sum_logvar_B
        scale_B = 2 * beta * (log_w_B.abs() + abs(constant)) + beta * draws.sum_logvar_B.abs() + 1
        assert ((exponent_B - expected_B).abs() <= 4 * np.finfo(np.float64).eps * scale_B).all()


@pytest.mark.parametrize("name", ["vae", "vae_reconst", "vae_kl"])
def test_both_modes_rank_images_alike_by_the_vae_scores(name: str) -> None:
    exact, released = (getattr(scored(mode=mode, num_images=200), name) for mode in MODES)
    assert exact.argsort().tolist() == released.argsort().tolist()


def test_all_images_share_one_set_of_draws_for_all_scores() -> None:
    """Other draws change all scores but vae_kl, which is closed-form."""
    one, other = scored(mode="exact", seed=2), scored(mode="exact", seed=3)
    changed = {name for name in SCORES if not torch.equal(getattr(one, name), getattr(other, name))}
    assert changed == set(SCORES) - {"vae_kl"}


def test_draws_refuse_single_precision() -> None:
    good: dict[str, Tensor] = {
        "sq_err_BK": torch.zeros(1, 1).double(),
        "norm_gap_BK": torch.zeros(1, 1).double(),
        "sum_logvar_B": torch.zeros(1).double(),
        "kl_B": torch.zeros(1).double(),
    }
    for name, tensor in good.items():
        with pytest.raises(AssertionError, match=name):
            Draws(**{**good, name: tensor.float()}, num_pixels=3)


def only_draw(draws: Draws, i: int) -> Draws:
    return Draws(
        draws.sq_err_BK[:, [i]], draws.norm_gap_BK[:, [i]], draws.sum_logvar_B, draws.kl_B, num_pixels=draws.num_pixels
    )
