"""The training loss of Lu & Xu 2018: squared error plus a small multiple of the KL divergence.

Shapes in names: B images, C channels, H height, W width, D latents.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Loss(NamedTuple):
    """Batch means; `total` = reconst + beta * kl is what training minimises."""

    total: Tensor
    reconst: Tensor
    kl: Tensor


def kl_divergence(mu_BD: Tensor, logvar_BD: Tensor) -> Tensor:
    """KL(N(mu, diag exp(logvar)) || N(0, I)) in nats, (B,), in the inputs' precision."""
    return 0.5 * (mu_BD.square() + logvar_BD.exp() - 1.0 - logvar_BD).sum(1)


def vae_loss(x_BCHW: Tensor, x_hat_BCHW: Tensor, mu_BD: Tensor, logvar_BD: Tensor, *, beta: float) -> Loss:
    """Batch mean of 1/2 ||x - x_hat||^2 + beta * KL; beta is the variance sigma^2 of p(x|z)."""
    reconst = 0.5 * (x_BCHW - x_hat_BCHW).square().flatten(1).sum(1).mean()
    kl = kl_divergence(mu_BD, logvar_BD).mean()
    return Loss(reconst + beta * kl, reconst, kl)
