"""The model as anybody would run it: the plain module in eval mode, a batch encoded once and decoded once a draw."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.ways.task import Task, mark
from skinvae.model.bounds import Draws, scores_from_draws
from skinvae.model.noise import draw_noise
from skinvae.model.objective import kl_divergence
from skinvae.model.vae import to_unit_range
from skinvae.pipelines.image_scorer import Columns
from skinvae.records import SCORES


class PlainModel:
    """Weights, draws and formulas are the product's; how they are computed is not."""

    def __init__(self, task: Task) -> None:
        torch.set_num_threads(task.threads)
        bundle = task.read_bundle()
        self._task = task
        self._model = bundle.build_model().to(task.device).eval()
        self._variance = bundle.config.variance

    @torch.inference_mode()
    def score(self, images_BHWC: NDArray[np.uint8]) -> Columns:
        """The six scores of uint8 images."""
        scoring = self._task.scoring
        x_BCHW = to_unit_range(torch.from_numpy(np.array(images_BHWC)).to(self._task.device)).contiguous()
        mu_BD, logvar_BD = self._model.encode(x_BCHW)
        noise = draw_noise(images_BHWC, seed=scoring.seed, num_samples=scoring.num_samples, num_latents=mu_BD.shape[1])
        eps_BKD = torch.from_numpy(noise).to(self._task.device)
        z_BKD = mu_BD[:, None] + (0.5 * logvar_BD)[:, None].exp() * eps_BKD
        sq_errs = [
            (self._model.decode(z_BD) - x_BCHW).square().sum(3).flatten(1).sum(1, dtype=torch.float64)
            for z_BD in z_BKD.unbind(1)
        ]
        mu_BD, logvar_BD, z_BKD, eps_BKD = (t.double() for t in (mu_BD, logvar_BD, z_BKD, eps_BKD))
        draws = Draws(
            sq_err_BK=torch.stack(sq_errs, dim=1),
            norm_gap_BK=z_BKD.square().sum(2) - eps_BKD.square().sum(2),
            sum_logvar_B=logvar_BD.sum(1),
            kl_B=kl_divergence(mu_BD, logvar_BD),
            num_pixels=x_BCHW[0].numel(),
        )
        scores = scores_from_draws(draws, variance=self._variance, mode=scoring.mode)
        mark(self._task.marks, len(x_BCHW))
        return {name: getattr(scores, name).cpu().numpy() for name in SCORES}
