"""uint8 images -> scores: one encode and K shared draws per image, decoded in chunks.

Shapes in names: B images, K draws, C channels, H height, W width, D latents.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from skinvae.model.bounds import Draws, ScoreMode, scores_from_draws
from skinvae.model.noise import draw_noise
from skinvae.model.objective import kl_divergence
from skinvae.model.vae import VAE, to_unit_range
from skinvae.records import SCORES

Precision = Literal["float32", "float64"]
_DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}


class ScoringSettings(BaseModel):
    """All that a score depends on beside the model and the pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: ScoreMode = Field("exact", description="exact = true bounds; released = as the authors' code computes them")
    num_samples: int = Field(15, ge=1, description="draws of z per image, k in the paper")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the draws")
    precision: Precision = Field("float32", description="floating-point format of the network")


MAX_DRAWS_HELD = 2**16
"""Draws of z in memory at a time, unless one image alone has more: 240 MB with 300 latents."""


class EncoderDecoder(Protocol):
    """What the scores ask of a model: a Gaussian posterior and the mean of a Gaussian likelihood."""

    def encode(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]: ...

    def decode(self, z_BD: Tensor) -> Tensor: ...


def collect_draws(model: EncoderDecoder, x_BCHW: Tensor, eps_BKD: Tensor, *, decode_batch_size: int) -> Draws:
    """Encode once, decode every z_i in batches of at most `decode_batch_size`, and keep what the scores need.

    x and eps are in the model's precision; z and all sums over pixels or latents are float64.
    """
    num_images, num_samples, _ = eps_BKD.shape
    mu_BD, logvar_BD = (t.double() for t in model.encode(x_BCHW))
    z_BKD = mu_BD[:, None] + (0.5 * logvar_BD)[:, None].exp() * eps_BKD.double()
    z_MD = z_BKD.flatten(0, 1).to(x_BCHW.dtype)
    owner_M = torch.arange(num_images, device=x_BCHW.device).repeat_interleave(num_samples)
    sq_err_M = torch.empty(num_images * num_samples, dtype=torch.float64, device=x_BCHW.device)
    for start in range(0, len(z_MD), decode_batch_size):
        chunk = slice(start, start + decode_batch_size)
        error_MCHW = model.decode(z_MD[chunk]).sub_(x_BCHW[owner_M[chunk]])
        # Rows of one image line are summed in the network's precision, the 3*H line sums in float64.
        sq_err_M[chunk] = error_MCHW.square_().sum(3).flatten(1).sum(1, dtype=torch.float64)
    return Draws(
        sq_err_BK=sq_err_M.view(num_images, num_samples),
        norm_gap_BK=z_BKD.square().sum(2) - eps_BKD.double().square().sum(2),
        sum_logvar_B=logvar_BD.sum(1),
        kl_B=kl_divergence(mu_BD, logvar_BD),
        num_pixels=x_BCHW[0].numel(),
    )


class Scorer:
    """Scores images with one model on one device; its results do not depend on the batch sizes.

    Where the device's memory is too small for a batch, it goes on with smaller ones, for as long as it lives.
    """

    def __init__(
        self,
        model: VAE,
        *,
        variance: float,
        settings: ScoringSettings,
        device: str = "cpu",
        batch_size: int = 32,
        decode_batch_size: int = 32,
    ) -> None:
        self._settings = settings
        self._variance = variance
        self._device = torch.device(device)
        self._dtype = _DTYPES[settings.precision]
        self._batch_size = batch_size
        self._decode_batch_size = decode_batch_size
        self._num_latents = model.settings.num_latents
        self._model = model.to(self._device, self._dtype).to(memory_format=torch.channels_last).eval()

    @property
    def batch_size(self) -> int:
        """Images encoded at once: a good size for the pieces handed to `score`."""
        return self._batch_size

    @property
    def decode_batch_size(self) -> int:
        """Draws decoded at once."""
        return self._decode_batch_size

    def score(self, images_BHWC: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
        """The six scores in nats and `ess` of uint8 images (B, H, W, 3), each float64 (B,).

        Raises torch.OutOfMemoryError if there is no memory for one image and one draw at a time.
        """
        pieces, start = [], 0
        while start < len(images_BHWC):
            step = self._step
            try:
                pieces.append(self._score_batch(images_BHWC[start : start + step], padded_size=step))
            except torch.OutOfMemoryError:
                if not self._halve():
                    raise
            else:
                start += step
                continue
            # Outside of the handler, whose exception holds on to the tensors of the failed batch.
            _free_memory(self._device)
        names = (*SCORES, "ess")
        return {name: np.concatenate([piece[name] for piece in pieces] or [np.empty(0)]) for name in names}

    @property
    def _step(self) -> int:
        # Many draws of an image leave room for fewer images: z and eps are held for all of them at once.
        return min(self._batch_size, max(1, MAX_DRAWS_HELD // self._settings.num_samples))

    def _halve(self) -> bool:
        """Decode fewer draws at once, then encode fewer images: decoding takes the most memory."""
        if self._decode_batch_size > 1:
            self._decode_batch_size //= 2
        elif self._step > 1:
            self._batch_size = self._step // 2
        else:
            return False
        return True

    def reconstruct(self, images_BHWC: NDArray[np.uint8]) -> Tensor:
        """m(mu(x)), the reconstruction from the posterior mean, (B, 3, H, W) in (-1, 1) on the CPU."""
        with torch.inference_mode(), _full_float32():
            mu_BD, _ = self._model.encode(self._inputs(images_BHWC))
            x_hat_BCHW: Tensor = self._model.decode(mu_BD)
            return x_hat_BCHW.float().cpu()

    def _score_batch(self, images_BHWC: NDArray[np.uint8], *, padded_size: int) -> dict[str, NDArray[np.float64]]:
        num_images = len(images_BHWC)
        eps_BKD = draw_noise(
            images_BHWC,
            seed=self._settings.seed,
            num_samples=self._settings.num_samples,
            num_latents=self._num_latents,
        )
        # One shape for every batch: on GPUs kernels are tuned once; on CPUs other shapes may have other kernels, which
        # differ in the last digits (3e-9 at 64 pixels, 32 channels), so that a score would depend on its neighbours.
        images_BHWC, eps_BKD = (_pad(rows, size=padded_size) for rows in (images_BHWC, eps_BKD))
        with torch.inference_mode(), _full_float32():
            draws = collect_draws(
                self._model,
                self._inputs(images_BHWC),
                torch.from_numpy(eps_BKD).to(self._device, self._dtype),
                decode_batch_size=self._decode_batch_size,
            )
            scores = scores_from_draws(draws, variance=self._variance, mode=self._settings.mode)
        return {name: value[:num_images].cpu().numpy() for name, value in vars(scores).items()}

    def _inputs(self, images_BHWC: NDArray[np.uint8]) -> Tensor:
        on_device = torch.from_numpy(np.array(images_BHWC)).to(self._device)
        return to_unit_range(on_device).to(self._dtype)


def _full_float32() -> AbstractContextManager[None]:
    """CUDA convolutions default to TF32, whose 10-bit mantissa is no float32."""
    context: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return context


def _free_memory(device: torch.device) -> None:
    """Give back what torch keeps of a failed batch: in pieces of the wrong sizes it only takes the room."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _pad(rows: NDArray[Any], *, size: int) -> NDArray[Any]:
    """The rows, the last one repeated up to `size`."""
    missing = size - len(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows
