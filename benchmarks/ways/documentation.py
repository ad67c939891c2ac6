"""Batch inference as Ray Data's documentation shows it: read_images, a map that transforms to float32, map_batches with
a class that holds the model, write_parquet."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import ray
import ray.data
import torch

from benchmarks.ways.task import Task, image_id, mark
from skinvae.model.bounds import Draws, scores_from_draws
from skinvae.model.noise import draw_noise
from skinvae.model.objective import kl_divergence
from skinvae.model.vae import to_uint8, to_unit_range
from skinvae.records import SCORES

Row = dict[str, Any]


def transform(row: Row, *, size: int) -> Row:
    """Full-size pixels -> float32 (3, size, size), resized by the kernel that torchvision and skinvae use."""
    image_CHW = torch.from_numpy(row["image"]).permute(2, 0, 1)
    resized_BCHW = torch.nn.functional.interpolate(image_CHW[None], size=(size, size), mode="bilinear", antialias=True)
    x_BCHW = to_unit_range(resized_BCHW.permute(0, 2, 3, 1)).contiguous()
    return {"image_id": image_id(row["path"]), "x": x_BCHW[0].numpy()}


class Model:
    """The plain module in eval mode: encodes a batch once, decodes it once a draw."""

    def __init__(self, task: Task) -> None:
        torch.set_num_threads(task.threads)
        bundle = task.read_bundle()
        self._task = task
        self._model = bundle.build_model().to(task.device).eval()
        self._variance = bundle.config.beta

    @torch.inference_mode()
    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        scoring = self._task.scoring
        x_BCHW = torch.from_numpy(np.array(batch["x"])).to(self._task.device)
        mu_BD, logvar_BD = self._model.encode(x_BCHW)
        eps_BKD = torch.from_numpy(
            draw_noise(
                to_uint8(x_BCHW).cpu().numpy(),
                seed=scoring.seed,
                num_samples=scoring.num_samples,
                num_latents=mu_BD.shape[1],
            )
        ).to(self._task.device)
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
        return {"image_id": batch["image_id"], **{name: getattr(scores, name).cpu().numpy() for name in SCORES}}


def run(task: Task) -> None:
    """One actor with the model; everything else as Ray Data chooses."""
    ray.init(address="local", num_cpus=task.threads, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    size = task.read_bundle().config.model.image_size
    images = ray.data.read_images(task.objects, mode="RGB", include_paths=True)
    scores = images.map(functools.partial(transform, size=size)).map_batches(
        Model,
        fn_constructor_args=(task,),
        batch_size=task.batch_size,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_gpus=1 if task.device == "cuda" else None,
    )
    scores.write_parquet(task.out)
