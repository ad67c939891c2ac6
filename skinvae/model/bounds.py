"""From draws to the six anomaly scores of Lu & Xu 2018, combined in float64.

Shapes in names: B images, K draws, N pixels (3*H*W), D latents. With x in [-1, 1]^N, p(z) = N(0, I),
q(z|x) = N(mu, diag s^2), p(x|z) = N(m(z), variance * I) and z_i = mu + s * eps_i:

    e_i = ||x - m(z_i)||^2
    R_i = e_i / (2 variance) + (N/2) log(2 pi variance)               = -log p(x|z_i)
    D_i = 1/2 ||z_i||^2 - 1/2 ||eps_i||^2 - 1/2 sum(logvar)           = log q(z_i|x) - log p(z_i)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ScoreMode = Literal["exact", "released"]
"""`exact` gives bounds on -log p(x); `released` reproduces the authors' code, which tempers the weights by 2*beta."""


@dataclass(frozen=True)
class Draws:
    """What the scores need to know of the K draws of B images; all float64."""

    sq_err_BK: Tensor
    """e_i"""
    norm_gap_BK: Tensor
    """||z_i||^2 - ||eps_i||^2"""
    sum_logvar_B: Tensor
    kl_B: Tensor
    """KL(q(z|x) || p(z)) in closed form"""
    num_pixels: int
    """N"""

    def __post_init__(self) -> None:
        for name in ("sq_err_BK", "norm_gap_BK", "sum_logvar_B", "kl_B"):
            assert getattr(self, name).dtype == torch.float64, f"{name} must be float64"


@dataclass(frozen=True)
class Scores:
    """The six scores of B images in nats, higher = more anomalous, and the effective sample size; float64 (B,)."""

    vae: Tensor
    vae_reconst: Tensor
    vae_kl: Tensor
    iwae: Tensor
    iwae_reconst: Tensor
    iwae_kl: Tensor
    ess: Tensor


def reconst_constant(*, num_pixels: int, variance: float, mode: ScoreMode) -> float:
    """What vae_reconst is of an image that is reconstructed without any error, in nats."""
    return 0.5 * num_pixels * math.log(2 * math.pi * variance) if mode == "exact" else 0.0


def log_mean_exp(a_BK: Tensor) -> Tensor:
    """log(mean_i exp(a_i)) over the draws, (B,)."""
    return torch.logsumexp(a_BK, dim=1) - math.log(a_BK.shape[1])


def effective_sample_size(log_w_BK: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 of unnormalised log-weights, (B,), between 1 and K."""
    # Relative to the largest: a difference of log-sums of size 1e7 would be good to 1e-8 only, and could pass K.
    w_BK = torch.exp(log_w_BK - log_w_BK.amax(1, keepdim=True))
    return w_BK.sum(1).square() / w_BK.square().sum(1)


def scores_from_draws(draws: Draws, *, variance: float, mode: ScoreMode) -> Scores:
    """The six scores in either mode; `variance` is sigma^2 of p(x|z), the beta of training.

    In mode `released` the IWAE scores use e_i and ||z_i||^2 - ||eps_i||^2 unhalved and without log|q|, as the
    authors' code does; they are no bounds.
    """
    if mode == "exact":
        constant = reconst_constant(num_pixels=draws.num_pixels, variance=variance, mode=mode)
        reconst_BK = draws.sq_err_BK / (2 * variance) + constant
        latent_BK = 0.5 * draws.norm_gap_BK - 0.5 * draws.sum_logvar_B[:, None]
        log_w_BK = -reconst_BK - latent_BK
        vae_reconst_B, kl_weight = reconst_BK.mean(1), 1.0
    else:
        reconst_BK = draws.sq_err_BK
        latent_BK = draws.norm_gap_BK
        log_w_BK = -reconst_BK - variance * latent_BK
        vae_reconst_B, kl_weight = 0.5 * reconst_BK.mean(1), variance
    return Scores(
        vae=vae_reconst_B + kl_weight * draws.kl_B,
        vae_reconst=vae_reconst_B,
        vae_kl=draws.kl_B,
        iwae=-log_mean_exp(log_w_BK),
        iwae_reconst=-log_mean_exp(-reconst_BK),
        iwae_kl=-log_mean_exp(-latent_BK),
        ess=effective_sample_size(log_w_BK),
    )
