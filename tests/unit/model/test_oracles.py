"""Oracles 1 to 3 of the method: where log p(x) is known in closed form, the scores must meet or bound it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from skinvae.model.bounds import Scores, scores_from_draws
from skinvae.model.draws import collect_draws
from skinvae.model.network import PlainNetwork
from tests.unit.model.linear_gaussian import LinearGaussian, normal_draws, pictures


def exact_scores(model: LinearGaussian, x_BCHW: Tensor, eps_BKD: Tensor, *, decode_batch_size: int = 64) -> Scores:
    draws = collect_draws(PlainNetwork(model), x_BCHW, eps_BKD, decode_batch_size=decode_batch_size)
    return scores_from_draws(draws, variance=model.variance, mode="exact")


def q_of(model: LinearGaussian, x_BCHW: Tensor) -> Normal:
    mu_BD, logvar_BD = model.encode(x_BCHW)
    return Normal(mu_BD, (0.5 * logvar_BD).exp())


def prior_of(q: Normal) -> Normal:
    return Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean))


def moment_points(num_images: int, num_latents: int) -> Tensor:
    """+-sqrt(D) e_j: draws whose mean is 0 and covariance I, so quadratics average to their expectation exactly."""
    axes_DD = math.sqrt(num_latents) * torch.eye(num_latents, dtype=torch.float64)
    return torch.cat([axes_DD, -axes_DD]).expand(num_images, -1, -1)


@pytest.mark.parametrize("variance", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("num_samples", [1, 2, 15, 100])
def test_with_the_true_posterior_iwae_is_minus_log_p_for_every_k(num_samples: int, variance: float) -> None:
    """Every log w_i is log p(x), whatever the draws; measured: within 2e-14 relative."""
    model, x_BCHW = LinearGaussian(variance=variance), pictures(7)
    scores = exact_scores(model, x_BCHW, normal_draws(7, num_samples))
    expected_B = -model.log_likelihood(x_BCHW)
    torch.testing.assert_close(scores.iwae, expected_B, rtol=1e-12, atol=0)
    torch.testing.assert_close(scores.ess, torch.full_like(expected_B, num_samples), rtol=1e-9, atol=0)


def test_with_the_true_posterior_each_single_weight_is_log_p() -> None:
    """mean_i(R_i + D_i) = -log p(x): with k = 1 the iwae of draw i alone is R_i + D_i."""
    model, x_BCHW = LinearGaussian(), pictures(3)
    eps_BKD = normal_draws(3, 20)
    each_BK = torch.stack([exact_scores(model, x_BCHW, eps_BKD[:, [i]]).iwae for i in range(20)], 1)
    torch.testing.assert_close(each_BK, -model.log_likelihood(x_BCHW)[:, None].expand(-1, 20), rtol=1e-12, atol=0)


def test_vae_differs_from_minus_log_p_by_kl_minus_the_mean_of_d() -> None:
    model, x_BCHW = LinearGaussian(), pictures(4)
    eps_BKD = normal_draws(4, 9)
    scores = exact_scores(model, x_BCHW, eps_BKD)
    q = q_of(model, x_BCHW)
    z_BKD = q.mean[:, None] + q.stddev[:, None] * eps_BKD
    log_ratio_BKD = Normal(q.mean[:, None], q.stddev[:, None]).log_prob(z_BKD) - Normal(0.0, 1.0).log_prob(z_BKD)
    kl_B = kl_divergence(q, prior_of(q)).sum(1)
    expected_B = -model.log_likelihood(x_BCHW) + kl_B - log_ratio_BKD.sum(2).mean(1)
    torch.testing.assert_close(scores.vae, expected_B, rtol=1e-12, atol=0)
    assert (scores.vae - scores.iwae).abs().min() > 1e-3  # the two are not the same number


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 1.0), (0.4, 1.0), (0.0, 0.5), (-0.3, 1.7)])
def test_the_elbo_s_gap_is_the_kl_to_the_posterior(shift: float, stretch: float) -> None:
    model, x_BCHW = LinearGaussian(shift=shift, stretch=stretch), pictures(6)
    scores = exact_scores(model, x_BCHW, moment_points(6, 5))
    gap_B = kl_divergence(q_of(model, x_BCHW), model.posterior(x_BCHW)).sum(1)
    torch.testing.assert_close(scores.vae, -model.log_likelihood(x_BCHW) + gap_B, rtol=1e-12, atol=0)


def scores_by_k(model: LinearGaussian, x_BCHW: Tensor, ks: Sequence[int], *, repeats: int) -> dict[int, Scores]:
    """Exact scores of `repeats` independent sets of draws of one picture, from the first k draws of each set."""
    draws = collect_draws(
        PlainNetwork(model), x_BCHW.expand(repeats, -1, -1, -1), normal_draws(repeats, max(ks)), decode_batch_size=8192
    )
    first = {k: replace(draws, sq_err_BK=draws.sq_err_BK[:, :k], norm_gap_BK=draws.norm_gap_BK[:, :k]) for k in ks}
    return {k: scores_from_draws(one, variance=model.variance, mode="exact") for k, one in first.items()}


def test_with_a_wrong_q_the_bound_tightens_with_k_and_never_passes_log_p() -> None:
    """E[iwae_k] falls strictly from -ELBO (k = 1) towards -log p(x): 4,000 seeded sets of draws, each step by more
    than 4 of its standard errors."""
    model, x_BCHW = LinearGaussian(shift=0.3, stretch=1.3), pictures(1)
    ks = (1, 2, 4, 8, 16, 32)
    iwae = {k: scores.iwae for k, scores in scores_by_k(model, x_BCHW, ks, repeats=4000).items()}
    minus_log_p = -float(model.log_likelihood(x_BCHW))
    gap = float(kl_divergence(q_of(model, x_BCHW), model.posterior(x_BCHW)).sum())
    assert float(iwae[1].mean()) == pytest.approx(minus_log_p + gap, abs=4 * error_of(iwae[1]))
    for fewer, more in pairwise(ks):
        drop_B = iwae[fewer] - iwae[more]
        assert float(drop_B.mean()) > 4 * error_of(drop_B), (fewer, more)
    last, error = float(iwae[32].mean()), error_of(iwae[32])
    assert minus_log_p - 4 * error < last < minus_log_p + 0.1 * gap


def test_iwae_kl_falls_from_kl_towards_zero() -> None:
    """E[iwae_kl] says ever less as k grows; 1,000 seeded sets of draws, 4 standard errors."""
    model, x_BCHW = LinearGaussian(shift=0.2, stretch=1.5), pictures(1)
    iwae_kl = {k: scores.iwae_kl for k, scores in scores_by_k(model, x_BCHW, (1, 8, 256), repeats=1000).items()}
    q = q_of(model, x_BCHW)
    kl = float(kl_divergence(q, prior_of(q)).sum())
    means = {k: float(values_B.mean()) for k, values_B in iwae_kl.items()}
    assert means[1] == pytest.approx(kl, abs=4 * error_of(iwae_kl[1]))
    assert means[1] > means[8] > means[256] > -4 * error_of(iwae_kl[256])
    assert means[256] < 0.1 * kl


def error_of(values_B: Tensor) -> float:
    """Standard error of the mean."""
    return float(values_B.std()) / math.sqrt(len(values_B))
