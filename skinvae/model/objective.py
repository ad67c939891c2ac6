"""What training minimises: the negative evidence lower bound of Lu & Xu 2018, or the IWAE's of Burda et al. 2016.

Shapes in names: B images, K draws, C channels, H height, W width, D latents.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from skinvae.model.bounds import log_mean_exp

Bound = Literal["vae", "iwae"]
"""`vae`: the evidence lower bound, its KL divergence in closed form. `iwae`: the importance-weighted one of k draws."""


class ObjectiveSettings(BaseModel):
    """The objective; the defaults are the paper's, whose beta = 0.01 is sigma^2."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    objective: Bound = Field("vae", description="vae = evidence lower bound; iwae = importance-weighted bound")
    num_samples: int = Field(1, ge=1, description="draws of z per image and step, k of the iwae")
    sigma: float = Field(
        0.1, gt=0, allow_inf_nan=False, description="standard deviation of p(x|z) on pixels in [-1, 1]"
    )
    learn_sigma: bool = Field(default=False, description="learn sigma along with the weights, from the value above on")
    beta: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="weight of the KL divergence in nats; 1 = the bound itself"
    )

    @model_validator(mode="after")
    def _beta_belongs_to_the_vae(self) -> ObjectiveSettings:
        if self.objective == "iwae" and self.beta != 1.0:
            raise ValueError("beta other than 1 goes with objective = 'vae' only: the iwae has no KL term to weigh")
        return self


class Loss(NamedTuple):
    """Batch means; `total` is what training minimises.

    With fixed sigma, all is multiplied by sigma^2 and constants are left out, as in the paper: total = reconst +
    sigma^2 * beta * kl for the vae. With learned sigma, total is the negative bound in nats.
    """

    total: Tensor
    reconst: Tensor
    """Half the squared error, summed over pixels on [-1, 1], mean over draws."""
    kl: Tensor
    """In nats, in closed form, not weighted."""


class Autoencoder(Protocol):
    """What the objective needs of a model; x is (B, C, H, W), mu and logvar are (B, D)."""

    def encode(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]: ...

    def decode(self, z_BD: Tensor) -> Tensor: ...


class Objective(nn.Module):
    """Images and noise -> loss, with sigma as a parameter where it is learned."""

    def __init__(self, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.settings = settings
        log_sigma = torch.tensor(math.log(settings.sigma))
        if settings.learn_sigma:
            self.log_sigma = nn.Parameter(log_sigma)
        else:
            self.register_buffer("log_sigma", log_sigma)

    @property
    def sigma(self) -> float:
        """As it is now."""
        return float(self.log_sigma.detach().double().exp()) if self.settings.learn_sigma else self.settings.sigma

    def forward(self, model: Autoencoder, x_BCHW: Tensor, eps_BKD: Tensor) -> Loss:
        """The loss of a batch by the draws z = mu + exp(logvar/2) * eps; float32 whatever the model computes in."""
        mu_BD, logvar_BD = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in model.encode(x_BCHW))
        z_BKD = mu_BD[:, None] + (0.5 * logvar_BD)[:, None].exp() * eps_BKD
        x_hat_MCHW = model.decode(z_BKD.flatten(0, 1))
        x_hat_BKCHW = x_hat_MCHW.view(*z_BKD.shape[:2], *x_hat_MCHW.shape[1:])
        # The model's bfloat16 ends here: promoted by the images, which are float32.
        sq_err_BK = (x_BCHW[:, None] - x_hat_BKCHW).square().flatten(2).sum(2)
        kl = kl_divergence(mu_BD, logvar_BD).mean()
        reconst = 0.5 * sq_err_BK.mean()
        if self.settings.objective == "vae":
            total = self._scaled(reconst, self.settings.beta * kl, num_pixels=x_BCHW[0].numel())
        else:
            # log q(z_i|x) - log p(z_i)
            latent_BK = 0.5 * (z_BKD.square() - eps_BKD.square()).sum(2) - 0.5 * logvar_BD.sum(1)[:, None]
            total = self._iwae(sq_err_BK, latent_BK, num_pixels=x_BCHW[0].numel())
        return Loss(total, reconst, kl)

    def _scaled(self, half_sq_err: Tensor, latent: Tensor, *, num_pixels: int) -> Tensor:
        """Half the squared error and a term in nats -> their sum in the loss's units."""
        if not self.settings.learn_sigma:
            return half_sq_err + self.settings.sigma**2 * latent
        constant = num_pixels * (self.log_sigma + 0.5 * math.log(2 * math.pi))
        return half_sq_err * (-2 * self.log_sigma).exp() + constant + latent

    def _iwae(self, sq_err_BK: Tensor, latent_BK: Tensor, *, num_pixels: int) -> Tensor:
        # Weights hang on single nats of sums of 1e5: log-weights are combined in float64.
        loss_BK = self._scaled(0.5 * sq_err_BK.double(), latent_BK.double(), num_pixels=num_pixels)
        unit = 1.0 if self.settings.learn_sigma else self.settings.sigma**2
        total: Tensor = -unit * log_mean_exp(-loss_BK / unit).mean()
        return total.to(sq_err_BK.dtype)


def kl_divergence(mu_BD: Tensor, logvar_BD: Tensor) -> Tensor:
    """KL(N(mu, diag exp(logvar)) || N(0, I)) in nats, (B,), in the inputs' precision."""
    return 0.5 * (mu_BD.square() + logvar_BD.exp() - 1.0 - logvar_BD).sum(1)
