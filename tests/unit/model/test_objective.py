"""The training loss against numbers worked out by hand, and that minimising it learns."""

from __future__ import annotations

import math

import pytest
import torch

from skinvae.model.objective import kl_divergence, vae_loss
from skinvae.model.vae import VAE, ModelSettings


def test_hand_computed() -> None:
    x_BCHW = torch.tensor([[1.0, -1.0], [0.0, 0.5]]).view(2, 1, 1, 2)
    x_hat_BCHW = torch.tensor([[0.0, 1.0], [0.0, 0.0]]).view(2, 1, 1, 2)
    mu_BD = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    logvar_BD = torch.tensor([[0.0, math.log(2.0)], [0.0, 0.0]])
    loss = vae_loss(x_BCHW, x_hat_BCHW, mu_BD, logvar_BD, beta=0.01)
    # Squared errors 1 + 4 and 0.25, halved, averaged; KL (1 + 2 - 1 - log 2)/2 and 4/2, averaged.
    reconst, kl = (2.5 + 0.125) / 2, ((2 - math.log(2)) / 2 + 2) / 2
    assert [float(part) for part in loss] == pytest.approx([reconst + 0.01 * kl, reconst, kl], rel=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.01, 1.0, 4.0])
def test_beta_weighs_the_kl_only(beta: float) -> None:
    rng = torch.Generator().manual_seed(0)
    x, x_hat = torch.randn(2, 4, 3, 8, 8, generator=rng, dtype=torch.float64)
    mu, logvar = torch.randn(2, 4, 5, generator=rng, dtype=torch.float64)
    loss, unweighted = vae_loss(x, x_hat, mu, logvar, beta=beta), vae_loss(x, x_hat, mu, logvar, beta=1.0)
    assert (loss.reconst, loss.kl) == (unweighted.reconst, unweighted.kl)
    assert float(loss.total) == pytest.approx(float(loss.reconst + beta * loss.kl), rel=1e-15)


def test_the_loss_is_a_mean_over_images_and_a_sum_over_pixels_and_latents() -> None:
    rng = torch.Generator().manual_seed(1)
    x, x_hat = torch.randn(2, 6, 3, 4, 4, generator=rng, dtype=torch.float64)
    mu, logvar = torch.randn(2, 6, 5, generator=rng, dtype=torch.float64)
    whole = vae_loss(x, x_hat, mu, logvar, beta=0.3)
    each = [vae_loss(*(t[[i]] for t in (x, x_hat, mu, logvar)), beta=0.3).total for i in range(6)]
    torch.testing.assert_close(whole.total, torch.stack(each).mean(), rtol=1e-13, atol=0)
    twice = vae_loss(
        torch.cat([x, x], 3), torch.cat([x_hat, x_hat], 3), torch.cat([mu, mu], 1), torch.cat([logvar, logvar], 1),
        beta=0.3,
    )  # fmt: skip
    torch.testing.assert_close(twice.total, 2 * whole.total, rtol=1e-13, atol=0)


def test_kl_is_zero_at_the_prior_and_positive_elsewhere() -> None:
    assert kl_divergence(torch.zeros(1, 7), torch.zeros(1, 7)).tolist() == [0.0]
    rng = torch.Generator().manual_seed(2)
    mu, logvar = torch.randn(2, 100, 7, generator=rng, dtype=torch.float64)
    assert kl_divergence(mu, logvar).min() > 0


def test_a_few_steps_of_adam_reduce_the_loss() -> None:
    torch.manual_seed(0)
    model = VAE(ModelSettings(image_size=32, base_channels=4, num_latents=6))
    x_BCHW, eps_BD = torch.rand(8, 3, 32, 32) * 2 - 1, torch.randn(8, 6)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(30):
        loss = vae_loss(x_BCHW, *model(x_BCHW, eps_BD), beta=0.01)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.total.detach()))
    assert losses[-1] < 0.9 * losses[0], losses  # measured: 0.78
