"""tanh, difference, square and sum in one pass over the decoder's last layer, as a Triton kernel."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 2048
"""Values that one program sums in float32."""


@triton.jit  # type: ignore[untyped-decorator]  # Triton's omission
def _kernel(raw_ptr: Any, target_ptr: Any, sums_ptr: Any, num_values: Any, draws_per_image: Any, block: tl.constexpr):  # type: ignore[no-untyped-def]  # returns nothing, and Triton compiles its source
    draw, part = tl.program_id(0), tl.program_id(1)
    offsets = part * block + tl.arange(0, block)
    inside = offsets < num_values
    raw = tl.load(raw_ptr + draw.to(tl.int64) * num_values + offsets, mask=inside, other=0.0).to(tl.float32)
    image = (draw // draws_per_image).to(tl.int64)
    target = tl.load(target_ptr + image * num_values + offsets, mask=inside, other=0.0).to(tl.float32)
    error = 2.0 * tl.sigmoid(2.0 * raw) - 1.0 - target
    tl.store(sums_ptr + draw * tl.num_programs(1) + part, tl.sum(tl.where(inside, error * error, 0.0), axis=0))


def fused_squared_errors(raw_MCHW: Tensor, target_bCHW: Tensor) -> Tensor:
    """As `squared_error.squared_errors`; both tensors channels last, on one GPU."""
    num_draws, num_values = len(raw_MCHW), raw_MCHW[0].numel()
    raw_MX, target_bX = (_rows(tensor) for tensor in (raw_MCHW, target_bCHW))
    num_parts = triton.cdiv(num_values, _BLOCK)
    sums_MP = raw_MX.new_empty(num_draws, num_parts, dtype=torch.float32)
    _kernel[num_draws, num_parts](raw_MX, target_bX, sums_MP, num_values, num_draws // len(target_bCHW), block=_BLOCK)
    return sums_MP.sum(1, dtype=torch.float64)


def _rows(images_MCHW: Tensor) -> Tensor:
    """(M, H * W * C), without a copy where channels are last in memory."""
    return images_MCHW.permute(0, 2, 3, 1).flatten(1)
