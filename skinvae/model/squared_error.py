"""The end of a decoder, tanh, and its squared distance from the image: the plain way, and as one GPU kernel.

Shapes in names: b images, k draws of each, M = b * k, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Way = Literal["plain", "triton"]


def squared_errors(raw_MCHW: Tensor, target_bCHW: Tensor, *, way: Way = "plain") -> Tensor:
    """||tanh(raw) - target||^2 per draw, float64 (M,); the draws of an image lie one after the other.

    tanh, difference and square are in float32 at least; lines are summed so, the sums of lines in float64.
    `triton` needs a GPU, and reads every value once instead of several times.
    """
    if way == "triton":
        from skinvae.model.squared_error_triton import fused_squared_errors

        return fused_squared_errors(raw_MCHW, target_bCHW)
    at_least_float32 = torch.promote_types(raw_MCHW.dtype, torch.float32)
    x_hat_MCHW = torch.tanh(raw_MCHW.to(at_least_float32))
    error_bkCHW = x_hat_MCHW.view(len(target_bCHW), -1, *raw_MCHW.shape[1:]).sub_(target_bCHW[:, None])
    lines_MHWC = error_bkCHW.flatten(0, 1).square_().permute(0, 2, 3, 1)
    sums_M: Tensor = lines_MHWC.flatten(2).sum(2).sum(1, dtype=torch.float64)
    return sums_M
