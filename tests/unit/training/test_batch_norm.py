"""Batch norm over workers is that of one worker that has all their images: outputs, gradients, running statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from skinvae.model.vae import VAE, ModelSettings
from skinvae.training.batch_norm import SynchronisedBatchNorm2d, synchronise_batch_norms
from tests.unit.training.workers import run_workers

SIZES = {1: [7], 2: [4, 3], 3: [3, 3, 1]}


def everything(batch_norm: nn.Module, x_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a batch norm computes of a batch, whose loss weighs every output otherwise."""
    x_BCHW = x_BCHW.clone().requires_grad_()
    y_BCHW = batch_norm(x_BCHW)
    (
        y_BCHW.square() * torch.linspace(0.5, 2, y_BCHW[0].numel(), dtype=y_BCHW.dtype).view(y_BCHW[0].shape)
    ).sum().backward()
    assert x_BCHW.grad is not None
    return {
        "output": y_BCHW.detach(),
        "gradient": x_BCHW.grad,
        **{name: parameter.grad for name, parameter in batch_norm.named_parameters() if parameter.grad is not None},
        **{name: buffer.detach().clone() for name, buffer in batch_norm.named_buffers()},
    }


def made(*, seed: int = 0) -> tuple[nn.BatchNorm2d, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    batch_norm = nn.BatchNorm2d(5).double()
    with torch.no_grad():
        for parameter in batch_norm.parameters():
            parameter.copy_(torch.randn(5, generator=rng))
    # A mean far from zero: the variance's digits must not go lost in it.
    return batch_norm, torch.randn(7, 5, 4, 6, generator=rng, dtype=torch.float64) + 1000


def worker(rank: int, num_workers: int) -> dict[str, Any]:
    batch_norm, x_BCHW = made()
    own = x_BCHW.split(SIZES[num_workers])[rank]
    holder = nn.Sequential(batch_norm)
    synchronise_batch_norms(holder, device=torch.device("cpu"))
    assert type(holder[0]) is SynchronisedBatchNorm2d
    found = everything(holder[0], own)
    for name in ("weight", "bias"):
        dist.all_reduce(found[name])  # as DistributedDataParallel does
    return found


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_workers_together_compute_what_one_does(num_workers: int, tmp_path: Path) -> None:
    expected = everything(*made())
    found = run_workers(worker, num_workers, folder=tmp_path)
    for name in ("output", "gradient"):
        together = torch.cat([one[name] for one in found])
        torch.testing.assert_close(together, expected[name], rtol=1e-9, atol=1e-9)
    for one in found:
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(one[name], expected[name], rtol=1e-10, atol=1e-12)


def test_every_batch_norm_is_replaced_and_names_and_weights_stay() -> None:
    model = VAE(ModelSettings(image_size=32, base_channels=4, num_latents=3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    synchronise_batch_norms(model, device=torch.device("cpu"))
    kinds = {type(one) for one in model.modules() if isinstance(one, nn.BatchNorm2d)}
    assert kinds == {SynchronisedBatchNorm2d}
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
