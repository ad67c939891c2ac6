"""Epochs over images that lie decoded in memory, by one worker or by several that share every batch.

Order, noise and weights are functions of (seed, epoch, image), never of the worker: several workers learn what one
learns, and a resumed run goes on as the interrupted one would have.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from skinvae.errors import TrainingError
from skinvae.model.noise import draw_noise
from skinvae.model.objective import Loss, Objective
from skinvae.model.precision import matrix_precision
from skinvae.model.vae import VAE, ModelSettings, to_unit_range
from skinvae.storage.checkpoints import load_checkpoint, save_checkpoint
from skinvae.training.batch_norm import synchronise_batch_norms
from skinvae.training.history import Row
from skinvae.training.images import ImageStore, epoch_order, global_batches, share_of
from skinvae.training.settings import TrainSettings

VALIDATION_STREAM = 0
"""The same draws in every epoch, so that epochs are compared on equal terms; epoch e trains on stream e >= 1."""

CHECK_STEPS = 50
"""How often workers look whether the losses are finite: each look waits for the GPU."""

_MAX_NAMES = 8

_Gathered = tuple[Tensor, Tensor, int]
"""uint8 pixels (B, H, W, 3), noise (B, K, D), and how many images all workers take in this step."""


class DivergedError(TrainingError):
    """A loss is not finite; the message names the batch."""


@dataclass(frozen=True)
class Batch:
    """One worker's share of a global batch, on its device."""

    x_BCHW: Tensor
    eps_BKD: Tensor
    num_global: int
    """Images of all workers."""


class TrainedModel(nn.Module):
    """The model and its objective as one module: images and noise -> loss."""

    def __init__(self, vae: VAE, settings: TrainSettings, *, device_type: str) -> None:
        super().__init__()
        self.vae = vae
        self.objective = Objective(settings)
        self._device_type = device_type
        self._is_short = settings.precision == "bfloat16"

    def forward(self, x_BCHW: Tensor, eps_BKD: Tensor) -> Loss:
        """x (B, 3, H, W) in [-1, 1], eps (B, K, D)."""
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._is_short):
            loss: Loss = self.objective(self.vae, x_BCHW, eps_BKD)
        return loss


class Trainer:
    """Trains on `images` in one process, beside the others of torch's default process group where there is one."""

    def __init__(
        self,
        model: ModelSettings,
        settings: TrainSettings,
        images: ImageStore,
        *,
        device: torch.device,
        tell: Callable[[int, int], None] = lambda num_images, epoch: None,
    ) -> None:
        self._settings = settings
        self._num_latents = model.num_latents
        self._images = images
        self._device = device
        self._tell = tell
        self.is_distributed = dist.is_initialized() and dist.get_world_size() > 1
        self.rank, self.num_workers = (dist.get_rank(), dist.get_world_size()) if self.is_distributed else (0, 1)
        torch.manual_seed(settings.seed)
        # Channels last: 1.3 times the steps per second on CPUs, and what tensor cores want.
        self._dtype = torch.float64 if settings.precision == "float64" else torch.float32
        vae = VAE(model).to(device, self._dtype).to(memory_format=torch.channels_last)
        if self.is_distributed:
            synchronise_batch_norms(vae, device=device)
        self.module = TrainedModel(vae, settings, device_type=device.type).to(device)
        if settings.compile:
            self.module.compile()
        self._parallel: nn.Module = (
            nn.parallel.DistributedDataParallel(self.module, device_ids=[device] if device.type == "cuda" else None)
            if self.is_distributed
            else self.module
        )
        self._optimizer = torch.optim.Adam(self.module.parameters(), lr=settings.learning_rate)
        self._input_seconds = 0.0
        """Of the pass under way: waiting for images and noise, while the device has nothing new to do."""
        self.history: list[Row] = []
        self.next_epoch = 1

    @property
    def vae(self) -> VAE:
        """The model as it is now."""
        return self.module.vae

    def save(self, folder: Path, *, epoch: int) -> None:
        """Write the state behind an epoch: `restore` goes on from it with the same results."""
        state = {"epoch": epoch, "history": self.history}
        save_checkpoint(folder, model=self.module, optimizer=self._optimizer, state=state)

    def restore(self, folder: Path) -> int:
        """Go on behind the epoch that was saved, which is returned."""
        state = load_checkpoint(folder, model=self.module, optimizer=self._optimizer)
        self.history = state["history"]
        self.next_epoch = state["epoch"] + 1
        epoch: int = state["epoch"]
        return epoch

    def run_epoch(self, epoch: int, train: NDArray[np.int64], validation: NDArray[np.int64]) -> tuple[Row, Row]:
        """Train on one part of the images, by index, validate on the other: both rows of the history.

        Raises DivergedError on all workers if a loss is not finite.
        """
        trained = self.train_epoch(epoch, train)
        return trained, self.validate(epoch, validation)

    def train_epoch(self, epoch: int, indices: NDArray[np.int64]) -> Row:
        """One pass over the images in the epoch's order."""
        started, self._input_seconds = time.perf_counter(), 0.0
        self._parallel.train()
        batches = global_batches(
            epoch_order(indices, seed=self._settings.seed, epoch=epoch), size=self._settings.batch_size
        )
        losses: list[Tensor] = []
        sums = torch.zeros(4, dtype=torch.float64, device=self._device)
        with matrix_precision("tf32" if self._settings.precision == "tf32" else "float32"):
            for step, batch in enumerate(self._prepared(batches, stream=epoch)):
                loss = self._step(batch)
                losses.append(loss.total.detach())
                sums += _weighted(loss, len(batch.x_BCHW))
                self._tell(batch.num_global, epoch)
                if (step + 1) % CHECK_STEPS == 0 or step + 1 == len(batches):
                    self._check(losses, batches, first=step + 1 - len(losses), what=f"epoch {epoch}")
                    losses.clear()
        means = self._means(sums)  # reads them, which waits for the device
        row: Row = {"epoch": epoch, "split": "train", **means, **self._mean_seconds(time.perf_counter() - started)}
        self.history.append(row)
        return row

    def validate(self, epoch: int, indices: NDArray[np.int64]) -> Row:
        """Mean losses of the images, with the same draws in every epoch."""
        self.module.eval()
        batches = global_batches(indices, size=self._settings.batch_size)
        losses: list[Tensor] = []
        sums = torch.zeros(4, dtype=torch.float64, device=self._device)
        with torch.inference_mode(), matrix_precision("float32"):
            for batch in self._prepared(batches, stream=VALIDATION_STREAM):
                # Of a few held-out images there may be none for this worker.
                if len(batch.x_BCHW):
                    loss = self.module(batch.x_BCHW, batch.eps_BKD)
                    sums += _weighted(loss, len(batch.x_BCHW))
                    losses.append(loss.total)
                else:
                    losses.append(sums.new_zeros(()))
        self._check(losses, batches, first=0, what=f"validation of epoch {epoch}")
        row: Row = {"epoch": epoch, "split": "validation", **self._means(sums)}
        self.history.append(row)
        return row

    def _step(self, batch: Batch) -> Loss:
        self._optimizer.zero_grad(set_to_none=True)
        loss: Loss = self._parallel(batch.x_BCHW, batch.eps_BKD)
        # Gradients are averaged over workers, whose shares may differ by an image: weigh by images, not by workers.
        weight = len(batch.x_BCHW) * self.num_workers / batch.num_global
        (loss.total * weight).backward()  # type: ignore[no-untyped-call]  # torch's omission
        if self._settings.clip_grad_norm:
            nn.utils.clip_grad_norm_(self.module.parameters(), self._settings.clip_grad_norm)
        self._optimizer.step()
        return loss

    def _prepared(self, batches: Iterable[NDArray[np.int64]], *, stream: int) -> Iterator[Batch]:
        """This worker's shares; the next one is gathered and its noise drawn while the device works."""
        with ThreadPoolExecutor(1) as pool:
            ahead: deque[Future[_Gathered]] = deque()
            for batch in batches:
                ahead.append(pool.submit(self._gathered, batch, stream))
                if len(ahead) > 1:
                    yield self._received(ahead.popleft())
            while ahead:
                yield self._received(ahead.popleft())

    def _received(self, gathered: Future[_Gathered]) -> Batch:
        started = time.perf_counter()
        pixels_BHWC, eps_BKD, num_global = gathered.result()
        x_BCHW = to_unit_range(pixels_BHWC.to(self._device)).to(self._dtype)
        batch = Batch(x_BCHW, eps_BKD.to(self._device, self._dtype), num_global)
        self._input_seconds += time.perf_counter() - started
        return batch

    def _gathered(self, batch: NDArray[np.int64], stream: int) -> _Gathered:
        own = share_of(batch, rank=self.rank, num_workers=self.num_workers)
        pixels_BHWC = self._images[own] if len(own) else np.empty((0, 1, 1, 3), np.uint8)
        eps_BKD = draw_noise(
            pixels_BHWC,
            seed=self._settings.seed,
            num_samples=self._settings.num_samples,
            num_latents=self._num_latents,
            stream=stream,
        )
        return torch.from_numpy(pixels_BHWC), torch.from_numpy(eps_BKD), len(batch)

    def _check(self, losses: list[Tensor], batches: list[NDArray[np.int64]], *, first: int, what: str) -> None:
        """Raises DivergedError, on all workers, for the first of the steps from `first` on whose loss is not finite."""
        finite = torch.isfinite(torch.stack([loss.float() for loss in losses]))
        bad = first + int(finite.logical_not().float().argmax()) if not bool(finite.all()) else len(batches)
        earliest = torch.tensor(bad, device=self._device)
        if self.is_distributed:
            dist.all_reduce(earliest, dist.ReduceOp.MIN)
        step = int(earliest)
        if step < len(batches):
            names = [self._images.names[index] for index in batches[step]]
            more = f" and {len(names) - _MAX_NAMES:,} more" if len(names) > _MAX_NAMES else ""
            raise DivergedError(
                f"the loss is no longer finite in {what}, step {step + 1:,} of {len(batches):,}, whose images are "
                f"{', '.join(names[:_MAX_NAMES])}{more}"
            )

    def _means(self, sums: Tensor) -> dict[str, float]:
        if self.is_distributed:
            dist.all_reduce(sums)
        total, reconst, kl, count = sums.tolist()
        return {
            "loss": total / count,
            "reconst": reconst / count,
            "kl": kl / count,
            "num_images": int(count),
            "sigma": self.module.objective.sigma,
            "num_workers": self.num_workers,
        }

    def _mean_seconds(self, seconds: float) -> dict[str, float]:
        """Of a pass and of what it waited for its input, means over the workers."""
        both = torch.tensor([seconds, self._input_seconds], dtype=torch.float64, device=self._device)
        if self.is_distributed:
            dist.all_reduce(both)
        seconds, input_seconds = (both / self.num_workers).tolist()
        return {"seconds": seconds, "input_seconds": input_seconds}


def _weighted(loss: Loss, count: int) -> Tensor:
    values = torch.stack([*loss]).detach().double() * count
    return torch.cat([values, values.new_tensor([count])])


def only_vae(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The VAE's own weights of a saved TrainedModel's."""
    prefix = "vae."
    return {name[len(prefix) :]: tensor for name, tensor in weights.items() if name.startswith(prefix)}
