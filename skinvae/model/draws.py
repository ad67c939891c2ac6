"""Images and noise -> what the scores need to know of the draws: one encode, K decodes.

Shapes in names: B images, K draws, C channels, H height, W width, D latents.
"""

from __future__ import annotations

from torch import Tensor

from skinvae.model.bounds import Draws
from skinvae.model.network import Network
from skinvae.model.objective import kl_divergence


def collect_draws(network: Network, x_BCHW: Tensor, eps_BKD: Tensor, *, decode_batch_size: int) -> Draws:
    """Encode once, decode every z_i at most `decode_batch_size` at once, and keep what the scores need.

    z and all sums over pixels or latents are float64.
    """
    mu_BD, logvar_BD = (t.double() for t in network.encode(x_BCHW))
    z_BKD = latents(mu_BD, logvar_BD, eps_BKD)
    return Draws(
        sq_err_BK=network.squared_errors(z_BKD, network.targets(x_BCHW), at_most=decode_batch_size),
        norm_gap_BK=z_BKD.square().sum(2) - eps_BKD.double().square().sum(2),
        sum_logvar_B=logvar_BD.sum(1),
        kl_B=kl_divergence(mu_BD, logvar_BD),
        num_pixels=x_BCHW[0].numel(),
    )


def latents(mu_BD: Tensor, logvar_BD: Tensor, eps_BKD: Tensor) -> Tensor:
    """z_i = mu + s * eps_i of a float64 posterior, float64 (B, K, D)."""
    return mu_BD[:, None] + (0.5 * logvar_BD)[:, None].exp() * eps_BKD.double()
