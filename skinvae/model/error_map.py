"""Where in an image its reconstruction error lies: a map whose cells add up to the data part of vae_reconst.

Shapes in names: B images, K draws, C channels, H height, W width, D latents, S cells a side, b and k a part of B
and K, M = b * k.
With the draws z_i that the scores are made of, and x in [-1, 1]^N:

    cell = sum over its pixels and channels of (1/K) sum_i (x - m(z_i))^2 / (2 variance)
    sum of all cells = vae_reconst - (N/2) log(2 pi variance)                              in mode `exact`
                     = vae_reconst / variance                                              in mode `released`
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skinvae.model.draws import latents
from skinvae.model.network import EncoderDecoder, rectangles
from skinvae.model.noise import draw_noise, latin_hypercube
from skinvae.model.precision import matrix_precision
from skinvae.model.scorer import BATCH_SIZES, ScoringSettings
from skinvae.model.vae import VAE, to_unit_range


def error_maps(
    model: EncoderDecoder, x_BCHW: Tensor, eps_BKD: Tensor, *, variance: float, size: int, decode_batch_size: int
) -> Tensor:
    """Nats of each cell, float64 (B, size, size); at most `decode_batch_size` draws are decoded at once."""
    mu_BD, logvar_BD = (t.double() for t in model.encode(x_BCHW))
    z_BKD = latents(mu_BD, logvar_BD, eps_BKD)
    sq_err_BHW = x_BCHW.new_zeros((len(x_BCHW), *x_BCHW.shape[2:]), dtype=torch.float64)
    for images, draws in rectangles(*z_BKD.shape[:2], at_most=decode_batch_size):
        z_bkD = z_BKD[images, draws]
        x_hat_MCHW = model.decode(z_bkD.flatten(0, 1).to(x_BCHW.dtype))
        error_bkCHW = x_hat_MCHW.view(*z_bkD.shape[:2], *x_BCHW.shape[1:]) - x_BCHW[images, None]
        sq_err_BHW[images] += error_bkCHW.square().sum((1, 2), dtype=torch.float64)
    return pooled(sq_err_BHW / (2 * variance * z_BKD.shape[1]), size=size)


def mean_error_maps(images_BHWC: NDArray[np.uint8], *, m_BCHW: Tensor, variance: float) -> NDArray[np.float64]:
    """Nats of each pixel under one reconstruction, m(mu), in place of the draws: ||x - m(mu)||^2 / (2 variance).

    (B, H, W), `m_BCHW` being what `Scorer.reconstruct` makes of the images.
    """
    error_BCHW = to_unit_range(torch.from_numpy(np.array(images_BHWC))) - m_BCHW
    nats_BHW: NDArray[np.float64] = (error_BCHW.double().square().sum(1) / (2 * variance)).numpy()
    return nats_BHW


def pooled(map_BHW: Tensor, *, size: int) -> Tensor:
    """Square maps, summed over square cells: (B, size, size). Raises ValueError unless `size` divides their side."""
    side = map_BHW.shape[-1]
    if side % size:
        raise ValueError(f"{size} cells a side do not divide {side} pixels")
    cells_BSHSW = map_BHW.reshape(-1, size, side // size, size, side // size)
    return cells_BSHSW.sum((2, 4))


class ErrorMapper:
    """Error maps of uint8 images with one model on one device, in float32 at least.

    The model is the mapper's from then on: it may be moved and converted. `decode_batch_size` draws are decoded at
    once; 0 leaves it to the device.
    """

    def __init__(
        self, model: VAE, *, variance: float, settings: ScoringSettings, device: str = "cpu", decode_batch_size: int = 0
    ) -> None:
        self._dtype = torch.float64 if settings.precision == "float64" else torch.float32
        self._device = torch.device(device)
        self._model = model.eval().to(self._device, self._dtype)
        self._variance, self._settings = variance, settings
        self._decode_batch_size = decode_batch_size or BATCH_SIZES[self._device.type][1]

    @property
    def batch_size(self) -> int:
        """A good number of images for one call of `maps`."""
        return max(1, self._decode_batch_size // self._settings.num_samples)

    def maps(self, images_BHWC: NDArray[np.uint8], *, size: int) -> NDArray[np.float64]:
        """Nats of each cell, (B, size, size), under the draws that the images' scores are made of."""
        with torch.inference_mode(), matrix_precision("float32"):
            x_BCHW = to_unit_range(torch.from_numpy(np.array(images_BHWC)).to(self._device)).to(self._dtype)
            map_BSS = error_maps(
                self._model,
                x_BCHW,
                torch.from_numpy(self._noise(images_BHWC)).to(self._device),
                variance=self._variance,
                size=size,
                decode_batch_size=self._decode_batch_size,
            )
            nats: NDArray[np.float64] = map_BSS.cpu().numpy()
            return nats

    def _noise(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        settings, num_latents = self._settings, self._model.settings.num_latents
        if settings.noise == "lhs":
            eps_KD = latin_hypercube(seed=settings.seed, num_samples=settings.num_samples, num_latents=num_latents)
            return np.repeat(eps_KD[None], len(images_BHWC), axis=0)
        return draw_noise(images_BHWC, seed=settings.seed, num_samples=settings.num_samples, num_latents=num_latents)
