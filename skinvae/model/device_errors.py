"""Errors behind which a process cannot go on scoring, by what torch calls them."""

from __future__ import annotations

import torch

_BROKEN_GPU = ("CUDA error", "cuDNN error", "cuDNN algorithm")
_CPU_MEMORY = "can't allocate memory"
"""torch's allocator for the CPU raises a plain RuntimeError that says so."""


def is_out_of_memory(error: BaseException) -> bool:
    """The machine's memory or the GPU's is too small for what was asked."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _CPU_MEMORY in str(error)
    )


def is_device_lost(error: BaseException) -> bool:
    """The GPU's context is broken: every later call of this process fails as well."""
    accelerator_error = getattr(torch, "AcceleratorError", None)  # since torch 2.8
    if accelerator_error is not None and isinstance(error, accelerator_error):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _BROKEN_GPU)
