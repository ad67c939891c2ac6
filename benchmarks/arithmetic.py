"""What arithmetic allows: the rate at which this machine multiplies matrices, and what the network asks of it."""

from __future__ import annotations

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from skinvae.model.precision import DTYPES, Precision, matrix_precision
from skinvae.model.vae import VAE, ModelSettings


def matrix_flops(
    *, threads: int, device: str = "cpu", precision: Precision = "float32", size: int = 2048, seconds: float = 1.0
) -> float:
    """Floating-point operations per second of the best square product: the most that convolutions can hope for."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    a, b = (torch.randn(size, size, device=device).to(DTYPES[precision]) for _ in range(2))
    with matrix_precision(precision):
        (a @ b).sum().item()
        best, ends = float("inf"), time.perf_counter() + seconds
        while best == float("inf") or time.perf_counter() < ends:
            started = time.perf_counter()
            # Read, so that a device which works asynchronously has done it.
            (a @ b)[0, 0].item()
            best = min(best, time.perf_counter() - started)
    torch.set_num_threads(num_threads)
    return 2 * size**3 / best


def forward_flops(settings: ModelSettings) -> tuple[float, float]:
    """Of one encode and of one decode of one image; a multiply-add is two."""
    model = VAE(settings).eval()
    counted = []
    with torch.no_grad():  # the counter sees nothing in inference mode
        for work in (
            lambda: model.encode(torch.zeros(1, 3, settings.image_size, settings.image_size)),
            lambda: model.decode(torch.zeros(1, settings.num_latents)),
        ):
            with FlopCounterMode(display=False) as counter:
                work()
            counted.append(float(counter.get_total_flops()))
    encode, decode = counted
    assert encode > 0
    assert decode > 0
    return encode, decode
