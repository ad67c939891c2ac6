"""The convolutional VAE of Lu & Xu 2018 (arXiv:1807.01349), section 3, sized by settings.

Shapes in names: B images, C channels, H height, W width, D latents.
"""

from __future__ import annotations

import itertools
import math

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

LOGVAR_MIN, LOGVAR_MAX = -30.0, 20.0
"""exp(logvar) is unbounded before training; these bounds keep it finite in float32 and never bind after it."""


class ModelSettings(BaseModel):
    """Size of the VAE; the defaults are the paper's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = Field(128, ge=32, description="side of the square input in pixels, a power of two")
    base_channels: int = Field(64, ge=1, description="channels after the first convolution; doubled by each next")
    num_latents: int = Field(300, ge=1, description="dimension of z")

    @field_validator("image_size")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(f"must be a power of two, got {value}")
        return value

    @property
    def num_pixels(self) -> int:
        """N, the dimension of x: 3 * image_size^2."""
        return 3 * self.image_size**2

    @property
    def block_channels(self) -> list[int]:
        """Output channels of the encoder's stride-2 blocks, which end at 4x4."""
        num_blocks = int(math.log2(self.image_size)) - 2
        return [self.base_channels * 2**i for i in range(num_blocks)]


class VAE(nn.Module):
    """q(z|x) = N(mu, diag exp(logvar)) and the mean of p(x|z), both convolutional; x in [-1, 1]."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.settings = settings
        channels = settings.block_channels
        self.encoder = nn.Sequential(
            nn.Conv2d(3, channels[0], 4, stride=2, padding=1),
            nn.ReLU(),
            *(_encoder_block(a, b) for a, b in itertools.pairwise(channels)),
        )
        self.mu = nn.Conv2d(channels[-1], settings.num_latents, 4)
        self.logvar = nn.Conv2d(channels[-1], settings.num_latents, 4)
        narrowing = channels[::-1]
        self.decoder = nn.Sequential(
            _decoder_block(settings.num_latents, narrowing[0], stride=1, padding=0),
            *(_decoder_block(a, b, stride=2, padding=1) for a, b in itertools.pairwise(narrowing)),
            nn.ConvTranspose2d(narrowing[-1], 3, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def encode(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each (B, D)."""
        h_BCHW = self.encoder(x_BCHW)
        mu_BD = self.mu(h_BCHW).flatten(1)
        logvar_BD = self.logvar(h_BCHW).flatten(1).clamp(LOGVAR_MIN, LOGVAR_MAX)
        return mu_BD, logvar_BD

    def decode(self, z_BD: Tensor) -> Tensor:
        """Mean of p(x|z), (B, 3, H, W) in (-1, 1)."""
        x_hat_BCHW: Tensor = self.decoder(z_BD[:, :, None, None])
        return x_hat_BCHW

    def forward(self, x_BCHW: Tensor, eps_BD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One draw z = mu + exp(logvar/2) * eps: its reconstruction, mu and logvar."""
        mu_BD, logvar_BD = self.encode(x_BCHW)
        z_BD = mu_BD + (0.5 * logvar_BD).exp() * eps_BD
        return self.decode(z_BD), mu_BD, logvar_BD


def _encoder_block(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU()
    )


def _decoder_block(in_channels: int, out_channels: int, *, stride: int, padding: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, 4, stride=stride, padding=padding),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def to_unit_range(images_BHWC: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [-1, 1], channels last in memory."""
    return images_BHWC.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(x_BCHW: Tensor) -> Tensor:
    """The inverse of `to_unit_range`: [-1, 1] -> uint8 (B, H, W, 3), rounded."""
    return x_BCHW.add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
