"""What the scores ask of a model, answered the plain way and the fast way.

Shapes in names: B images, K draws, M draws of several images, C channels, H height, W width, D latents.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from skinvae.model.layers import GridToLatent, InPlaceReLU, LatentToGrid, OverlapAdd, PhaseOutput
from skinvae.model.squared_error import Way, squared_errors
from skinvae.model.vae import LOGVAR_MAX, LOGVAR_MIN, VAE


class EncoderDecoder(Protocol):
    """A Gaussian posterior and the mean of a Gaussian likelihood."""

    def encode(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]: ...

    def decode(self, z_BD: Tensor) -> Tensor: ...


class Network(Protocol):
    """An EncoderDecoder in one precision, as the scores need it."""

    def encode(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each (B, D)."""
        ...

    def targets(self, x_BCHW: Tensor) -> Tensor:
        """The images as `squared_errors` compares with them, (B, ...)."""
        ...

    def squared_errors(self, z_BKD: Tensor, targets_B: Tensor, *, at_most: int) -> Tensor:
        """||x - m(z)||^2 of float64 z, float64 (B, K); at most so many draws are decoded at once."""
        ...


def rectangles(num_images: int, num_samples: int, *, at_most: int) -> Iterator[tuple[slice, slice]]:
    """Cut (B, K) draws into images x draws of at most `at_most` each: several whole images, or a part of one.

    Every image is cut alike, so that its scores depend neither on its place nor on its neighbours.
    """
    images_each = max(
        (n for n in range(1, num_images + 1) if num_images % n == 0 and n * num_samples <= at_most), default=1
    )
    draws_each = min(num_samples, at_most)
    for image, draw in itertools.product(range(0, num_images, images_each), range(0, num_samples, draws_each)):
        yield slice(image, image + images_each), slice(draw, draw + draws_each)


class PlainNetwork:
    """The model as it is written, in its own precision: what the fast way is held against."""

    def __init__(self, model: EncoderDecoder) -> None:
        self._model = model
        self.encode = model.encode

    def targets(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW

    def squared_errors(self, z_BKD: Tensor, targets_B: Tensor, *, at_most: int) -> Tensor:
        sq_err_BK = z_BKD.new_empty(z_BKD.shape[:2], dtype=torch.float64)
        for images, draws in rectangles(*z_BKD.shape[:2], at_most=at_most):
            z_bkD = z_BKD[images, draws]
            z_MD = z_bkD.flatten(0, 1).to(targets_B.dtype)
            error_bkX = self._model.decode(z_MD).reshape(*z_bkD.shape[:2], -1)
            error_bkX = error_bkX - targets_B[images].flatten(1)[:, None]
            sq_err_BK[images, draws] = error_bkX.square().sum(2, dtype=torch.float64)
        return sq_err_BK


@dataclass(frozen=True)
class Tricks:
    """What FastNetwork does otherwise than the model as it is written; `make bench` takes out one after the other."""

    fold_batch_norm: bool = True
    channels_last: bool = True
    latent_product: bool = True
    """z -> 4x4 as one matrix product."""
    overlap_add: bool = True
    """Layers of many channels as one matrix product, whose results are added up."""
    phase_output: bool = True
    """The last layer as one convolution to four phases."""
    cached_draws: bool = True
    """From 8x8 on, as many draws at once as the processor's cache holds."""
    squared_error: Way = "plain"
    cuda_graph: bool = False
    """All kernels of a batch launched at once."""

    @staticmethod
    def for_device(device: torch.device) -> Tricks:
        """Those that were measured to pay on such a device (docs/performance.md).

        What only a GPU can show waits for one, and is left out until then: `benchmarks/gpu.sh` measures it.
        """
        on_cpu = device.type == "cpu"
        return Tricks(overlap_add=on_cpu, cached_draws=on_cpu)


_OVERLAP_ADD_CHANNELS = 512
"""At least so many go in: with fewer, adding up costs more than is gained."""

_CACHE_BYTES = 16 << 20
"""For the largest layer of the draws that are decoded together."""


class FastNetwork:
    """A VAE's weights, frozen, on one device.

    The decoder, 94 % of the arithmetic, is in `decoder_dtype`. The encoder is in float32 at least: bfloat16 there moved
    vae_kl by up to 0.05 of its standard deviation over images (docs/performance.md).
    """

    def __init__(
        self, model: VAE, *, decoder_dtype: torch.dtype, device: torch.device, tricks: Tricks | None = None
    ) -> None:
        self._tricks = tricks = tricks or Tricks.for_device(device)
        self._decoder_dtype = decoder_dtype
        model = copy.deepcopy(model).double().eval()  # folding rounds once, not twice
        blocks = _fused if tricks.fold_batch_norm else _as_written

        def laid_out(*layers: nn.Module, dtype: torch.dtype) -> nn.Sequential:
            network = nn.Sequential(*layers).to(device, dtype)
            return network.to(memory_format=torch.channels_last) if tricks.channels_last else network

        first, _, *narrowing = model.encoder
        *widening, last, _ = model.decoder
        self._encoder = laid_out(
            InPlaceReLU(first),
            *(InPlaceReLU(*blocks(one)) for one in narrowing),
            GridToLatent(model.mu, model.logvar),
            dtype=torch.promote_types(decoder_dtype, torch.float32),
        )
        to_4x4, to_8x8, *rest = (InPlaceReLU(*self._upsampling(*blocks(one))) for one in widening)
        self._to_8x8 = laid_out(to_4x4, to_8x8, dtype=decoder_dtype)
        self._from_8x8 = laid_out(*rest, PhaseOutput(last) if tricks.phase_output else last, dtype=decoder_dtype)
        settings = model.settings
        self._image_size = settings.image_size
        bytes_of_largest = settings.base_channels * (settings.image_size // 2) ** 2 * decoder_dtype.itemsize
        self._most_cached = max(1, _CACHE_BYTES // bytes_of_largest)

    def _upsampling(self, convolution: nn.Module, *norm: nn.Module) -> list[nn.Module]:
        assert isinstance(convolution, nn.ConvTranspose2d)
        if convolution.stride == (1, 1):  # of 1x1 inputs: the latents
            if self._tricks.latent_product:
                return [LatentToGrid(convolution), *norm]
            return [nn.Unflatten(1, (-1, 1, 1)), convolution, *norm]
        if self._tricks.overlap_add and convolution.in_channels >= _OVERLAP_ADD_CHANNELS:
            return [OverlapAdd(convolution), *norm]
        return [convolution, *norm]

    @property
    def layers(self) -> dict[str, nn.Module]:
        """By what each makes of what, in order: for those who time them."""
        sides = [2**power for power in range(2, self._image_size.bit_length())]
        encoder = [f"encode {side}x{side}" for side in reversed(sides)]
        decoder = [f"decode {side}x{side}" for side in sides]
        return dict(zip(encoder + decoder, (*self._encoder, *self._to_8x8, *self._from_8x8), strict=True))

    def encode(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each (B, D); x in float32 at least."""
        layout = torch.channels_last if self._tricks.channels_last else torch.contiguous_format
        mu_BD, logvar_BD = self._encoder(x_BCHW.contiguous(memory_format=layout)).chunk(2, dim=1)
        return mu_BD, logvar_BD.clamp(LOGVAR_MIN, LOGVAR_MAX)

    def targets(self, x_BCHW: Tensor) -> Tensor:
        if not self._tricks.phase_output:
            return x_BCHW
        return functional.pixel_unshuffle(x_BCHW, 2).contiguous(memory_format=torch.channels_last)

    def squared_errors(self, z_BKD: Tensor, targets_B: Tensor, *, at_most: int) -> Tensor:
        sq_err_BK = z_BKD.new_empty(z_BKD.shape[:2], dtype=torch.float64)
        for images, draws in rectangles(*z_BKD.shape[:2], at_most=at_most):
            z_bkD = z_BKD[images, draws]
            h_MCHW = self._to_8x8(z_bkD.flatten(0, 1).to(self._decoder_dtype))
            h_bkCHW = h_MCHW.view(*z_bkD.shape[:2], *h_MCHW.shape[1:])
            sq_err_BK[images, draws] = self._squared_errors_from_8x8(h_bkCHW, targets_B[images])
        return sq_err_BK

    def _squared_errors_from_8x8(self, h_bkCHW: Tensor, targets_b: Tensor) -> Tensor:
        shape = h_bkCHW.shape[:2]
        sq_err_bk = h_bkCHW.new_empty(shape, dtype=torch.float64)
        at_most = self._most_cached if self._tricks.cached_draws else shape.numel()
        for images, draws in rectangles(*shape, at_most=at_most):
            part_bkCHW = h_bkCHW[images, draws]
            raw_MCHW = self._from_8x8(part_bkCHW.flatten(0, 1))
            sq_err_M = squared_errors(raw_MCHW, targets_b[images], way=self._tricks.squared_error)
            sq_err_bk[images, draws] = sq_err_M.view(part_bkCHW.shape[:2])
        return sq_err_bk


def _as_written(block: nn.Module) -> list[nn.Module]:
    convolution, norm, _ = block.children()
    return [convolution, norm]


def _fused(block: nn.Module) -> list[nn.Module]:
    convolution, norm, _ = block.children()
    assert isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return [fuse_conv_bn_eval(convolution, norm, transpose=isinstance(convolution, nn.ConvTranspose2d))]
