"""The end of the decoder: by hand, and the GPU's kernel against the plain way."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

from skinvae.model.squared_error import squared_errors

INTERPRETED = textwrap.dedent(
    """
    import torch
    from skinvae.model.squared_error import squared_errors

    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        for num_images, num_draws, channels, size in ((2, 3, 12, 16), (1, 1, 12, 5), (3, 1, 3, 32)):
            raw = (3 * torch.randn(num_images * num_draws, channels, size, size)).to(dtype)
            raw = raw.contiguous(memory_format=torch.channels_last)
            target = torch.rand(num_images, channels, size, size) * 2 - 1
            target = target.contiguous(memory_format=torch.channels_last)
            plain, fused = (squared_errors(raw, target, way=way) for way in ("plain", "triton"))
            assert fused.dtype == torch.float64
            torch.testing.assert_close(fused, plain, rtol=1e-6, atol=0)
            assert (plain[0] != plain[-1]) or len(plain) == 1
    print("equal")
    """
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_it_is_the_distance_from_the_image_each_draw_belongs_to(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    raw, target = torch.randn(6, 3, 4, 4).to(dtype), torch.rand(2, 3, 4, 4).double() * 2 - 1
    found = squared_errors(raw, target)
    assert found.dtype == torch.float64
    for draw in range(6):
        expected = (raw[draw].double().tanh() - target[draw // 3]).square().sum()
        assert float(found[draw]) == pytest.approx(float(expected), rel=1e-6)


def test_the_kernel_is_the_plain_way() -> None:
    """In Triton's interpreter, which runs the kernel's own code on the CPU; tests/gpu/ runs it compiled."""
    pytest.importorskip("triton", reason="needs Triton, which torch brings along on Linux")
    environment = {"TRITON_INTERPRET": "1", "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "equal", done.stderr[-2000:]
