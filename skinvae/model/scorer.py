"""uint8 images -> scores, on one device.

Shapes in names: B images, K draws, C channels, H height, W width, D latents.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from skinvae.model.bounds import ScoreMode, scores_from_draws
from skinvae.model.cpu_threads import CpuThreads
from skinvae.model.cuda_graph import Graphed
from skinvae.model.draws import collect_draws
from skinvae.model.network import FastNetwork, Network, PlainNetwork, Tricks
from skinvae.model.noise import Noise, draw_noise, latin_hypercube
from skinvae.model.precision import DTYPES, Precision, matrix_precision
from skinvae.model.vae import VAE, to_unit_range
from skinvae.records import SCORES

NAMES = (*SCORES, "ess")


class DrawSettings(BaseModel):
    """What a score depends on beside the model, the pixels and the precision."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: ScoreMode = Field("exact", description="exact = true bounds; released = as the authors' code computes them")
    num_samples: int = Field(15, ge=1, description="draws of z per image, k in the paper")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the draws")
    noise: Noise = Field(
        "independent", description="independent draws for every image, the paper's; or lhs, one Latin hypercube for all"
    )


class ScoringSettings(DrawSettings):
    """All that a score depends on beside the model and the pixels."""

    precision: Precision = Field("float32", description="floating-point format of the decoder")


MAX_DRAWS_HELD = 2**16
"""Draws of z in memory at a time, unless one image alone has more: 240 MB with 300 latents."""

BATCH_SIZES = {"cpu": (16, 60), "cuda": (128, 960)}
"""Images encoded and draws decoded at once where nothing else is asked for (docs/performance.md)."""

_BATCHES_PER_CALL = 4
"""On a GPU: while it works on one, the processor prepares the next."""

_BATCHES_PER_THREAD = 2
"""On a CPU, in one call: at the end of a call its threads wait for the last of them."""

Fetch = Callable[[], NDArray[np.float64]]
"""Waits for the scores of a launched batch: (len(NAMES), B)."""


class Scorer:
    """Scores images with one model on one device; its results depend on the batch sizes in the last digits alone.

    Where the device's memory is too small for a batch, it goes on with smaller ones, for as long as it lives. The
    model is the scorer's from then on: it may be moved and converted.
    `batch_size` images are encoded and `decode_batch_size` draws decoded at once; 0 leaves it to the device.
    """

    def __init__(
        self,
        model: VAE,
        *,
        variance: float,
        settings: ScoringSettings,
        device: str = "cpu",
        batch_size: int = 0,
        decode_batch_size: int = 0,
        tricks: Tricks | None = None,
    ) -> None:
        self._settings = settings
        self._variance = variance
        self._device = torch.device(device)
        images, draws = BATCH_SIZES[self._device.type]
        self._batch_size = batch_size or images
        self._decode_batch_size = decode_batch_size or draws
        self._num_latents = model.settings.num_latents
        self._model = model.eval()
        self._network = _network(model, settings.precision, self._device, tricks)
        self._input_dtype = torch.promote_types(DTYPES[settings.precision], torch.float32)
        self._graphed = Graphed() if tricks is not None and tricks.cuda_graph else None
        self._cpu_threads = CpuThreads() if self._device.type == "cpu" else None
        self._noise_threads = ThreadPoolExecutor(min(8, os.cpu_count() or 1)) if self._device.type == "cuda" else None
        self._hypercube_KD: Tensor | None = None
        if settings.noise == "lhs":
            hypercube_KD = latin_hypercube(
                seed=settings.seed, num_samples=settings.num_samples, num_latents=self._num_latents
            )
            self._hypercube_KD = torch.from_numpy(hypercube_KD).to(self._device)

    @property
    def batch_size(self) -> int:
        """A good number of images for one call of `score`: some times what is encoded at once."""
        if self._cpu_threads is None:
            return self._step * _BATCHES_PER_CALL
        num_threads = self._cpu_threads.count
        return self._step * (num_threads * _BATCHES_PER_THREAD if num_threads > 1 else 1)

    @property
    def decode_batch_size(self) -> int:
        """Draws decoded at once."""
        return self._decode_batch_size

    def score(self, images_BHWC: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
        """The six scores in nats and `ess` of uint8 images (B, H, W, 3), each float64 (B,).

        Raises torch.OutOfMemoryError if there is no memory for one image and one draw at a time.
        """
        pieces = [np.empty((len(NAMES), 0))]
        start = 0
        while start < len(images_BHWC):
            some_BHWC = images_BHWC[start : start + self.batch_size]
            try:
                pieces += self._score_batches(some_BHWC)
            except torch.OutOfMemoryError:
                if not self._halve():
                    raise
            else:
                start += len(some_BHWC)
                continue
            # Outside of the handler, whose exception holds on to the tensors of the failed batch.
            _free_memory(self._device)
        return dict(zip(NAMES, np.concatenate(pieces, axis=1), strict=True))

    def reconstruct(self, images_BHWC: NDArray[np.uint8]) -> Tensor:
        """m(mu(x)), the reconstruction from the posterior mean, (B, 3, H, W) in (-1, 1) on the CPU, in float32."""
        model = self._model.to(self._device)
        with torch.inference_mode(), matrix_precision("float32"):
            x_BCHW = to_unit_range(torch.from_numpy(np.array(images_BHWC)).to(self._device))
            mu_BD, _ = model.encode(x_BCHW.to(model.mu.weight.dtype))
            x_hat_BCHW: Tensor = model.decode(mu_BD)
            return x_hat_BCHW.float().cpu()

    @property
    def _step(self) -> int:
        # Many draws of an image leave room for fewer images: z and eps are held for all of them at once.
        return min(self._batch_size, max(1, MAX_DRAWS_HELD // self._settings.num_samples))

    def _halve(self) -> bool:
        """Decode fewer draws at once, then encode fewer images: decoding takes the most memory."""
        if self._graphed is not None:
            self._graphed.forget()
        self._decode_batch_size = min(self._decode_batch_size, self._step * self._settings.num_samples)
        if self._decode_batch_size > 1:
            self._decode_batch_size //= 2
        elif self._step > 1:
            self._batch_size = self._step // 2
        else:
            return False
        return True

    def _score_batches(self, images_BHWC: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
        """The scores batch by batch, each (len(NAMES), B)."""
        step = self._step
        batches = [images_BHWC[start : start + step] for start in range(0, len(images_BHWC), step)]
        with matrix_precision(self._settings.precision):
            if self._cpu_threads is not None:
                return self._cpu_threads.map(lambda batch: self._launch(batch, padded_size=step)(), batches)
            scores: list[NDArray[np.float64]] = []
            launched: Fetch | None = None
            for batch in batches:
                following = self._launch(batch, padded_size=step)
                # While the GPU works on what was just launched, its forerunner is fetched and its successor prepared.
                if launched is not None:
                    scores.append(launched())
                launched = following
            return [*scores, launched()] if launched is not None else scores

    def _launch(self, images_BHWC: NDArray[np.uint8], *, padded_size: int) -> Fetch:
        """Begin to score a batch; what is returned waits for the scores, (len(NAMES), B)."""
        num_images = len(images_BHWC)
        # One shape for every batch: other shapes may have other kernels, which differ in the last digits (3e-9 at 64
        # pixels, 32 channels, in float32), so that a score would depend on its neighbours.
        padded_BHWC = _pad(images_BHWC, size=padded_size)
        eps_BKD = self._noise(images_BHWC, padded_size=padded_size)
        with torch.inference_mode():
            inputs = self._on_device(torch.from_numpy(padded_BHWC)), self._on_device(eps_BKD)
            scores_NB = self._graphed(self._scores, *inputs) if self._graphed is not None else self._scores(*inputs)
            if self._device.type == "cpu":
                return scores_NB[:, :num_images].numpy
            on_host_NB = torch.empty(scores_NB.shape, dtype=scores_NB.dtype, pin_memory=True)
            on_host_NB.copy_(scores_NB, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's omission
            copied.record()

        def fetch() -> NDArray[np.float64]:
            copied.synchronize()
            return on_host_NB[:, :num_images].numpy()

        return fetch

    def _scores(self, images_BHWC: Tensor, eps_BKD: Tensor) -> Tensor:
        x_BCHW = to_unit_range(images_BHWC).to(self._input_dtype)
        draws = collect_draws(self._network, x_BCHW, eps_BKD, decode_batch_size=self._decode_batch_size)
        scores = scores_from_draws(draws, variance=self._variance, mode=self._settings.mode)
        return torch.stack([getattr(scores, name) for name in NAMES])

    def _noise(self, images_BHWC: NDArray[np.uint8], *, padded_size: int) -> Tensor:
        if self._hypercube_KD is not None:
            return self._hypercube_KD.expand(padded_size, -1, -1)
        eps_BKD = draw_noise(
            images_BHWC,
            seed=self._settings.seed,
            num_samples=self._settings.num_samples,
            num_latents=self._num_latents,
            each=self._noise_threads.map if self._noise_threads is not None else map,
        )
        return torch.from_numpy(_pad(eps_BKD, size=padded_size))

    def _on_device(self, rows: Tensor) -> Tensor:
        """Copied, on a GPU from pinned memory while the caller goes on."""
        if rows.device.type == self._device.type:
            return rows
        return rows.pin_memory().to(self._device, non_blocking=True)


def _network(model: VAE, precision: Precision, device: torch.device, tricks: Tricks | None) -> Network:
    """float64 is what the other precisions are held against: the model as it is written."""
    if precision == "float64":
        return PlainNetwork(model.to(device, torch.float64))
    return FastNetwork(model, decoder_dtype=DTYPES[precision], device=device, tricks=tricks)


def _free_memory(device: torch.device) -> None:
    """Give back what torch keeps of a failed batch: in pieces of the wrong sizes it only takes the room."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _pad(rows: NDArray[Any], *, size: int) -> NDArray[Any]:
    """A copy of the rows in C order, the last one repeated up to `size`."""
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])
