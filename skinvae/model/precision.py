"""The floating-point formats that a network can be scored in, and which of them a device is fast at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

Precision = Literal["bfloat16", "tf32", "float32", "float64"]
"""tf32 = float32 whose products have 10 bits of mantissa, on GPUs only. bfloat16 is the decoder's alone: the encoder is
then in float32, on GPUs in tf32. Convolutions and matrix products sum in float32 at least, whatever they multiply."""

DTYPES: dict[Precision, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "tf32": torch.float32,
    "float32": torch.float32,
    "float64": torch.float64,
}

_FIRST_WITH_TF32 = (8, 0)
"""Compute capability of Ampere, the first with TF32 and bfloat16 units."""


def fastest_precision(device: torch.device) -> Precision:
    """bfloat16 where the device has matrix units for it, else float32.

    On CPUs these are AMX tiles: those without AVX512-BF16 are a hundred times slower in bfloat16 than in float32.
    """
    if device.type == "cuda":
        return "bfloat16" if _has_short_units(device) else "float32"
    return "bfloat16" if _has_amx() else "float32"


def lacks(device: torch.device, precision: Precision) -> str | None:
    """Why the device cannot score in this precision; None where it can."""
    if precision == "tf32" and device.type != "cuda":
        return (
            "tf32, which was asked for or which the table was begun in, is a format of GPUs: add some to the cluster, "
            "or set score.precision to float32, which makes a scoring of its own"
        )
    if precision == "tf32" and not _has_short_units(device):
        return "the cluster's GPUs have no TF32, which Ampere brought: use score.precision = float32"
    return None


def emulates(device: torch.device, precision: Precision) -> bool:
    """The device computes in this precision, but without units for it: ten to a hundred times slower."""
    return precision == "bfloat16" and fastest_precision(device) != "bfloat16"


@contextlib.contextmanager
def matrix_precision(precision: Precision) -> Iterator[None]:
    """Products of float32 on a GPU are in TF32 within the block if `precision` is no finer, and full float32 otherwise.

    With bfloat16 these are the encoder's.
    """
    allow = precision in ("tf32", "bfloat16")
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = allow
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=allow):
            yield
    finally:
        matmul.allow_tf32 = before


def _has_short_units(device: torch.device) -> bool:
    # A cluster may count GPUs that a process does not find: what loads a model says so better than this.
    return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= _FIRST_WITH_TF32


def _has_amx() -> bool:
    # torch names the check as private; a version without it computes in float32.
    check = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(check is not None and check())
