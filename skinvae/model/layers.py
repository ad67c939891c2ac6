"""The VAE's layers as they are fastest to compute once the weights are fixed: same functions, other arithmetic.

Shapes in names: M draws, D latents, I and O channels, H height, W width. Images lie channels last in memory.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

_TAPS = ((1, 3), (2, 0))
"""Of a transposed convolution with kernel 4, stride 2, padding 1: output row 2y + p, of phase p, is the input's row y
by the kernel's row _TAPS[p][0], plus a neighbour by row _TAPS[p][1]: row y - 1 in phase 0, y + 1 in phase 1."""


class LatentToGrid(nn.Module):
    """A transposed convolution of 1x1 inputs: one matrix product, (M, D) -> (M, O, 4, 4)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        weight_DOHW, bias_O = _parameters(convolution)
        _, self._channels, *self._grid = weight_DOHW.shape
        self.register_buffer("weight", weight_DOHW.permute(0, 2, 3, 1).flatten(1).contiguous())
        self.register_buffer("bias", bias_O.repeat(self._grid[0] * self._grid[1]))

    def forward(self, z_MD: Tensor) -> Tensor:
        h_MX = torch.addmm(self.bias, z_MD, self.weight)
        return h_MX.view(-1, *self._grid, self._channels).permute(0, 3, 1, 2)


class GridToLatent(nn.Module):
    """Convolutions of inputs as large as their kernels: one matrix product, (M, I, 4, 4) -> (M, D)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, *convolutions: nn.Module) -> None:
        super().__init__()
        weights, biases = zip(*map(_parameters, convolutions), strict=True)
        weight_DIHW = torch.cat(weights)
        self.register_buffer("weight", weight_DIHW.permute(2, 3, 1, 0).flatten(0, 2).contiguous())
        self.register_buffer("bias", torch.cat(biases))

    def forward(self, h_MIHW: Tensor) -> Tensor:
        return torch.addmm(self.bias, h_MIHW.permute(0, 2, 3, 1).flatten(1), self.weight)


class OverlapAdd(nn.Module):
    """A transposed convolution (kernel 4, stride 2, padding 1): one matrix product, its results added up.

    For small images of many channels, where on a CPU the library spends its time on reordering the weights.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        weight_IOHW, bias_O = _parameters(convolution)
        self._channels = weight_IOHW.shape[1]
        self.register_buffer("weight", weight_IOHW.permute(0, 2, 3, 1).flatten(1).contiguous())
        self.register_buffer("bias", bias_O)

    def forward(self, h_MIHW: Tensor) -> Tensor:
        num, _, height, width = h_MIHW.shape
        products = h_MIHW.permute(0, 2, 3, 1).flatten(0, 2) @ self.weight
        taps = products.view(num, height, width, 4, 4, self._channels)
        out = taps.new_empty(num, height, 2, width, 2, self._channels)
        for row, column in itertools.product((0, 1), repeat=2):
            phase = out[:, :, row, :, column]
            (here_y, beside_y), (here_x, beside_x) = _TAPS[row], _TAPS[column]
            (to_y, from_y), (to_x, from_x) = _shifted(row), _shifted(column)
            torch.add(taps[:, :, :, here_y, here_x], self.bias, out=phase)
            phase[:, to_y] += taps[:, from_y, :, beside_y, here_x]
            phase[:, :, to_x] += taps[:, :, from_x, here_y, beside_x]
            phase[:, to_y, to_x] += taps[:, from_y, from_x, beside_y, beside_x]
        return out.view(num, 2 * height, 2 * width, self._channels).permute(0, 3, 1, 2)


class PhaseOutput(nn.Module):
    """A transposed convolution (kernel 4, stride 2, padding 1) as one 3x3 convolution to all four phases.

    (M, I, H, W) -> (M, 4 O, H, W), which is `torch.nn.functional.pixel_unshuffle(..., 2)` of what it stands for: for
    few output channels faster, and as good to compare with an image that is laid out in the same way.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        weight_IOHW, bias_O = _parameters(convolution)
        num_in, num_out = weight_IOHW.shape[:2]
        weight = weight_IOHW.new_zeros(num_out, 2, 2, num_in, 3, 3)
        for row, column in itertools.product((0, 1), repeat=2):
            rows, columns = _phase_kernel(row), _phase_kernel(column)
            taps = weight_IOHW[:, :, rows][:, :, :, columns].transpose(0, 1)
            weight[:, row, column, :, row : row + 2, column : column + 2] = taps
        self.register_buffer("weight", weight.flatten(0, 2))
        self.register_buffer("bias", bias_O.repeat_interleave(4))

    def forward(self, h_MIHW: Tensor) -> Tensor:
        return functional.conv2d(h_MIHW, self.weight, self.bias, padding=1)


class InPlaceReLU(nn.Module):
    """Layers, and ReLU into the memory of the last one's output."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, h_MIHW: Tensor) -> Tensor:
        out: Tensor = self.layers(h_MIHW)
        return out.relu_()


def _parameters(convolution: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d)
    assert convolution.bias is not None
    return convolution.weight.detach(), convolution.bias.detach()


def _phase_kernel(phase: int) -> list[int]:
    """The kernel's rows that a phase uses, in the order of the input's rows."""
    here, beside = _TAPS[phase]
    return [beside, here] if phase == 0 else [here, beside]


def _shifted(phase: int) -> tuple[slice, slice]:
    """Output rows that have the phase's neighbour, and the input rows that these are."""
    without_first, without_last = slice(1, None), slice(None, -1)
    return (without_first, without_last) if phase == 0 else (without_last, without_first)
