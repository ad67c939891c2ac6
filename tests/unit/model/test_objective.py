"""The training loss against numbers worked out by hand, the scores' own bounds, and a model whose optimum is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.decomposition import PCA
from torch import Tensor, nn

from skinvae.model.bounds import Draws, scores_from_draws
from skinvae.model.objective import Loss, Objective, ObjectiveSettings, kl_divergence
from skinvae.model.vae import VAE, ModelSettings


class Fixed(nn.Module):
    """Says what it is told, whatever the images."""

    def __init__(self, x_hat_MCHW: Tensor, mu_BD: Tensor, logvar_BD: Tensor) -> None:
        super().__init__()
        self.x_hat_MCHW, self.mu_BD, self.logvar_BD = x_hat_MCHW, mu_BD, logvar_BD

    def encode(self, _: Tensor) -> tuple[Tensor, Tensor]:
        return self.mu_BD, self.logvar_BD

    def decode(self, _: Tensor) -> Tensor:
        return self.x_hat_MCHW


class Linear(nn.Module):
    """q(z|x) with its mean linear in x and one variance for all x, p(x|z) with its mean linear in z."""

    def __init__(self, num_pixels: int, num_latents: int) -> None:
        super().__init__()
        self.to_mu, self.to_x = nn.Linear(num_pixels, num_latents), nn.Linear(num_latents, num_pixels)
        self.logvar = nn.Parameter(torch.zeros(num_latents))

    def encode(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        mu_BD = self.to_mu(x_BCHW.flatten(1))
        return mu_BD, self.logvar.expand_as(mu_BD)

    def decode(self, z_BD: Tensor) -> Tensor:
        return self.to_x(z_BD)[:, :, None, None]


def random_case(num_samples: int, *, num_images: int = 4) -> tuple[Fixed, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(num_samples)
    shape = 3, 8, 8
    x, x_hat = (0.1 * torch.randn(n, *shape, generator=rng).double() for n in (num_images, num_images * num_samples))
    mu, logvar = torch.randn(2, num_images, 5, generator=rng, dtype=torch.float64)
    eps = torch.randn(num_images, num_samples, 5, generator=rng, dtype=torch.float64)
    return Fixed(x_hat, mu, logvar), x, eps


def test_hand_computed() -> None:
    x_BCHW = torch.tensor([[1.0, -1.0], [0.0, 0.5]]).view(2, 1, 1, 2)
    x_hat_BCHW = torch.tensor([[0.0, 1.0], [0.0, 0.0]]).view(2, 1, 1, 2)
    mu_BD = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    logvar_BD = torch.tensor([[0.0, math.log(2.0)], [0.0, 0.0]])
    loss = Objective(ObjectiveSettings())(Fixed(x_hat_BCHW, mu_BD, logvar_BD), x_BCHW, torch.zeros(2, 1, 2))
    # Squared errors 1 + 4 and 0.25, halved, averaged; KL (1 + 2 - 1 - log 2)/2 and 4/2, averaged.
    reconst, kl = (2.5 + 0.125) / 2, ((2 - math.log(2)) / 2 + 2) / 2
    assert [float(part) for part in loss] == pytest.approx([reconst + 0.01 * kl, reconst, kl], rel=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.01, 1.0, 4.0])
def test_beta_weighs_the_kl_only(beta: float) -> None:
    case = random_case(1)
    loss, unweighted = Objective(ObjectiveSettings(beta=beta))(*case), Objective(ObjectiveSettings())(*case)
    assert (loss.reconst, loss.kl) == (unweighted.reconst, unweighted.kl)
    assert float(loss.total) == pytest.approx(float(loss.reconst + 0.1**2 * beta * loss.kl), rel=1e-15)


@pytest.mark.parametrize("num_samples", [1, 6])
@pytest.mark.parametrize("bound", ["vae", "iwae"])
@pytest.mark.parametrize("sigma", [0.1, 0.7])
def test_the_loss_is_the_score_of_the_same_name_up_to_its_scale(num_samples: int, bound: str, sigma: float) -> None:
    """With learned sigma: the mean of the exact scores. With fixed sigma: times sigma^2, without the constant."""
    model, x, eps = random_case(num_samples)
    z = model.mu_BD[:, None] + (0.5 * model.logvar_BD)[:, None].exp() * eps
    draws = Draws(
        sq_err_BK=(x[:, None] - model.x_hat_MCHW.unflatten(0, eps.shape[:2])).square().flatten(2).sum(2),
        norm_gap_BK=z.square().sum(2) - eps.square().sum(2),
        sum_logvar_B=model.logvar_BD.sum(1),
        kl_B=kl_divergence(model.mu_BD, model.logvar_BD),
        num_pixels=x[0].numel(),
    )
    how = {"objective": bound, "num_samples": num_samples, "sigma": sigma}

    def expected(variance: float) -> float:
        return float(getattr(scores_from_draws(draws, variance=variance, mode="exact"), bound).mean())

    learned = Objective(ObjectiveSettings.model_validate(how | {"learn_sigma": True})).double()
    with torch.no_grad():
        assert float(learned(model, x, eps).total) == pytest.approx(expected(learned.sigma**2), rel=1e-12)
    fixed = float(Objective(ObjectiveSettings.model_validate(how))(model, x, eps).total)
    constant = 0.5 * draws.num_pixels * math.log(2 * math.pi * sigma**2)
    assert fixed / sigma**2 + constant == pytest.approx(expected(sigma**2), rel=1e-12)


@pytest.mark.parametrize("bound", ["vae", "iwae"])
def test_the_loss_is_a_mean_over_images_and_a_sum_over_pixels_and_latents(bound: str) -> None:
    objective = Objective(ObjectiveSettings.model_validate({"objective": bound, "num_samples": 3}))
    model, x, eps = random_case(3, num_images=6)
    whole = objective(model, x, eps)
    each = []
    for i in range(6):
        alone = Fixed(model.x_hat_MCHW[3 * i : 3 * i + 3], model.mu_BD[[i]], model.logvar_BD[[i]])
        each.append(objective(alone, x[[i]], eps[[i]]).total)
    torch.testing.assert_close(whole.total, torch.stack(each).mean(), rtol=1e-13, atol=0)
    if bound == "vae":
        doubled = Fixed(
            torch.cat([model.x_hat_MCHW] * 2, 3),
            torch.cat([model.mu_BD] * 2, 1),
            torch.cat([model.logvar_BD] * 2, 1),
        )
        twice = objective(doubled, torch.cat([x, x], 3), torch.cat([eps, eps], 2))
        torch.testing.assert_close(twice.total, 2 * whole.total, rtol=1e-13, atol=0)


def test_kl_is_zero_at_the_prior_and_positive_elsewhere() -> None:
    assert kl_divergence(torch.zeros(1, 7), torch.zeros(1, 7)).tolist() == [0.0]
    rng = torch.Generator().manual_seed(2)
    mu, logvar = torch.randn(2, 100, 7, generator=rng, dtype=torch.float64)
    assert kl_divergence(mu, logvar).min() > 0


def test_beta_has_no_place_in_the_iwae() -> None:
    with pytest.raises(ValidationError, match="goes with objective = 'vae' only"):
        ObjectiveSettings(objective="iwae", num_samples=5, beta=0.5)


@pytest.mark.parametrize(
    ("bound", "num_samples", "gap"),
    [("vae", 1, 0.02), ("iwae", 5, 0.2)],  # measured: 0.002 and 0.15; many encoders are good enough for five draws
)
def test_on_linear_gaussian_data_the_trained_bound_comes_near_log_p_of_x(
    bound: str, num_samples: int, gap: float
) -> None:
    """The best linear VAE with learned sigma is probabilistic PCA (Lucas et al. 2019), whose likelihood is known.

    Data of 3 latents in 12 dimensions, sigma 0.2, learned from 0.5 on; before training the bound is below -30 nats.
    """
    rng = np.random.default_rng(0)
    weights, noise = rng.normal(size=(3, 12)) * [[2.0], [1.0], [0.7]], rng.normal(size=(2000, 12))
    data = (rng.normal(size=(2000, 3)) @ weights + 0.2 * noise + 0.3).astype(np.float32)
    best = PCA(3).fit(data).score(data)
    torch.manual_seed(0)
    x_BCHW, model = torch.from_numpy(data)[:, :, None, None], Linear(12, 3)
    settings = {"objective": bound, "num_samples": num_samples, "sigma": 0.5, "learn_sigma": True}
    objective = Objective(ObjectiveSettings.model_validate(settings))
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3000)
    for _ in range(3000):
        batch = torch.randint(2000, (500,))
        optimizer.zero_grad()
        loss: Loss = objective(model, x_BCHW[batch], torch.randn(500, num_samples, 3))
        loss.total.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        bounds = [-float(objective(model, x_BCHW, torch.randn(2000, num_samples, 3)).total) for _ in range(20)]
    assert best - gap < np.mean(bounds) < best + 0.02  # its own noise is 0.007
    assert objective.sigma == pytest.approx(0.2, rel=0.03)


def test_fixed_sigma_is_no_parameter() -> None:
    assert list(Objective(ObjectiveSettings()).parameters()) == []
    assert Objective(ObjectiveSettings(sigma=0.3)).sigma == 0.3
    assert Objective(ObjectiveSettings(sigma=0.3, learn_sigma=True)).sigma == pytest.approx(0.3, rel=1e-6)


def test_a_few_steps_of_adam_reduce_the_loss() -> None:
    torch.manual_seed(0)
    model = VAE(ModelSettings(image_size=32, base_channels=4, num_latents=6))
    x_BCHW, eps_BKD = torch.rand(8, 3, 32, 32) * 2 - 1, torch.randn(8, 1, 6)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(30):
        loss = Objective(ObjectiveSettings())(model, x_BCHW, eps_BKD)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.total.detach()))
    assert losses[-1] < 0.9 * losses[0], losses  # measured: 0.78
