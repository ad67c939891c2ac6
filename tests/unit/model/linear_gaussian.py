"""A model whose likelihood is known in closed form: m(z) = W z + b with orthogonal columns, and a Gaussian q(z|x)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class LinearGaussian:
    """p(x|z) = N(W z + b, variance * I) on images of 3 x 4 x 4 pixels, in float64.

    The columns of W are orthogonal, so the posterior's covariance is diagonal: q can be that posterior exactly.
    `shift` moves q's mean and `stretch` multiplies its standard deviation away from it.
    """

    def __init__(
        self,
        *,
        variance: float = 0.3,
        column_norms: Sequence[float] = (0.9, 0.5, 1.4, 0.2, 0.7),
        shift: float = 0.0,
        stretch: float = 1.0,
        seed: int = 0,
    ) -> None:
        rng = torch.Generator().manual_seed(seed)
        square = torch.randn(48, 48, generator=rng, dtype=torch.float64)
        self.norms_D = torch.tensor(column_norms, dtype=torch.float64)
        self.w_ND = torch.linalg.qr(square).Q[:, : len(column_norms)] * self.norms_D
        self.b_N = 0.2 * torch.randn(48, generator=rng, dtype=torch.float64)
        self.variance = variance
        self._shift, self._stretch = shift, stretch

    def posterior(self, x_BCHW: Tensor) -> torch.distributions.Normal:
        """p(z|x), independent over latents."""
        precision_D = 1.0 + self.norms_D.square() / self.variance
        mean_BD = (x_BCHW.flatten(1) - self.b_N) @ self.w_ND / self.variance / precision_D
        return torch.distributions.Normal(mean_BD, precision_D.rsqrt().expand_as(mean_BD))

    def log_likelihood(self, x_BCHW: Tensor) -> Tensor:
        """log p(x) = log N(x; b, W W^T + variance * I), (B,)."""
        covariance_NN = self.w_ND @ self.w_ND.T + self.variance * torch.eye(48, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(self.b_N, covariance_NN).log_prob(x_BCHW.flatten(1))

    def encode(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        exact = self.posterior(x_BCHW)
        return exact.mean + self._shift, 2 * (exact.stddev * self._stretch).log()

    def decode(self, z_BD: Tensor) -> Tensor:
        return (z_BD @ self.w_ND.T + self.b_N).view(-1, 3, 4, 4)


def pictures(num_images: int, *, seed: int = 1) -> Tensor:
    """Pictures in [-1, 1], (B, 3, 4, 4) float64."""
    rng = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(num_images, 3, 4, 4, generator=rng, dtype=torch.float64) - 1


def normal_draws(num_images: int, num_samples: int, num_latents: int = 5, *, seed: int = 2) -> Tensor:
    """Standard normal draws (B, K, D) float64."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(num_images, num_samples, num_latents, generator=rng, dtype=torch.float64)
