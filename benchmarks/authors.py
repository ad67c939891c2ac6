"""The released code's way of scoring (QuindiTech/VAE_ISIC2018), in our own words.

One image at a time, encoded and decoded 15 times for the VAE's scores, and again 15 times for the IWAE's.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skinvae.model.bounds import Draws, scores_from_draws
from skinvae.model.noise import draw_noise
from skinvae.model.scorer import ScoringSettings
from skinvae.model.vae import VAE, to_unit_range
from skinvae.records import SCORES


def authors_scores(
    model: VAE, image_HWC: NDArray[np.uint8], *, variance: float, settings: ScoringSettings, device: str = "cpu"
) -> dict[str, float]:
    """The six scores of one image, with the draws that the product gives it."""
    eps_BKD = draw_noise(
        image_HWC[None],
        seed=settings.seed,
        num_samples=settings.num_samples,
        num_latents=model.settings.num_latents,
    )
    x_BCHW = to_unit_range(torch.from_numpy(image_HWC[None]).to(device)).contiguous()
    eps_KD = torch.from_numpy(eps_BKD[0]).to(device)
    of_vae, of_iwae = (
        scores_from_draws(_draws(model, x_BCHW, eps_KD), variance=variance, mode=settings.mode) for _ in ("vae", "iwae")
    )
    return {name: float(getattr(of_iwae if name.startswith("iwae") else of_vae, name)) for name in SCORES}


@torch.inference_mode()
def _draws(model: VAE, x_BCHW: Tensor, eps_KD: Tensor) -> Draws:
    sq_errs, norm_gaps, sum_logvars, kls = [], [], [], []
    for eps_D in eps_KD:
        mu_D, logvar_D = (t[0] for t in model.encode(x_BCHW))
        z_D = mu_D + (0.5 * logvar_D).exp() * eps_D
        sq_errs.append((model.decode(z_D[None]) - x_BCHW).square().sum(3).sum(dtype=torch.float64))
        norm_gaps.append(z_D.double().square().sum() - eps_D.double().square().sum())
        mu_D, logvar_D = mu_D.double(), logvar_D.double()
        sum_logvars.append(logvar_D.sum())
        kls.append(0.5 * (mu_D.square() + logvar_D.exp() - 1 - logvar_D).sum())
    return Draws(
        sq_err_BK=torch.stack(sq_errs)[None],
        norm_gap_BK=torch.stack(norm_gaps)[None],
        sum_logvar_B=sum_logvars[-1][None],
        kl_B=kls[-1][None],
        num_pixels=x_BCHW.numel(),
    )
