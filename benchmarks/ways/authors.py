"""The authors' way, in our own words: one image at a time, encoded and decoded 15 times for the VAE's scores and again
15 times for the IWAE's."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks.ways.task import Task, filesystem, image_id, mark, pixels_of, write_scores
from skinvae.model.bounds import Draws, scores_from_draws
from skinvae.model.noise import draw_noise
from skinvae.model.vae import VAE, to_unit_range
from skinvae.records import SCORES


def run(task: Task) -> None:
    """One object after the other; scores in one file at the end."""
    torch.set_num_threads(task.threads)
    bundle = task.read_bundle()
    model = bundle.build_model().to(task.device).eval()
    fs, names, rows = filesystem(), [], []
    for path in sorted(fs.ls(task.objects))[: task.max_images]:
        pixels = pixels_of(fs.cat_file(path), size=bundle.config.model.image_size)
        eps_BKD = draw_noise(
            pixels[None],
            seed=task.scoring.seed,
            num_samples=task.scoring.num_samples,
            num_latents=bundle.config.model.num_latents,
        )
        x_BCHW = to_unit_range(torch.from_numpy(pixels[None]).to(task.device)).contiguous()
        eps_KD = torch.from_numpy(eps_BKD[0]).to(task.device)
        of_vae, of_iwae = (
            scores_from_draws(_draws(model, x_BCHW, eps_KD), variance=bundle.config.beta, mode=task.scoring.mode)
            for _ in ("vae", "iwae")
        )
        rows.append([float(getattr(of_iwae if name.startswith("iwae") else of_vae, name)) for name in SCORES])
        names.append(image_id(path))
        mark(task.marks, 1)
    write_scores(task.out, names, dict(zip(SCORES, np.array(rows).T, strict=True)))


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
