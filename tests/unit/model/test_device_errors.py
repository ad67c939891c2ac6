"""Errors are told apart as torch words them: real ones where the CPU can make them."""

from __future__ import annotations

import pytest
import torch

from skinvae.model.device_errors import is_device_lost, is_out_of_memory


def test_torch_s_own_refusal_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
    assert not is_device_lost(raised.value)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")])
def test_no_memory_is_no_lost_device(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_device_lost(error)


def test_a_cuda_error_loses_the_device() -> None:
    error = RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...")
    assert is_device_lost(error)
    assert not is_out_of_memory(error)
    if hasattr(torch, "AcceleratorError"):
        assert is_device_lost(torch.AcceleratorError("device-side assert triggered"))


def test_a_mistake_of_ours_is_neither() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.zeros(2) + torch.zeros(3)
    assert not is_out_of_memory(raised.value)
    assert not is_device_lost(raised.value)
